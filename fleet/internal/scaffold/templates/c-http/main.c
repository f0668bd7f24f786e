#include <stdlib.h>
#include <string.h>

#include "handler.h"

static handler_list_u8_t bytes(const char *text, size_t size) { return (handler_list_u8_t){(uint8_t *)text, size}; }

/* A stream takes at most this many bytes in a call. */
enum { CHUNK = 4096 };

/* What can't be answered ends in a trap, and is a 500 to the client. */
static void must(bool ok) {
	if (!ok) abort();
}

static void respond(wasi_http_types_own_response_outparam_t out, uint16_t status, const char *text) {
	wasi_http_types_own_outgoing_response_t response =
		wasi_http_types_constructor_outgoing_response(wasi_http_types_constructor_fields());
	wasi_http_types_borrow_outgoing_response_t r = wasi_http_types_borrow_outgoing_response(response);
	wasi_http_types_own_outgoing_body_t body;
	wasi_http_types_own_output_stream_t stream;
	must(wasi_http_types_method_outgoing_response_set_status_code(r, status));
	must(wasi_http_types_method_outgoing_response_body(r, &body));

	wasi_http_types_result_own_outgoing_response_error_code_t answer = {.is_err = false, .val.ok = response};
	wasi_http_types_static_response_outparam_set(out, &answer);

	must(wasi_http_types_method_outgoing_body_write(wasi_http_types_borrow_outgoing_body(body), &stream));
	for (size_t at = 0, size = strlen(text); at < size; at += CHUNK) {
		handler_list_u8_t part = bytes(text + at, size - at < CHUNK ? size - at : CHUNK);
		wasi_io_streams_stream_error_t error;
		must(wasi_io_streams_method_output_stream_blocking_write_and_flush(wasi_io_streams_borrow_output_stream(stream), &part, &error));
	}
	wasi_io_streams_output_stream_drop_own(stream);
	wasi_http_types_error_code_t error;
	must(wasi_http_types_static_outgoing_body_finish(body, NULL, &error));
}

void exports_wasi_http_incoming_handler_handle(exports_wasi_http_incoming_handler_own_incoming_request_t request,
                                               exports_wasi_http_incoming_handler_own_response_outparam_t out) {
	wasi_http_types_incoming_request_drop_own(request);
	respond(out, 200, "Hello World!");
}
