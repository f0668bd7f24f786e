//! wasi:http/outgoing-handler with a server that does as it is told. Its answer to every path but those of its own: the request's
//! method in x-method, its target in x-target, its length in x-length, and its body.

use crate::wasi::clocks::monotonic_clock::subscribe_duration;
use crate::wasi::http::outgoing_handler::handle;
use crate::wasi::http::types::{
    ErrorCode, Fields, FutureIncomingResponse, IncomingBody, IncomingResponse, Method, OutgoingBody, OutgoingRequest, RequestOptions,
    Scheme,
};
use crate::wasi::io::poll::poll;
use crate::wasi::io::streams::{InputStream, OutputStream, StreamError};
use crate::{Case, Outcome, check, check_matches};

pub fn request(method: Method, authority: &str, path: &str, headers: &[(&str, &str)]) -> Result<OutgoingRequest, String> {
    let headers = Fields::from_list(&crate::fields::pairs(headers)).map_err(|e| format!("{e:?}"))?;
    let r = OutgoingRequest::new(headers);
    let set = r.set_method(&method).and_then(|()| r.set_scheme(Some(&Scheme::Http)));
    set.and_then(|()| r.set_authority(Some(authority)))
        .and_then(|()| r.set_path_with_query(Some(path)))
        .map_err(|()| format!("{method:?} {authority}{path} can't be set"))?;
    Ok(r)
}

/// Waits for the answer.
pub fn answer(future: &FutureIncomingResponse) -> Result<IncomingResponse, ErrorCode> {
    future.subscribe().block();
    match future.get() {
        Some(Ok(answer)) => answer,
        other => Err(ErrorCode::InternalError(Some(format!("the future gives {other:?}")))),
    }
}

pub fn send(r: OutgoingRequest, options: Option<RequestOptions>) -> Result<IncomingResponse, ErrorCode> {
    answer(&handle(r, options)?)
}

pub fn write_all(to: &OutputStream, mut bytes: &[u8]) -> Result<(), StreamError> {
    let ready = to.subscribe();
    while !bytes.is_empty() {
        ready.block();
        let n = (to.check_write()? as usize).min(bytes.len());
        to.write(&bytes[..n])?;
        bytes = &bytes[n..];
    }
    to.blocking_flush()
}

/// All of a body, and the error at its end, if it is no proper one.
pub fn read_all(from: &InputStream) -> (Vec<u8>, Option<Option<ErrorCode>>) {
    let mut all = Vec::new();
    loop {
        match from.blocking_read(1 << 20) {
            Ok(part) => all.extend(part),
            Err(StreamError::Closed) => return (all, None),
            Err(StreamError::LastOperationFailed(e)) => return (all, Some(crate::wasi::http::types::http_error_code(&e))),
        }
    }
}

pub fn body_of(r: &IncomingResponse) -> Result<Vec<u8>, String> {
    let body = r.consume().map_err(|_| "the body was consumed before")?;
    let stream = body.stream().map_err(|_| "the stream was given before")?;
    match read_all(&stream) {
        (all, None) => Ok(all),
        (all, Some(e)) => Err(format!("after {} bytes: {e:?}", all.len())),
    }
}

pub fn header(r: &IncomingResponse, name: &str) -> String {
    r.headers().get(name).iter().map(|v| String::from_utf8_lossy(v).into_owned()).collect::<Vec<_>>().join("|")
}

/// Sends a body in whole, before or after the request itself.
fn upload(method: Method, authority: &str, path: &str, headers: &[(&str, &str)], body: &[u8], early: bool) -> Result<IncomingResponse, String> {
    let r = request(method, authority, path, headers)?;
    let out = r.body().map_err(|_| "no body")?;
    let write = |out: OutgoingBody| -> Outcome {
        let stream = out.write().map_err(|_| "no stream")?;
        write_all(&stream, body).map_err(|e| format!("write body: {e:?}"))?;
        drop(stream);
        OutgoingBody::finish(out, None).map_err(|e| format!("finish body: {e:?}"))
    };
    let future;
    if early {
        write(out)?;
        future = handle(r, None);
    } else {
        future = handle(r, None);
        write(out)?;
    }
    answer(&future.map_err(|e| format!("{e:?}"))?).map_err(|e| format!("{e:?}"))
}

