//! Bodies and trailers of outgoing requests and their answers, and what can be waited for together.

use crate::outbound::{answer, body_of, header, read_all, request, send, write_all};
use crate::wasi::clocks::monotonic_clock::{now, subscribe_duration};
use crate::wasi::http::outgoing_handler::handle;
use crate::wasi::http::types::{ErrorCode, Fields, FutureTrailers, IncomingBody, IncomingResponse, Method, OutgoingBody};
use crate::wasi::io::poll::poll;
use crate::wasi::io::streams::StreamError;
use crate::{Case, Outcome, Peers, check, check_matches};

const HOUR: u64 = 3_600_000_000_000;

pub const CASES: &[Case] = &[
    ("http-bodies/arrive-while-they-are-made", |peers| {
        // The server sends the next part when the last one has been acknowledged by another request.
        let resp = send(request(Method::Get, peers.get("echo")?, "/parts/in", &[])?, None).map_err(|e| format!("{e:?}"))?;
        let body = resp.consume().map_err(|_| "no body")?;
        let stream = body.stream().map_err(|_| "no stream")?;
        for i in 0..3 {
            let part = stream.blocking_read(100).map_err(|e| format!("{e:?}"))?;
            check!(part == format!("part {i}").as_bytes(), "part {i} is {:?}", String::from_utf8_lossy(&part));
            send(request(Method::Post, peers.get("echo")?, "/next/in", &[])?, None).map_err(|e| format!("{e:?}"))?;
        }
        check_matches!(stream.blocking_read(100), Err(StreamError::Closed));
        Ok(())
    }),
    ("http-bodies/leave-while-they-are-made", |peers| {
        // The server answers at once, and gives back what it gets.
        let r = request(Method::Post, peers.get("echo")?, "/duplex", &[])?;
        let out = r.body().map_err(|_| "no body")?;
        let future = handle(r, None).map_err(|e| format!("{e:?}"))?;
        let resp = answer(&future).map_err(|e| format!("{e:?}"))?;
        let body = resp.consume().map_err(|_| "no body")?;
        let (to, from) = (out.write().map_err(|_| "no stream")?, body.stream().map_err(|_| "no stream")?);
        for i in 0..5 {
            let part = format!("part {i}");
            to.blocking_write_and_flush(part.as_bytes()).map_err(|e| format!("{e:?}"))?;
            let mut back = Vec::new();
            while back.len() < part.len() {
                back.extend(from.blocking_read(100).map_err(|e| format!("{e:?}"))?);
            }
            check!(back == part.as_bytes(), "part {i} came back as {:?}", String::from_utf8_lossy(&back));
        }
        drop(to);
        check_matches!(OutgoingBody::finish(out, None), Ok(()));
        check_matches!(from.blocking_read(100), Err(StreamError::Closed));
        Ok(())
    }),
    ("http-bodies/zeroes-are-sent", |peers| {
        let r = request(Method::Post, peers.get("echo")?, "/upload", &[])?;
        let out = r.body().map_err(|_| "no body")?;
        let to = out.write().map_err(|_| "no stream")?;
        check_matches!(to.check_write(), Ok(10_000..));
        check_matches!(to.write_zeroes(10_000), Ok(()));
        check_matches!(to.blocking_write_zeroes_and_flush(4096), Ok(()));
        drop(to);
        check_matches!(OutgoingBody::finish(out, None), Ok(()));
        let resp = send(r, None).map_err(|e| format!("{e:?}"))?;
        check!(body_of(&resp)? == vec![0; 14_096], "others came back");
        Ok(())
    }),
    ("http-bodies/are-spliced", |peers| {
        for blocking in [true, false] {
            let source = send(request(Method::Get, peers.get("echo")?, "/large", &[])?, None).map_err(|e| format!("{e:?}"))?;
            let length = header(&source, "content-length").parse::<u64>().map_err(|e| format!("{e:?}"))?;
            let r = request(Method::Post, peers.get("echo")?, "/count", &[])?;
            let out = r.body().map_err(|_| "no body")?;
            let future = handle(r, None).map_err(|e| format!("{e:?}"))?;
            let body = source.consume().map_err(|_| "no body")?;
            let (from, to) = (body.stream().map_err(|_| "no stream")?, out.write().map_err(|_| "no stream")?);
            let (readable, writable) = (from.subscribe(), to.subscribe());
            let mut spliced = 0;
            loop {
                let n = if blocking {
                    to.blocking_splice(&from, u64::MAX)
                } else {
                    poll(&[&readable, &writable]);
                    to.splice(&from, 1000)
                };
                match n {
                    Ok(n) if !blocking && n > 1000 => return Err(format!("{n} of 1000 bytes were spliced")),
                    Ok(n) => spliced += n,
                    Err(StreamError::Closed) => break,
                    Err(e) => return Err(format!("{e:?}")),
                }
            }
            check!(spliced == length, "{spliced} of {length} bytes were spliced");
            drop((from, to));
            check_matches!(OutgoingBody::finish(out, None), Ok(()));
            let counted = body_of(&answer(&future).map_err(|e| format!("{e:?}"))?)?;
            check!(counted == length.to_string().as_bytes(), "the server counted {:?}", String::from_utf8_lossy(&counted));
        }
        Ok(())
    }),
    ("http-bodies/are-skipped", |peers| {
        let resp = send(request(Method::Get, peers.get("echo")?, "/digits", &[])?, None).map_err(|e| format!("{e:?}"))?;
        let body = resp.consume().map_err(|_| "no body")?;
        let stream = body.stream().map_err(|_| "no stream")?;
        let mut skipped = 0;
        while skipped < 1005 {
            skipped += stream.blocking_skip(1005 - skipped).map_err(|e| format!("{e:?}"))?;
        }
        let next = stream.blocking_read(5).map_err(|e| format!("{e:?}"))?;
        check!(b"56789".starts_with(&next), "{next:?} comes after 1005 digits");
        stream.subscribe().block();
        check_matches!(stream.skip(5), Ok(0..=5));
        Ok(())
    }),
    ("http-bodies/back-pressure-reaches-the-writer", |peers| {
        // Nobody reads this body: a writer must be told to wait, and a timer be heard meanwhile.
        let r = request(Method::Post, peers.get("silent")?, "/", &[])?;
        let out = r.body().map_err(|_| "no body")?;
        let _future = handle(r, None).map_err(|e| format!("{e:?}"))?;
        let to = out.write().map_err(|_| "no stream")?;
        let room = to.subscribe();
        let mut written = 0u64;
        while written < 1 << 30 {
            let ready = poll(&[&subscribe_duration(300_000_000), &room]);
            if !ready.contains(&1) {
                check_matches!(to.check_write(), Ok(0));
                return Ok(());
            }
            let n = to.check_write().map_err(|e| format!("after {written} bytes: {e:?}"))?;
            to.write(&vec![0; n as usize]).map_err(|e| format!("after {written} bytes: {e:?}"))?;
            written += n;
        }
        Err("a gigabyte was taken for nobody".into())
    }),
    ("http-bodies/timers-streams-and-answers-together", together),
    ("http-bodies/a-body-before-its-request-is-bounded", |peers| {
        let r = request(Method::Post, peers.get("echo")?, "/", &[])?;
        let out = r.body().map_err(|_| "no body")?;
        let to = out.write().map_err(|_| "no stream")?;
        for _ in 0..100_000 {
            let _ = to.blocking_write_and_flush(&[0; 4096]);
        }
        Err("400 MB were kept for a request that was never sent".into())
    }),
    ("http-bodies/unfinished-ones-cut-the-request-off", |peers| {
        let r = request(Method::Post, peers.get("echo")?, "/count", &[])?;
        let out = r.body().map_err(|_| "no body")?;
        let future = handle(r, None).map_err(|e| format!("{e:?}"))?;
        write_all(&out.write().map_err(|_| "no stream")?, b"half").map_err(|e| format!("{e:?}"))?;
        drop(out);
        check_matches!(answer(&future), Err(_));
        Ok(())
    }),
    ("http-trailers/of-an-answer", |peers| {
        let resp = send(request(Method::Get, peers.get("echo")?, "/trailers", &[])?, None).map_err(|e| format!("{e:?}"))?;
        let body = resp.consume().map_err(|_| "no body")?;
        let (got, error) = read_all(&body.stream().map_err(|_| "no stream")?);
        check!(got == b"hello" && error.is_none(), "{got:?} {error:?}");
        let trailers = IncomingBody::finish(body);
        let got = trailers_of(&trailers)?.ok_or("there are none")?;
        check!(got.get("X-End") == [b"done".to_vec()], "{:?}", got.entries());
        crate::fields::immutable(got)?;
        check_matches!(trailers.get(), Some(Err(())));
        Ok(())
    }),
    ("http-trailers/of-a-body-that-was-not-read", |peers| {
        let resp = send(request(Method::Get, peers.get("echo")?, "/trailers", &[])?, None).map_err(|e| format!("{e:?}"))?;
        let trailers = IncomingBody::finish(resp.consume().map_err(|_| "no body")?);
        let got = trailers_of(&trailers)?.ok_or("there are none")?;
        check!(got.get("x-end") == [b"done".to_vec()], "{:?}", got.entries());
        Ok(())
    }),
    ("http-trailers/none", |peers| {
        for path in ["/sized", "/", "/large", "/status/204"] {
            let resp = send(request(Method::Get, peers.get("echo")?, path, &[])?, None).map_err(|e| format!("{e:?}"))?;
            let trailers = IncomingBody::finish(resp.consume().map_err(|_| "no body")?);
            check!(trailers_of(&trailers)?.is_none(), "{path} has trailers");
        }
        Ok(())
    }),
    ("http-trailers/finish-before-the-stream-is-dropped-traps", |peers| {
        let resp = send(request(Method::Get, peers.get("echo")?, "/trailers", &[])?, None).map_err(|e| format!("{e:?}"))?;
        let body = resp.consume().map_err(|_| "no body")?;
        let _stream = body.stream().map_err(|_| "no stream")?;
        IncomingBody::finish(body);
        Err("it was finished".into())
    }),
    ("http-trailers/of-a-request-known-before", |peers| {
        let r = request(Method::Post, peers.get("echo")?, "/see-trailers", &[])?;
        let out = r.body().map_err(|_| "no body")?;
        write_all(&out.write().map_err(|_| "no stream")?, b"hello").map_err(|e| format!("{e:?}"))?;
        check_matches!(OutgoingBody::finish(out, Some(some_trailers()?)), Ok(()));
        saw_trailers(send(r, None).map_err(|e| format!("{e:?}"))?)
    }),
    ("http-trailers/of-a-request-under-way", |peers| {
        let r = request(Method::Post, peers.get("echo")?, "/see-trailers", &[])?;
        let out = r.body().map_err(|_| "no body")?;
        let future = handle(r, None).map_err(|e| format!("{e:?}"))?;
        write_all(&out.write().map_err(|_| "no stream")?, b"hello").map_err(|e| format!("{e:?}"))?;
        check_matches!(OutgoingBody::finish(out, Some(some_trailers()?)), Ok(()));
        saw_trailers(answer(&future).map_err(|e| format!("{e:?}"))?)
    }),
    ("http-trailers/of-a-request-that-announced-them", |peers| {
        let r = request(Method::Post, peers.get("echo")?, "/see-trailers", &[("trailer", "x-sum, x-more")])?;
        let out = r.body().map_err(|_| "no body")?;
        let future = handle(r, None).map_err(|e| format!("{e:?}"))?;
        check_matches!(OutgoingBody::finish(out, Some(some_trailers()?)), Ok(()));
        saw_trailers(answer(&future).map_err(|e| format!("{e:?}"))?)
    }),
    ("http-trailers/of-a-body-that-broke-off", |peers| {
        let resp = send(request(Method::Get, peers.get("broken-chunk")?, "/", &[])?, None).map_err(|e| format!("{e:?}"))?;
        let trailers = IncomingBody::finish(resp.consume().map_err(|_| "no body")?);
        trailers.subscribe().block();
        check_matches!(trailers.get(), Some(Ok(Err(ErrorCode::HttpResponseIncomplete))));
        check_matches!(trailers.get(), Some(Err(())));
        Ok(())
    }),
];

