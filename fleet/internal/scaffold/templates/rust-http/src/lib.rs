wit_bindgen::generate!({ world: "handler", generate_all });

use exports::wasi::http::incoming_handler::Guest;
use wasi::http::types::{Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam};

struct Handler;

export!(Handler);

impl Guest for Handler {
    fn handle(_request: IncomingRequest, out: ResponseOutparam) {
        respond(out, 200, b"Hello World!");
    }
}

fn respond(out: ResponseOutparam, status: u16, text: &[u8]) {
    let headers = [("content-type".to_string(), b"text/plain".to_vec())];
    let response = OutgoingResponse::new(Fields::from_list(&headers).expect("make headers"));
    response.set_status_code(status).expect("set status");
    let body = response.body().expect("take body");
    ResponseOutparam::set(out, Ok(response));
    let stream = body.write().expect("take stream");
    // A stream takes at most this many bytes in a call.
    for chunk in text.chunks(4096) {
        stream.blocking_write_and_flush(chunk).expect("write body");
    }
    drop(stream);
    OutgoingBody::finish(body, None).expect("finish body");
}
