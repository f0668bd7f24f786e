//! Gives a request's body back while it arrives, as fast as a handler can: `/` through the guest's memory, `/splice` from stream
//! to stream in the host.
//!
//! With the feature `message` it takes messages too: it reads their payload and does nothing with it. It imports wasi:messaging
//! then, which not every host has.

use wasip2::exports::http::incoming_handler::Guest as HttpHandler;
use wasip2::http::types::{
    Fields, IncomingBody, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam,
};
use wasip2::io::streams::{InputStream, OutputStream, StreamError};

struct Echo;

wasip2::http::proxy::export!(Echo);

#[cfg(feature = "message")]
mod message {
    wit_bindgen::generate!({
        path: "../../../wit",
        inline: r#"
            package dunlin:echo;
            world echo {
                export wasi:messaging/incoming-handler@0.2.0-draft;
            }
        "#,
        generate_all,
    });

    use exports::wasi::messaging::incoming_handler::Guest;
    use wasi::messaging::types::{Error, Message};

    export!(Echo);
    use super::Echo;

    impl Guest for Echo {
        fn handle(message: Message) -> Result<(), Error> {
            if message.data().is_empty() { Err(Error::Other("an empty message".into())) } else { Ok(()) }
        }
    }
}

const MOST: u64 = 64 * 1024;

impl HttpHandler for Echo {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let path = request.path_with_query().unwrap_or_default();
        let body = request.consume().expect("take request body");
        let from = body.stream().expect("take request stream");
        let response = OutgoingResponse::new(Fields::new());
        let answer = response.body().expect("take body");
        ResponseOutparam::set(out, Ok(response));
        let to = answer.write().expect("take stream");
        if path.ends_with("/splice") {
            splice(&from, &to);
        } else {
            copy(&from, &to);
        }
        drop((from, to));
        IncomingBody::finish(body);
        OutgoingBody::finish(answer, None).expect("finish body");
    }
}

fn copy(from: &InputStream, to: &OutputStream) {
    while let Some(chunk) = more(from.blocking_read(MOST)) {
        let mut rest = &chunk[..];
        while !rest.is_empty() {
            let room = to.check_write().expect("ask for room");
            if room == 0 {
                to.subscribe().block();
                continue;
            }
            let (now, later) = rest.split_at(rest.len().min(room as usize));
            to.write(now).expect("write");
            rest = later;
        }
    }
}

fn splice(from: &InputStream, to: &OutputStream) {
    while more(to.blocking_splice(from, MOST)).is_some() {}
}

/// What a stream gave; none at its end.
fn more<T>(read: Result<T, StreamError>) -> Option<T> {
    match read {
        Err(StreamError::Closed) => None,
        other => Some(other.expect("read")),
    }
}
