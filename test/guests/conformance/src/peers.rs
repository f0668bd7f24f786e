//! Servers that misbehave, and the error-code that each must become. The peer's name says what it does.

use crate::outbound::{read_all, request, send};
use crate::wasi::http::outgoing_handler::handle;
use crate::wasi::http::types::{ErrorCode, Method, RequestOptions, Scheme, http_error_code};
use crate::wasi::io::streams::StreamError;
use crate::{Case, Outcome, Peers, check, check_matches};

const MILLISECOND: u64 = 1_000_000;

/// The error of a GET.
fn error_of(peers: &Peers, peer: &str, scheme: Scheme, options: Option<RequestOptions>) -> Result<ErrorCode, String> {
    let r = request(Method::Get, peers.get(peer)?, "/", &[])?;
    r.set_scheme(Some(&scheme)).map_err(|()| "set scheme")?;
    match send(r, options) {
        Ok(resp) => Err(format!("it answered {}", resp.status())),
        Err(e) => Ok(e),
    }
}

/// The error at the end of a GET's body.
fn body_error(peers: &Peers, peer: &str, options: Option<RequestOptions>) -> Result<ErrorCode, String> {
    let resp = send(request(Method::Get, peers.get(peer)?, "/", &[])?, options).map_err(|e| format!("{e:?}"))?;
    let body = resp.consume().map_err(|_| "no body")?;
    match read_all(&body.stream().map_err(|_| "no stream")?) {
        (_, Some(Some(e))) => Ok(e),
        (all, other) => Err(format!("after {} bytes: {other:?}", all.len())),
    }
}

fn timeout(set: fn(&RequestOptions, Option<u64>) -> Result<(), ()>) -> Option<RequestOptions> {
    let o = RequestOptions::new();
    set(&o, Some(30 * MILLISECOND)).ok()?;
    Some(o)
}

fn malformed(peers: &Peers, peer: &str) -> Outcome {
    check_matches!(error_of(peers, peer, Scheme::Http, None)?, ErrorCode::HttpProtocolError);
    Ok(())
}

