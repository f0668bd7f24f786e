//! wasi:http/types outgoing-request, request-options, outgoing-response: what can be set, and what comes back.

use crate::wasi::http::outgoing_handler::handle;
use crate::wasi::http::types::{
    ErrorCode, Fields, Method, OutgoingBody, OutgoingRequest, OutgoingResponse, RequestOptions, Scheme,
};
use crate::wasi::io::streams::StreamError;
use crate::{Case, Outcome, Peers, check, check_matches};

fn request() -> OutgoingRequest {
    OutgoingRequest::new(Fields::new())
}

pub const CASES: &[Case] = &[
    ("http-requests/defaults", |_| {
        let r = request();
        check_matches!(r.method(), Method::Get);
        check_matches!(r.path_with_query(), None);
        check_matches!(r.scheme(), None);
        check_matches!(r.authority(), None);
        check!(r.headers().entries().is_empty(), "{:?}", r.headers().entries());
        Ok(())
    }),
    ("http-requests/every-method", |_| {
        let r = request();
        for m in [
            Method::Get, Method::Head, Method::Post, Method::Put, Method::Delete, Method::Connect, Method::Options, Method::Trace,
            Method::Patch,
        ] {
            check_matches!(r.set_method(&m), Ok(()));
            check!(format!("{:?}", r.method()) == format!("{m:?}"), "{m:?} has become {:?}", r.method());
        }
        Ok(())
    }),
    ("http-requests/a-method-of-its-own", |_| {
        let r = request();
        check_matches!(r.set_method(&Method::Other("PURGE".into())), Ok(()));
        check!(matches!(r.method(), Method::Other(m) if m == "PURGE"), "{:?}", r.method());
        Ok(())
    }),
    ("http-requests/bad-methods-are-errors", |_| {
        let r = request();
        for m in ["", "bad method", "bad\nmethod", "GET /x HTTP/1.1\r\n", "é", "a:b", "\0"] {
            check!(r.set_method(&Method::Other(m.into())).is_err(), "{m:?} was taken");
        }
        check_matches!(r.method(), Method::Get);
        Ok(())
    }),
    ("http-requests/schemes", |_| {
        let r = request();
        check_matches!(r.set_scheme(Some(&Scheme::Http)), Ok(()));
        check_matches!(r.scheme(), Some(Scheme::Http));
        check_matches!(r.set_scheme(Some(&Scheme::Https)), Ok(()));
        check_matches!(r.scheme(), Some(Scheme::Https));
        check_matches!(r.set_scheme(Some(&Scheme::Other("coap+tcp".into()))), Ok(()));
        check!(matches!(r.scheme(), Some(Scheme::Other(s)) if s == "coap+tcp"), "{:?}", r.scheme());
        check_matches!(r.set_scheme(None), Ok(()));
        check_matches!(r.scheme(), None);
        for s in ["", "bad\nscheme", "1http", "a b", "http://", "é"] {
            check!(r.set_scheme(Some(&Scheme::Other(s.into()))).is_err(), "{s:?} was taken");
        }
        Ok(())
    }),
    ("http-requests/authorities", |_| {
        let r = request();
        for a in ["example.com", "example.com:443", "127.0.0.1:80", "[::1]", "[::]:443", "[2001:db8::1]:8080", "a-b.c_d"] {
            check!(r.set_authority(Some(a)).is_ok(), "{a:?} was refused");
            check!(r.authority().as_deref() == Some(a), "{a:?} has become {:?}", r.authority());
        }
        for a in [
            "", "bad-\nhost", "bad host", "a/b", "a?b", "a#b", "example.com:", "example.com:abc", "example.com:99999", "[::1", "[::1]:abc",
            "a\\b", "a\r\nHost: b",
        ] {
            check!(r.set_authority(Some(a)).is_err(), "{a:?} was taken");
        }
        check_matches!(r.set_authority(None), Ok(()));
        check_matches!(r.authority(), None);
        Ok(())
    }),
    ("http-requests/paths", |_| {
        let r = request();
        for p in ["/", "/a/b?c=d", "/?", "/%20", "/100%", "/a//b/../c", "/ü", "/a?b=c/d?e", "/a:b@c,d;e=f", "/{\"json\"}|"] {
            check!(r.set_path_with_query(Some(p)).is_ok(), "{p:?} was refused");
            check!(r.path_with_query().as_deref() == Some(p), "{p:?} has become {:?}", r.path_with_query());
        }
        for p in ["/bad\npath", "/a b", "/a\r\nHost: b", "/\0", "/a#b", "a b", "/\t", "/\x7f"] {
            check!(r.set_path_with_query(Some(p)).is_err(), "{p:?} was taken");
        }
        check_matches!(r.set_path_with_query(None), Ok(()));
        check_matches!(r.path_with_query(), None);
        Ok(())
    }),
    ("http-requests/a-body-is-given-once", |_| {
        let r = request();
        let body = r.body();
        check!(body.is_ok(), "there is none");
        check!(r.body().is_err(), "it was given twice");
        Ok(())
    }),
    ("http-requests/a-stream-is-given-once", |_| {
        let body = request().body().map_err(|_| "no body")?;
        let stream = body.write();
        check!(stream.is_ok(), "there is none");
        check!(body.write().is_err(), "it was given twice");
        Ok(())
    }),
    ("http-requests/a-body-that-ends-before-its-stream-traps", |_| {
        let body = request().body().map_err(|_| "no body")?;
        let _stream = body.write().map_err(|_| "no stream")?;
        let _ = OutgoingBody::finish(body, None);
        Err("it was finished".into())
    }),
    ("http-requests/built-and-never-sent", |_| {
        let r = request();
        let body = r.body().map_err(|_| "no body")?;
        check_matches!(body.write().map_err(|_| "no stream")?.blocking_write_and_flush(b"request-body"), Ok(()));
        let response = OutgoingResponse::new(Fields::new());
        let body = response.body().map_err(|_| "no body")?;
        check_matches!(body.write().map_err(|_| "no stream")?.blocking_write_and_flush(b"response-body"), Ok(()));
        Ok(())
    }),
    ("http-requests/as-long-as-promised", |_| {
        let body = sized(true, "11")?;
        check_matches!(body.write().map_err(|_| "no stream")?.blocking_write_and_flush(b"long enough"), Ok(()));
        check_matches!(OutgoingBody::finish(body, None), Ok(()));
        Ok(())
    }),
    ("http-requests/shorter-than-promised", |_| {
        let body = sized(true, "11")?;
        check_matches!(body.write().map_err(|_| "no stream")?.blocking_write_and_flush(b"msg"), Ok(()));
        check_matches!(OutgoingBody::finish(body, None), Err(ErrorCode::HttpRequestBodySize(Some(3))));
        Ok(())
    }),
    ("http-requests/longer-than-promised", |_| {
        let body = sized(true, "11")?;
        too_long(&body, |e| matches!(e, Some(ErrorCode::HttpRequestBodySize(Some(18)))))?;
        check_matches!(OutgoingBody::finish(body, None), Err(ErrorCode::HttpRequestBodySize(Some(18))));
        Ok(())
    }),
    ("http-requests/nothing-as-promised", |_| {
        let body = sized(true, "0")?;
        check_matches!(OutgoingBody::finish(body, None), Ok(()));
        Ok(())
    }),
    ("http-responses/as-long-as-promised", |_| {
        let body = sized(false, "11")?;
        check_matches!(body.write().map_err(|_| "no stream")?.blocking_write_and_flush(b"long enough"), Ok(()));
        check_matches!(OutgoingBody::finish(body, None), Ok(()));
        Ok(())
    }),
    ("http-responses/shorter-than-promised", |_| {
        let body = sized(false, "11")?;
        check_matches!(OutgoingBody::finish(body, None), Err(ErrorCode::HttpResponseBodySize(Some(0))));
        Ok(())
    }),
    ("http-responses/longer-than-promised", |_| {
        let body = sized(false, "11")?;
        too_long(&body, |e| matches!(e, Some(ErrorCode::HttpResponseBodySize(Some(18)))))?;
        check_matches!(OutgoingBody::finish(body, None), Err(ErrorCode::HttpResponseBodySize(Some(18))));
        Ok(())
    }),
    ("http-responses/a-stream-that-failed-is-closed", |_| {
        let body = sized(false, "1")?;
        let stream = body.write().map_err(|_| "no stream")?;
        check_matches!(stream.blocking_write_and_flush(b"12"), Err(StreamError::LastOperationFailed(_)));
        check_matches!(stream.check_write(), Err(StreamError::Closed));
        check_matches!(stream.flush(), Err(StreamError::Closed));
        check_matches!(stream.blocking_flush(), Err(StreamError::Closed));
        check_matches!(stream.blocking_write_and_flush(b"3"), Err(StreamError::Closed));
        check!(stream.subscribe().ready(), "a closed stream is not ready");
        Ok(())
    }),
    ("http-responses/status-codes", |_| {
        let r = OutgoingResponse::new(Fields::new());
        check!(r.status_code() == 200, "the default is {}", r.status_code());
        for s in [200, 204, 299, 304, 404, 418, 451, 500, 599, 600, 999] {
            check!(r.set_status_code(s).is_ok(), "{s} was refused");
            check!(r.status_code() == s, "{s} has become {}", r.status_code());
        }
        for s in [0, 1, 99, 1000, 65535] {
            check!(r.set_status_code(s).is_err(), "{s} was taken");
        }
        Ok(())
    }),
    ("http-responses/a-body-is-given-once", |_| {
        let r = OutgoingResponse::new(Fields::new());
        let body = r.body().map_err(|_| "no body")?;
        check!(r.body().is_err(), "it was given twice");
        let stream = body.write();
        check!(stream.is_ok() && body.write().is_err(), "its stream was given twice, or never");
        Ok(())
    }),
    ("http-options/timeouts-are-kept", |_| {
        let o = RequestOptions::new();
        check!(o.connect_timeout().is_none() && o.first_byte_timeout().is_none() && o.between_bytes_timeout().is_none(), "there are defaults");
        for t in [Some(1), Some(0), Some(1_000_000_007), Some(u64::MAX), None] {
            check_matches!(o.set_connect_timeout(t), Ok(()));
            check_matches!(o.set_first_byte_timeout(t), Ok(()));
            check_matches!(o.set_between_bytes_timeout(t), Ok(()));
            let got = [o.connect_timeout(), o.first_byte_timeout(), o.between_bytes_timeout()];
            check!(got == [t; 3], "{t:?} has become {got:?}");
        }
        Ok(())
    }),
    ("http-requests/a-scheme-that-nobody-speaks", |peers| {
        let r = request();
        check_matches!(r.set_scheme(Some(&Scheme::Other("WS".into()))), Ok(()));
        check!(r.set_authority(Some(peers.get("echo")?)).is_ok(), "authority");
        check_matches!(handle(r, None), Err(ErrorCode::HttpProtocolError));
        Ok(())
    }),
    ("http-requests/no-authority", |_| {
        let r = request();
        check_matches!(r.set_scheme(Some(&Scheme::Http)), Ok(()));
        check_matches!(handle(r, None), Err(ErrorCode::HttpRequestUriInvalid));
        Ok(())
    }),
    ("http-requests/hosts-that-are-not-granted", |_: &Peers| {
        for (scheme, authority) in [
            (Scheme::Https, "example.com"), (Scheme::Http, "169.254.169.254"), (Scheme::Http, "[::1]:1"), (Scheme::Http, "0x7f000001"),
        ] {
            let r = request();
            check_matches!(r.set_scheme(Some(&scheme)), Ok(()));
            check!(r.set_authority(Some(authority)).is_ok(), "authority");
            check_matches!(handle(r, None), Err(ErrorCode::HttpRequestDenied));
        }
        Ok(())
    }),
    ("http-requests/no-tunnels", |peers| {
        let r = request();
        check_matches!(r.set_method(&Method::Connect), Ok(()));
        check_matches!(r.set_scheme(Some(&Scheme::Http)), Ok(()));
        check!(r.set_authority(Some(peers.get("echo")?)).is_ok(), "authority");
        check_matches!(handle(r, None), Err(ErrorCode::HttpRequestMethodInvalid));
        Ok(())
    }),
];

/// The body of a request or a response that promises a length.
fn sized(request: bool, length: &str) -> Result<OutgoingBody, String> {
    let headers = Fields::from_list(&[("Content-Length".into(), length.as_bytes().to_vec())]).map_err(|e| format!("{e:?}"))?;
    let body = if request { OutgoingRequest::new(headers).body() } else { OutgoingResponse::new(headers).body() };
    body.map_err(|_| "there is no body".into())
}

fn too_long(body: &OutgoingBody, right: fn(Option<ErrorCode>) -> bool) -> Outcome {
    let stream = body.write().map_err(|_| "no stream")?;
    match stream.blocking_write_and_flush(b"more than 11 bytes") {
        Err(StreamError::LastOperationFailed(e)) => {
            let code = crate::wasi::http::types::http_error_code(&e);
            check!(right(code.clone()), "the error is {code:?}");
            Ok(())
        }
        other => Err(format!("the write is {other:?}")),
    }
}
