#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "handler.h"

/* print is an allocated string. */
static handler_string_t print(const char *format, ...) {
	char *text = NULL;
	va_list args;
	va_start(args, format);
	int size = vasprintf(&text, format, args);
	va_end(args);
	if (size < 0) abort();
	return (handler_string_t){(uint8_t *)text, size};
}

static bool count(const char *key, int64_t *n) {
	handler_string_t store = print("default"), k = print("%s", key);
	wasi_keyvalue_store_own_bucket_t bucket;
	wasi_keyvalue_store_error_t error;
	return wasi_keyvalue_store_open(&store, &bucket, &error) &&
	       wasi_keyvalue_atomics_increment(wasi_keyvalue_store_borrow_bucket(bucket), &k, 1, n, &error);
}

static bool publish(handler_string_t topic, handler_string_t text) {
	handler_string_t name = print("default");
	handler_list_u8_t data = {text.ptr, text.len};
	wasi_messaging_types_own_client_t client;
	wasi_messaging_types_error_t error;
	return wasi_messaging_types_static_client_connect(&name, &client, &error) &&
	       wasi_messaging_producer_send(wasi_messaging_types_borrow_client(client), &topic,
	                                    wasi_messaging_types_constructor_message(&data), &error);
}

static bool fail(handler_string_t *error, const char *why) {
	*error = print("%s", why);
	return false;
}

/* Called for each tick. What it counts and publishes takes effect when it returns true; an error undoes it, and the tick is
   tried again. The instance ends with the event, so nothing is freed. */
bool exports_dunlin_timer_handler_handle(exports_dunlin_timer_handler_tick_t *tick, handler_string_t *error) {
	int64_t n;
	if (!count("ticks", &n)) return fail(error, "count: the store \"default\" refused");
	if (!publish(print("ticks"), print("%.*s %lld", (int)tick->timer.len, tick->timer.ptr, (long long)n)))
		return fail(error, "publish: refused");
	return true;
}