pub const CASES: &[Case] = &[
    ("http-errors/refused", |p| {
        check_matches!(error_of(p, "refused", Scheme::Http, None)?, ErrorCode::ConnectionRefused);
        Ok(())
    }),
    ("http-errors/no-such-name", |p| {
        check_matches!(error_of(p, "no-name", Scheme::Http, None)?, ErrorCode::DnsError(_) | ErrorCode::DnsTimeout);
        Ok(())
    }),
    ("http-errors/connect-timeout", |p| {
        let o = timeout(RequestOptions::set_connect_timeout);
        check_matches!(error_of(p, "silent", Scheme::Https, o)?, ErrorCode::ConnectionTimeout);
        Ok(())
    }),
    ("http-errors/first-byte-timeout", |p| {
        let o = timeout(RequestOptions::set_first_byte_timeout);
        check_matches!(error_of(p, "silent", Scheme::Http, o)?, ErrorCode::ConnectionReadTimeout | ErrorCode::HttpResponseTimeout);
        Ok(())
    }),
    ("http-errors/between-bytes-timeout", |p| {
        let o = timeout(RequestOptions::set_between_bytes_timeout);
        check_matches!(body_error(p, "half", o)?, ErrorCode::ConnectionReadTimeout | ErrorCode::HttpResponseTimeout);
        Ok(())
    }),
    ("http-errors/timeouts-of-nothing-are-at-once", |p| {
        let o = RequestOptions::new();
        check_matches!(o.set_first_byte_timeout(Some(0)), Ok(()));
        check_matches!(error_of(p, "silent", Scheme::Http, Some(o))?, ErrorCode::ConnectionReadTimeout | ErrorCode::HttpResponseTimeout);
        Ok(())
    }),
    ("http-errors/closed-before-the-answer", |p| {
        check_matches!(error_of(p, "closes", Scheme::Http, None)?, ErrorCode::ConnectionTerminated);
        Ok(())
    }),
    ("http-errors/reset-before-the-answer", |p| {
        check_matches!(error_of(p, "resets", Scheme::Http, None)?, ErrorCode::ConnectionTerminated);
        Ok(())
    }),
    ("http-errors/closed-in-the-header", |p| {
        check_matches!(error_of(p, "half-header", Scheme::Http, None)?, ErrorCode::ConnectionTerminated | ErrorCode::HttpResponseIncomplete);
        Ok(())
    }),
    ("http-errors/closed-in-a-sized-body", |p| {
        check_matches!(body_error(p, "short", None)?, ErrorCode::HttpResponseIncomplete);
        Ok(())
    }),
    ("http-errors/closed-in-a-chunked-body", |p| {
        check_matches!(body_error(p, "broken-chunk", None)?, ErrorCode::HttpResponseIncomplete);
        Ok(())
    }),
    ("http-errors/reset-in-a-body", |p| {
        check_matches!(body_error(p, "short-reset", None)?, ErrorCode::HttpResponseIncomplete | ErrorCode::ConnectionTerminated);
        Ok(())
    }),
    ("http-errors/bad-chunks", |p| {
        check_matches!(body_error(p, "bad-chunk", None)?, ErrorCode::HttpProtocolError);
        Ok(())
    }),
    ("http-errors/no-http-at-all", |p| malformed(p, "garbage")),
    ("http-errors/a-bad-status", |p| malformed(p, "bad-status")),
    ("http-errors/a-bad-version", |p| malformed(p, "bad-version")),
    ("http-errors/a-bad-header-line", |p| malformed(p, "bad-header")),
    ("http-errors/a-bad-header-name", |p| malformed(p, "bad-name")),
    ("http-errors/two-lengths", |p| malformed(p, "two-lengths")),
    ("http-errors/a-bad-length", |p| malformed(p, "bad-length")),
    ("http-errors/an-unknown-transfer-coding", |p| {
        check_matches!(error_of(p, "bad-coding", Scheme::Http, None)?, ErrorCode::HttpResponseTransferCoding(_));
        Ok(())
    }),
    ("http-errors/a-switch-that-nobody-asked-for", |p| {
        check_matches!(error_of(p, "switches", Scheme::Http, None)?, ErrorCode::HttpUpgradeFailed);
        Ok(())
    }),
    ("http-errors/too-large-a-header", |p| {
        check_matches!(error_of(p, "large-header", Scheme::Http, None)?, ErrorCode::HttpResponseHeaderSectionSize(_));
        Ok(())
    }),
    ("http-errors/too-many-headers", |p| {
        check_matches!(error_of(p, "many-headers", Scheme::Http, None)?, ErrorCode::HttpResponseHeaderSectionSize(_));
        Ok(())
    }),
    ("http-errors/endless-interim-answers", |p| {
        check_matches!(error_of(p, "interim", Scheme::Http, None)?, ErrorCode::HttpProtocolError | ErrorCode::HttpResponseHeaderSectionSize(_));
        Ok(())
    }),
    ("http-errors/an-interim-answer-is-passed-over", |p| {
        let resp = send(request(Method::Get, p.get("hints")?, "/", &[])?, None).map_err(|e| format!("{e:?}"))?;
        check!(resp.status() == 200, "status {}", resp.status());
        Ok(())
    }),
    ("http-errors/tls-that-is-none", |p| {
        check_matches!(error_of(p, "echo", Scheme::Https, None)?, ErrorCode::TlsProtocolError);
        Ok(())
    }),
    ("http-errors/a-certificate-of-nobody", |p| {
        check_matches!(error_of(p, "tls", Scheme::Https, None)?, ErrorCode::TlsCertificateError);
        Ok(())
    }),
    ("http-errors/tls-refuses-us", |p| match error_of(p, "tls-alert", Scheme::Https, None)? {
        ErrorCode::TlsAlertReceived(a) => {
            check!(a.alert_id.is_some() && a.alert_message.is_some(), "{a:?}");
            Ok(())
        }
        other => Err(format!("{other:?}")),
    }),
    ("http-errors/an-answer-over-the-limit", |p| {
        check_matches!(body_error(p, "endless", None)?, ErrorCode::HttpResponseBodySize(_));
        Ok(())
    }),
    ("http-errors/a-stream-that-failed-is-closed", |p| {
        let resp = send(request(Method::Get, p.get("short")?, "/", &[])?, None).map_err(|e| format!("{e:?}"))?;
        let body = resp.consume().map_err(|_| "no body")?;
        let stream = body.stream().map_err(|_| "no stream")?;
        let error = loop {
            match stream.blocking_read(1000) {
                Ok(_) => {}
                Err(StreamError::LastOperationFailed(e)) => break e,
                Err(e) => return Err(format!("{e:?}")),
            }
        };
        check_matches!(http_error_code(&error), Some(ErrorCode::HttpResponseIncomplete));
        check!(!error.to_debug_string().is_empty(), "the error says nothing");
        check_matches!(stream.blocking_read(1), Err(StreamError::Closed));
        check_matches!(stream.read(1), Err(StreamError::Closed));
        check_matches!(stream.skip(1), Err(StreamError::Closed));
        check!(stream.subscribe().ready(), "a closed stream is not ready");
        Ok(())
    }),
    ("http-errors/a-request-that-is-not-read-to-its-end", |p| {
        // The server answers and closes; a writer must hear of it, and the answer be there.
        let r = request(Method::Post, p.get("answers-early")?, "/", &[])?;
        let out = r.body().map_err(|_| "no body")?;
        let future = handle(r, None).map_err(|e| format!("{e:?}"))?;
        let to = out.write().map_err(|_| "no stream")?;
        let mut written = 0u32;
        while written < 1 << 20 && to.blocking_write_and_flush(&[0; 4096]).is_ok() {
            written += 1;
        }
        check!(written < 1 << 20, "four gigabytes were taken");
        match crate::outbound::answer(&future) {
            Ok(resp) => check!(resp.status() == 413, "status {}", resp.status()),
            // The reset may have overtaken the answer.
            Err(e) => check_matches!(e, ErrorCode::ConnectionTerminated),
        }
        Ok(())
    }),
];