fn uploaded(method: Method, name: &str, peer: &str, headers: &[(&str, &str)], body: &[u8], early: bool, length: &str) -> Outcome {
    let resp = upload(method, peer, "/upload?q=1", headers, body, early)?;
    check!(resp.status() == 200, "status {}", resp.status());
    check!(header(&resp, "x-method") == name, "the server saw {}", header(&resp, "x-method"));
    check!(header(&resp, "x-target") == "/upload?q=1", "the server saw {}", header(&resp, "x-target"));
    check!(header(&resp, "x-length") == length, "the server saw a length of {}", header(&resp, "x-length"));
    check!(body_of(&resp)? == body, "another body came back");
    Ok(())
}

pub const CASES: &[Case] = &[
    ("http-outgoing/get", |peers| {
        let r = request(Method::Get, peers.get("echo")?, "/get?some=arg&goes=here", &[("x-mine", "yes")])?;
        let resp = send(r, None).map_err(|e| format!("{e:?}"))?;
        check!(resp.status() == 200, "status {}", resp.status());
        check!(header(&resp, "x-method") == "GET" && header(&resp, "x-target") == "/get?some=arg&goes=here", "{:?}", resp.headers().entries());
        check!(header(&resp, "x-saw-x-mine") == "yes" && header(&resp, "x-saw-user-agent").is_empty(), "{:?}", resp.headers().entries());
        check!(header(&resp, "x-host") == peers.get("echo")?, "host {}", header(&resp, "x-host"));
        check!(body_of(&resp)?.is_empty(), "there is a body");
        Ok(())
    }),
    ("http-outgoing/post", |p| uploaded(Method::Post, "POST", p.get("echo")?, &[], b"{\"foo\": \"bar\"}", true, "14")),
    ("http-outgoing/post-chunked", |p| uploaded(Method::Post, "POST", p.get("echo")?, &[], b"{\"foo\": \"bar\"}", false, "-1")),
    ("http-outgoing/post-sized", |p| {
        uploaded(Method::Post, "POST", p.get("echo")?, &[("content-length", "14")], b"{\"foo\": \"bar\"}", false, "14")
    }),
    ("http-outgoing/post-large-chunked", |p| uploaded(Method::Post, "POST", p.get("echo")?, &[], &vec![1; 1025 << 10], false, "-1")),
    ("http-outgoing/post-large-sized", |p| {
        uploaded(Method::Post, "POST", p.get("echo")?, &[("content-length", "1049600")], &vec![1; 1025 << 10], false, "1049600")
    }),
    ("http-outgoing/put-nothing", |p| uploaded(Method::Put, "PUT", p.get("echo")?, &[], b"", true, "0")),
    ("http-outgoing/delete-with-a-body", |p| uploaded(Method::Delete, "DELETE", p.get("echo")?, &[], b"all of it", true, "9")),
    ("http-outgoing/patch", |p| uploaded(Method::Patch, "PATCH", p.get("echo")?, &[], b"a diff", true, "6")),
    ("http-outgoing/a-method-of-its-own", |p| uploaded(Method::Other("PURGE".into()), "PURGE", p.get("echo")?, &[], b"", true, "0")),
    ("http-outgoing/options-and-trace", |peers| {
        for (method, name) in [(Method::Options, "OPTIONS"), (Method::Trace, "TRACE")] {
            let resp = send(request(method, peers.get("echo")?, "/", &[])?, None).map_err(|e| format!("{e:?}"))?;
            check!(header(&resp, "x-method") == name, "the server saw {}", header(&resp, "x-method"));
        }
        Ok(())
    }),
    ("http-outgoing/head-has-no-body", |peers| {
        let resp = send(request(Method::Head, peers.get("echo")?, "/sized", &[])?, None).map_err(|e| format!("{e:?}"))?;
        check!(resp.status() == 200 && header(&resp, "content-length") == "5", "{:?}", resp.headers().entries());
        check!(body_of(&resp)?.is_empty(), "there is a body");
        Ok(())
    }),
    ("http-outgoing/204-and-304-have-no-body", |peers| {
        for (path, status) in [("/status/204", 204), ("/status/304", 304)] {
            let resp = send(request(Method::Get, peers.get("echo")?, path, &[])?, None).map_err(|e| format!("{e:?}"))?;
            check!(resp.status() == status, "status {}", resp.status());
            check!(body_of(&resp)?.is_empty(), "there is a body");
        }
        Ok(())
    }),
    ("http-outgoing/every-status-is-passed-on", |peers| {
        for status in [201, 301, 302, 307, 400, 404, 418, 500, 501, 599] {
            let resp = send(request(Method::Post, peers.get("echo")?, &format!("/status/{status}"), &[])?, None).map_err(|e| format!("{e:?}"))?;
            check!(resp.status() == status, "{status} has become {}", resp.status());
        }
        Ok(())
    }),
    ("http-outgoing/redirects-are-not-followed", |peers| {
        let resp = send(request(Method::Get, peers.get("echo")?, "/redirect", &[])?, None).map_err(|e| format!("{e:?}"))?;
        check!(resp.status() == 302 && header(&resp, "location") == "http://127.0.0.1:1/", "{:?}", resp.headers().entries());
        Ok(())
    }),
    ("http-outgoing/paths-arrive-as-they-are", |peers| {
        for path in ["/", "/%20%2f", "/100%", "/a//b/../c", "//double", "/a?b=c/d?e", "/{\"json\"}|", "/?", "/%zz?%"] {
            let resp = send(request(Method::Get, peers.get("raw")?, path, &[])?, None).map_err(|e| format!("{path}: {e:?}"))?;
            let got = String::from_utf8_lossy(&body_of(&resp)?).into_owned();
            check!(got == format!("GET {path} HTTP/1.1"), "{path} has become {got}");
        }
        Ok(())
    }),
    ("http-outgoing/no-path-is-the-root", |peers| {
        let r = OutgoingRequest::new(Fields::new());
        check!(r.set_scheme(Some(&Scheme::Http)).is_ok() && r.set_authority(Some(peers.get("echo")?)).is_ok(), "set");
        let resp = send(r, None).map_err(|e| format!("{e:?}"))?;
        check!(header(&resp, "x-target") == "/", "the server saw {}", header(&resp, "x-target"));
        Ok(())
    }),
    ("http-outgoing/an-answer-is-given-once", |peers| {
        let future = handle(request(Method::Get, peers.get("echo")?, "/", &[])?, None).map_err(|e| format!("{e:?}"))?;
        check!(answer(&future).is_ok(), "there is none");
        check_matches!(future.get(), Some(Err(())));
        check!(future.subscribe().ready(), "it is not ready any more");
        Ok(())
    }),
    ("http-outgoing/a-body-is-consumed-once", |peers| {
        let resp = send(request(Method::Get, peers.get("echo")?, "/sized", &[])?, None).map_err(|e| format!("{e:?}"))?;
        let body = resp.consume().map_err(|_| "no body")?;
        check!(resp.consume().is_err(), "it was given twice");
        let stream = body.stream();
        check!(stream.is_ok() && body.stream().is_err(), "its stream was given twice, or never");
        Ok(())
    }),
    ("http-outgoing/an-answers-headers-are-immutable", |peers| {
        let resp = send(request(Method::Get, peers.get("echo")?, "/", &[])?, None).map_err(|e| format!("{e:?}"))?;
        crate::fields::immutable(resp.headers())
    }),
    ("http-outgoing/the-connections-headers-are-hidden", |peers| {
        let resp = send(request(Method::Get, peers.get("connection")?, "/", &[])?, None).map_err(|e| format!("{e:?}"))?;
        for name in ["connection", "keep-alive", "transfer-encoding", "proxy-authenticate", "upgrade", "proxy-connection"] {
            check!(!resp.headers().has(name), "there is {name}: {}", header(&resp, name));
        }
        check!(header(&resp, "x-twice") == "1|2", "x-twice: {}", header(&resp, "x-twice"));
        check!(body_of(&resp)? == b"hello", "the body is another");
        Ok(())
    }),
    ("http-outgoing/options-that-bite-nobody", |peers| {
        let o = RequestOptions::new();
        for set in [RequestOptions::set_connect_timeout, RequestOptions::set_first_byte_timeout, RequestOptions::set_between_bytes_timeout] {
            check_matches!(set(&o, Some(u64::MAX)), Ok(()));
        }
        let resp = send(request(Method::Get, peers.get("echo")?, "/sized", &[])?, Some(o)).map_err(|e| format!("{e:?}"))?;
        check!(body_of(&resp)? == b"hello", "the body is another");
        Ok(())
    }),
    ("http-outgoing/many-at-once-in-any-order", |peers| {
        let mut futures = Vec::new();
        for i in 0..16 {
            futures.push(handle(request(Method::Get, peers.get("echo")?, &format!("/nth/{i}"), &[])?, None).map_err(|e| format!("{e:?}"))?);
        }
        let mut open: Vec<_> = (0..16).collect();
        while !open.is_empty() {
            let pollables: Vec<_> = open.iter().map(|&i: &usize| futures[i].subscribe()).collect();
            let ready = poll(&pollables.iter().collect::<Vec<_>>());
            for &at in &ready {
                let i = open[at as usize];
                let resp = answer(&futures[i]).map_err(|e| format!("{e:?}"))?;
                check!(header(&resp, "x-target") == format!("/nth/{i}"), "{i} got the answer of {}", header(&resp, "x-target"));
            }
            open = open.iter().enumerate().filter(|(at, _)| !ready.contains(&(*at as u32))).map(|(_, &i)| i).collect();
        }
        Ok(())
    }),
    ("http-outgoing/too-many-at-once-is-a-limit", |peers| {
        let mut futures = Vec::new();
        for _ in 0..1000 {
            match handle(request(Method::Get, peers.get("silent")?, "/", &[])?, None) {
                Ok(f) => futures.push(f),
                Err(ErrorCode::ConnectionLimitReached) if futures.len() >= 16 => return Ok(()),
                Err(e) => return Err(format!("after {}: {e:?}", futures.len())),
            }
        }
        Err("1000 are under way".into())
    }),
    ("http-outgoing/a-request-that-is-dropped-is-given-up", |peers| {
        let mut sent = 0;
        while sent < 100 {
            match handle(request(Method::Get, peers.get("silent")?, "/", &[])?, None) {
                Ok(future) => {
                    drop(future);
                    sent += 1;
                }
                // Those before are on their way out still.
                Err(ErrorCode::ConnectionLimitReached) => subscribe_duration(1_000_000).block(),
                Err(e) => return Err(format!("after {sent}: {e:?}")),
            }
        }
        Ok(())
    }),
    ("http-outgoing/a-busy-poll-starves-nobody", |peers| {
        let future = handle(request(Method::Get, peers.get("echo")?, "/", &[])?, None).map_err(|e| format!("{e:?}"))?;
        let ready = future.subscribe();
        while !poll(&[&subscribe_duration(0), &ready]).contains(&1) {}
        check!(answer(&future).is_ok(), "there is no answer");
        Ok(())
    }),
    ("http-outgoing/a-body-that-is-not-read-is-no-harm", |peers| {
        for _ in 0..8 {
            let resp = send(request(Method::Get, peers.get("echo")?, "/large", &[])?, None).map_err(|e| format!("{e:?}"))?;
            let body: IncomingBody = resp.consume().map_err(|_| "no body")?;
            let stream = body.stream().map_err(|_| "no stream")?;
            check_matches!(stream.blocking_read(10), Ok(_));
        }
        Ok(())
    }),
];
