//! What a test looks at from outside: requests as the handler sees them, and responses of every kind. Paths that a test
//! names with what the handler does.

use crate::outbound::{answer as answer_of, read_all, write_all};
use crate::wasi::clocks::monotonic_clock::subscribe_duration;
use crate::wasi::http::outgoing_handler::handle as send;
use crate::wasi::http::types::{
    ErrorCode, Fields, FutureIncomingResponse, IncomingBody, IncomingRequest, Method, OutgoingBody, OutgoingRequest, OutgoingResponse,
    ResponseOutparam, Scheme,
};
use crate::wasi::io::poll::poll;
use crate::wasi::io::streams::{InputStream, OutputStream, StreamError};

pub fn answer(out: ResponseOutparam, status: u16, text: &str) {
    let (body, stream) = start(out, status, &[]);
    write_all(&stream, text.as_bytes()).expect("write body");
    drop(stream);
    OutgoingBody::finish(body, None).expect("finish body");
}

fn start(out: ResponseOutparam, status: u16, headers: &[(&str, &str)]) -> (OutgoingBody, OutputStream) {
    let response = OutgoingResponse::new(Fields::from_list(&crate::fields::pairs(headers)).expect("make headers"));
    response.set_status_code(status).expect("set status");
    let body = response.body().expect("take body");
    ResponseOutparam::set(out, Ok(response));
    let stream = body.write().expect("take stream");
    (body, stream)
}

pub fn handle(request: IncomingRequest, path: &str, query: &str, out: ResponseOutparam) {
    match path.trim_start_matches('/').split('/').next().unwrap_or_default() {
        "see" => see(&request, out),
        "echo" => {
            let body = request.consume().expect("take request");
            let from = body.stream().expect("take stream");
            let (to_body, to) = start(out, 200, &[]);
            pump(&from, &to);
            drop((from, to));
            OutgoingBody::finish(to_body, None).expect("finish body");
        }
        "double-echo" => double_echo(&request, query, out),
        "hash-all" => hash_all(&request, out),
        "body-error" => {
            let body = request.consume().expect("take request");
            let (all, error) = read_all(&body.stream().expect("take stream"));
            answer(out, 200, &format!("{} {error:?}\n", all.len()));
        }
        "trailers-in" => trailers_in(&request, out),
        "trailers-out" => {
            let (body, stream) = start(out, 200, &[]);
            write_all(&stream, b"hello").expect("write body");
            drop(stream);
            let trailers = Fields::from_list(&crate::fields::pairs(&[("x-sum", "42"), ("x-more", "a"), ("x-more", "b")]));
            OutgoingBody::finish(body, Some(trailers.expect("make trailers"))).expect("finish body");
        }
        "status" => {
            let response = OutgoingResponse::new(Fields::new());
            let status = path.rsplit('/').next().and_then(|s| s.parse().ok()).unwrap_or(0);
            response.set_status_code(status).expect("set status");
            ResponseOutparam::set(out, Ok(response));
        }
        // Headers of the query: name=value&name=value; then as many bytes of body as the path says.
        "respond" => {
            let headers: Vec<_> = query.split('&').filter_map(|p| p.split_once('=')).collect();
            let (body, stream) = start(out, 200, &headers);
            let n: usize = path.rsplit('/').next().and_then(|n| n.parse().ok()).unwrap_or(0);
            let written = write_all(&stream, &vec![b'x'; n]);
            drop(stream);
            let _ = written.map(|()| OutgoingBody::finish(body, None));
        }
        // A part a request for it, for as long as anybody listens.
        "events" => {
            let (body, stream) = start(out, 200, &[("content-type", "text/event-stream")]);
            let mut n = 0;
            while stream.blocking_write_and_flush(format!("data: {n}\n\n").as_bytes()).is_ok() {
                n += 1;
                subscribe_duration(20_000_000).block();
            }
            drop(stream);
            drop(body);
        }
        // Writes until it is told to wait, then says on stderr that a timer was heard.
        "flood" => flood(out),
        "informational" => {
            let hints = Fields::from_list(&crate::fields::pairs(&[("link", "</style.css>; rel=preload")])).expect("make headers");
            let result = out.send_informational(103, hints);
            let switch = out.send_informational(101, Fields::new());
            let no_such = out.send_informational(200, Fields::new());
            answer(out, 200, &format!("{result:?} {} {}\n", switch.is_err(), no_such.is_err()));
        }
        "error" => ResponseOutparam::set(out, Err(ErrorCode::InternalError(Some("as told".into())))),
        "error-loop" => ResponseOutparam::set(out, Err(ErrorCode::LoopDetected)),
        "never" => drop(out),
        "early-drop" => {
            // Errors are no matter here: the client is gone.
            let (body, stream) = start(out, 200, &[]);
            for _ in 0..10_000 {
                let _ = stream.blocking_write_and_flush(&[b'x'; 4096]).is_err_and(|e| matches!(e, StreamError::Closed));
            }
            drop(stream);
            let _ = OutgoingBody::finish(body, None);
        }
        "unread" => answer(out, 200, "not read\n"),
        "no-body-taken" => ResponseOutparam::set(out, Ok(OutgoingResponse::new(Fields::new()))),
        "body-after-set" => {
            let response = OutgoingResponse::new(Fields::new());
            let body = response.body().expect("take body");
            let stream = body.write().expect("take stream");
            write_all(&stream, b"before ").expect("write body");
            ResponseOutparam::set(out, Ok(response));
            write_all(&stream, b"after").expect("write body");
            drop(stream);
            OutgoingBody::finish(body, None).expect("finish body");
        }
        "finished-before-set" => {
            let response = OutgoingResponse::new(Fields::new());
            let body = response.body().expect("take body");
            write_all(&body.write().expect("take stream"), b"all of it").expect("write body");
            OutgoingBody::finish(body, None).expect("finish body");
            ResponseOutparam::set(out, Ok(response));
        }
        "dropped-before-set" => {
            let response = OutgoingResponse::new(Fields::new());
            drop(response.body());
            ResponseOutparam::set(out, Ok(response));
        }
        _ => answer(out, 404, "no such path\n"),
    }
}

