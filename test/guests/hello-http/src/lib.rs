//! The small handler of all benchmarks: says hello, echoes a body, lists the headers it was sent.

use std::io::{self, Write};

use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{
    Fields, IncomingRequest, Method, OutgoingBody, OutgoingResponse, ResponseOutparam,
};

struct Hello;

wasip2::http::proxy::export!(Hello);

impl Guest for Hello {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let path = request.path_with_query().unwrap_or_default();
        let result = match (request.method(), path.split('?').next().unwrap_or_default()) {
            (Method::Get, "/") => respond(out, 200, |body| body.write_all(b"Hello World!")),
            (Method::Post | Method::Put, "/echo") => respond(out, 200, |body| echo(&request, body)),
            (Method::Get, "/headers") => respond(out, 200, |body| headers(&request, body)),
            (_, "/" | "/echo" | "/headers") => respond(out, 405, |body| body.write_all(b"wrong method\n")),
            _ => respond(out, 404, |body| body.write_all(b"not found\n")),
        };
        // The status is sent by now; a body that can't be written ends in a trap, which cuts the response off.
        result.expect("write body");
    }
}

/// Sends the status, then what `write` writes.
fn respond(
    out: ResponseOutparam,
    status: u16,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let headers = [("content-type".to_string(), b"text/plain".to_vec())];
    let response = OutgoingResponse::new(Fields::from_list(&headers).expect("make headers"));
    response.set_status_code(status).expect("set status");
    let body = response.body().expect("take body");
    ResponseOutparam::set(out, Ok(response));
    let mut stream = body.write().expect("take stream");
    write(&mut stream)?;
    drop(stream);
    OutgoingBody::finish(body, None).map_err(io::Error::other)
}

/// Chunk by chunk, so that a body may be larger than the guest's memory.
fn echo(request: &IncomingRequest, to: &mut dyn Write) -> io::Result<()> {
    let body = request.consume().expect("take request body");
    let mut from = body.stream().expect("take request stream");
    io::copy(&mut from, to).map(|_| ())
}

fn headers(request: &IncomingRequest, to: &mut dyn Write) -> io::Result<()> {
    for (name, value) in request.headers().entries() {
        to.write_all(name.as_bytes())?;
        to.write_all(b": ")?;
        to.write_all(&value)?;
        to.write_all(b"\n")?;
    }
    Ok(())
}