fn some_trailers() -> Result<Fields, String> {
    Fields::from_list(&crate::fields::pairs(&[("x-sum", "42"), ("x-more", "a"), ("x-more", "b")])).map_err(|e| format!("{e:?}"))
}

fn saw_trailers(resp: IncomingResponse) -> Outcome {
    let body = body_of(&resp)?;
    let got = String::from_utf8_lossy(&body);
    check!(got == "X-More: a\nX-More: b\nX-Sum: 42\n", "the server saw {got:?}");
    Ok(())
}

fn trailers_of(future: &FutureTrailers) -> Result<Option<Fields>, String> {
    future.subscribe().block();
    match future.get() {
        Some(Ok(Ok(trailers))) => Ok(trailers),
        other => Err(format!("they are {other:?}")),
    }
}

/// Each of them becomes ready in its turn, and the others are not until then.
fn together(peers: &Peers) -> Outcome {
    let silent = handle(request(Method::Get, peers.get("silent")?, "/", &[])?, None).map_err(|e| format!("{e:?}"))?;
    let (never, late) = (silent.subscribe(), subscribe_duration(HOUR));

    let began = now();
    let ready = poll(&[&never, &late, &subscribe_duration(20_000_000)]);
    check!(ready == [2] && now() >= began + 20_000_000, "{ready:?} are ready instead of the timer");

    let future = handle(request(Method::Get, peers.get("echo")?, "/parts/together", &[])?, None).map_err(|e| format!("{e:?}"))?;
    let ready = poll(&[&never, &late, &future.subscribe()]);
    check!(ready == [2], "{ready:?} are ready instead of the answer");

    let resp = answer(&future).map_err(|e| format!("{e:?}"))?;
    let body = resp.consume().map_err(|_| "no body")?;
    let stream = body.stream().map_err(|_| "no stream")?;
    for i in 0..3 {
        let ready = poll(&[&never, &stream.subscribe(), &late]);
        check!(ready == [1], "{ready:?} are ready instead of the stream");
        let part = stream.read(100).map_err(|e| format!("{e:?}"))?;
        check!(part == format!("part {i}").as_bytes(), "part {i} is {:?}", String::from_utf8_lossy(&part));
        check!(!stream.subscribe().ready(), "part {} is there too soon", i + 1);
        send(request(Method::Post, peers.get("echo")?, "/next/together", &[])?, None).map_err(|e| format!("{e:?}"))?;
    }
    let ready = poll(&[&never, &late, &stream.subscribe()]);
    check!(ready == [2], "{ready:?} are ready instead of the stream's end");
    check_matches!(stream.read(1), Err(StreamError::Closed));
    Ok(())
}