/// The request as it is seen here, a line each.
fn see(request: &IncomingRequest, out: ResponseOutparam) {
    let method = match request.method() {
        Method::Other(m) => format!("other {m}"),
        m => format!("{m:?}").rsplit(':').next().unwrap_or_default().to_lowercase(),
    };
    let scheme = request.scheme().map(|s| format!("{s:?}")).unwrap_or_default();
    let headers = request.headers();
    let immutable = crate::fields::immutable(request.headers()).err().unwrap_or_else(|| "immutable".into());
    let again = request.consume().is_ok() && request.consume().is_err();
    let mut text = format!(
        "method {method}\nscheme {}\nauthority {}\npath {}\nheaders {immutable}\nconsumed once {again}\n",
        scheme.rsplit(':').next().unwrap_or_default(),
        request.authority().unwrap_or_default(),
        request.path_with_query().unwrap_or_default(),
    );
    for (name, value) in headers.entries() {
        text += &format!("{name}: {}\n", value.escape_ascii());
    }
    answer(out, 200, &text);
}

/// Copies without blocking in either: whatever is not ready is waited for.
fn pump(from: &InputStream, to: &OutputStream) {
    let (readable, writable) = (from.subscribe(), to.subscribe());
    loop {
        let chunk = match from.read(16 << 10) {
            Ok(chunk) if chunk.is_empty() => {
                poll(&[&readable]);
                continue;
            }
            Ok(chunk) => chunk,
            Err(StreamError::Closed) => break,
            Err(e) => panic!("read: {e:?}"),
        };
        let mut rest = &chunk[..];
        while !rest.is_empty() {
            match to.check_write().expect("check write") as usize {
                0 => drop(poll(&[&writable])),
                n => {
                    let n = n.min(rest.len());
                    to.write(&rest[..n]).expect("write");
                    rest = &rest[n..];
                }
            }
        }
        to.flush().expect("flush");
    }
    to.blocking_flush().expect("flush");
}

fn outgoing(method: Method, url: &str) -> OutgoingRequest {
    let (authority, path) = url.trim_start_matches("http://").split_once('/').unwrap_or((url, ""));
    let r = OutgoingRequest::new(Fields::new());
    r.set_method(&method).expect("set method");
    r.set_scheme(Some(&Scheme::Http)).expect("set scheme");
    r.set_authority(Some(authority)).expect("set authority");
    r.set_path_with_query(Some(&format!("/{path}"))).expect("set path");
    r
}

