#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "handler.h"

#define LIMIT 30

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

static bool publish(handler_string_t topic, handler_string_t text, wasi_messaging_types_error_t *error) {
	handler_string_t name = print("default");
	handler_list_u8_t data = {text.ptr, text.len};
	wasi_messaging_types_own_client_t client;
	return wasi_messaging_types_static_client_connect(&name, &client, error) &&
	       wasi_messaging_producer_send(wasi_messaging_types_borrow_client(client), &topic,
	                                    wasi_messaging_types_constructor_message(&data), error);
}

static bool fail(wasi_messaging_types_error_t *error, handler_string_t why) {
	error->tag = WASI_MESSAGING_TYPES_ERROR_OTHER;
	error->val.other = why;
	return false;
}

/* Called for each message. What it counts and publishes takes effect when it returns true; an error undoes it, and the
   message is tried again. The instance ends with the event, so nothing is freed. */
bool exports_wasi_messaging_incoming_handler_handle(exports_wasi_messaging_incoming_handler_own_message_t message,
                                                    exports_wasi_messaging_incoming_handler_error_t *error) {
	wasi_messaging_types_borrow_message_t m = wasi_messaging_types_borrow_message(message);
	handler_string_t topic = {0};
	handler_list_u8_t data;
	wasi_messaging_types_method_message_topic(m, &topic);
	wasi_messaging_types_method_message_data(m, &data);

	char *text = (char *)print("%.*s", (int)data.len, data.ptr).ptr, *end;
	double value = strtod(text, &end);
	if (end == text || *end != '\0') return fail(error, print("read \"%s\": not a number", text));
	if (value <= LIMIT) return true;

	int64_t alerts;
	if (!count("alerts", &alerts)) return fail(error, print("count: the store \"default\" refused"));
	return publish(print("alerts/%.*s", (int)topic.len, topic.ptr),
	               print("%s is above %d, alert %lld", text, LIMIT, (long long)alerts), error);
}