/// Sends the request on, and its answer back, both while they arrive.
fn double_echo(request: &IncomingRequest, url: &str, out: ResponseOutparam) {
    let r = outgoing(Method::Post, url);
    let up = r.body().expect("take body");
    let future = match send(r, None) {
        Ok(future) => future,
        Err(e) => return answer(out, 502, &format!("{e:?}\n")),
    };
    let body = request.consume().expect("take request");
    let (from, to) = (body.stream().expect("take stream"), up.write().expect("take stream"));
    // Both directions at once: what comes back does not wait for the end of what goes.
    let mut sending = Some((from, to, up));
    let mut back: Option<(InputStream, IncomingBody, OutputStream, OutgoingBody)> = None;
    let mut out = Some(out);
    loop {
        if back.is_none() && future.subscribe().ready() {
            let resp = answer_of(&future).expect("get answer");
            let (to_body, to) = start(out.take().expect("answer once"), resp.status(), &[]);
            let body = resp.consume().expect("take answer");
            back = Some((body.stream().expect("take stream"), body, to, to_body));
        }
        let mut moved = false;
        if let Some((from, to, _)) = &sending {
            match to.splice(from, 16 << 10) {
                Ok(n) => moved |= n > 0,
                Err(StreamError::Closed) => {
                    let (from, to, up) = sending.take().expect("it is there");
                    to.blocking_flush().expect("flush");
                    drop((from, to));
                    OutgoingBody::finish(up, None).expect("finish request");
                    moved = true;
                }
                Err(e) => panic!("send on: {e:?}"),
            }
        }
        if let Some((from, _, to, _)) = &back {
            match to.splice(from, 16 << 10) {
                Ok(n) => moved |= n > 0,
                Err(StreamError::Closed) => break,
                Err(e) => panic!("send back: {e:?}"),
            }
        }
        if moved {
            continue;
        }
        let mut waits = Vec::new();
        if let Some((from, ..)) = &sending {
            waits.push(from.subscribe());
        }
        match &back {
            Some((from, ..)) => waits.push(from.subscribe()),
            None => waits.push(future.subscribe()),
        }
        // A sink that is full is looked at again soon.
        waits.push(subscribe_duration(5_000_000));
        poll(&waits.iter().collect::<Vec<_>>());
    }
    let (from, body, to, to_body) = back.take().expect("it is there");
    drop((from, body, to));
    OutgoingBody::finish(to_body, None).expect("finish body");
}

/// Fetches every "url" header at once, and tells the FNV-1a of each body as it comes.
fn hash_all(request: &IncomingRequest, out: ResponseOutparam) {
    let urls: Vec<_> = request.headers().get("url").iter().map(|u| String::from_utf8_lossy(u).into_owned()).collect();
    let (body, stream) = start(out, 200, &[("content-type", "text/plain")]);
    let mut open: Vec<(String, FutureIncomingResponse)> = Vec::new();
    for url in urls {
        match send(outgoing(Method::Get, &url), None) {
            Ok(future) => open.push((url, future)),
            Err(e) => write_all(&stream, format!("{url}: {e:?}\n").as_bytes()).expect("write body"),
        }
    }
    while !open.is_empty() {
        let waits: Vec<_> = open.iter().map(|(_, f)| f.subscribe()).collect();
        let first = poll(&waits.iter().collect::<Vec<_>>())[0] as usize;
        drop(waits);
        let (url, future) = open.remove(first);
        let line = match answer_of(&future) {
            Ok(resp) => {
                let body = resp.consume().expect("take answer");
                let (all, _) = read_all(&body.stream().expect("take stream"));
                let hash = all.iter().fold(0xcbf29ce484222325u64, |h, &b| (h ^ b as u64).wrapping_mul(0x100000001b3));
                format!("{url}: {hash:016x}\n")
            }
            Err(e) => format!("{url}: {e:?}\n"),
        };
        write_all(&stream, line.as_bytes()).expect("write body");
    }
    drop(stream);
    OutgoingBody::finish(body, None).expect("finish body");
}

fn trailers_in(request: &IncomingRequest, out: ResponseOutparam) {
    let body = request.consume().expect("take request");
    let (all, _) = read_all(&body.stream().expect("take stream"));
    let trailers = IncomingBody::finish(body);
    trailers.subscribe().block();
    let mut text = format!("{} bytes\n", all.len());
    match trailers.get() {
        Some(Ok(Ok(Some(fields)))) => {
            for (name, value) in fields.entries() {
                text += &format!("{name}: {}\n", value.escape_ascii());
            }
        }
        other => text += &format!("{other:?}\n"),
    }
    answer(out, 200, &text);
}

fn flood(out: ResponseOutparam) {
    let (body, stream) = start(out, 200, &[]);
    let room = stream.subscribe();
    for written in 0.. {
        let ready = poll(&[&subscribe_duration(200_000_000), &room]);
        if !ready.contains(&1) {
            let line = format!("told to wait after {written} writes\n");
            let _ = crate::wasi::cli::stderr::get_stderr().blocking_write_and_flush(line.as_bytes());
            break;
        }
        let n = stream.check_write().expect("check write");
        stream.write(&vec![b'x'; n as usize]).expect("write");
    }
    drop(stream);
    OutgoingBody::finish(body, None).expect("finish body");
}
