//! wasi:io: error, poll, streams. Streams to try are stdout and stdin here, and HTTP's in bodies.rs.

use crate::wasi::cli::{stderr, stdin, stdout};
use crate::wasi::clocks::monotonic_clock::{now, subscribe_duration, subscribe_instant};
use crate::wasi::io::poll::poll;
use crate::wasi::io::streams::StreamError;
use crate::{Case, Outcome, Peers, check, check_matches};

const HOUR: u64 = 3_600_000_000_000;
const MILLISECOND: u64 = 1_000_000;

pub const CASES: &[Case] = &[
    ("io/poll-gives-only-what-is-ready", only_ready),
    ("io/poll-gives-all-that-is-ready-in-order", all_ready),
    ("io/poll-takes-the-same-pollable-twice", same_twice),
    ("io/poll-waits-for-the-first-of-many-timers", first_timer),
    ("io/poll-of-thousands", thousands),
    ("io/poll-of-nothing-traps", |_| {
        poll(&[]);
        Err("it returned".into())
    }),
    ("io/poll-without-end-ends-with-the-event", |_| {
        poll(&[&subscribe_duration(u64::MAX), &subscribe_duration(HOUR)]);
        Err("it returned".into())
    }),
    ("io/block-without-end-ends-with-the-event", |_| {
        subscribe_duration(u64::MAX).block();
        Err("it returned".into())
    }),
    ("io/pollable-is-ready-after-block", ready_after_block),
    ("io/pollable-is-used-again", used_again),
    ("io/pollables-that-pile-up-trap", |_| {
        for _ in 0..1_000_000 {
            std::mem::forget(subscribe_duration(HOUR));
        }
        Err("a million handles were given".into())
    }),
    ("io/pollables-that-are-dropped-do-not-pile-up", |_| {
        (0..100_000).for_each(|_| drop(subscribe_duration(HOUR)));
        Ok(())
    }),
    ("io/check-write-permits-and-write-takes", permits),
    ("io/write-of-nothing", |_| {
        let out = stdout::get_stdout();
        check_matches!(out.check_write(), Ok(1..));
        check_matches!(out.write(&[]), Ok(()));
        Ok(())
    }),
    ("io/write-over-the-permit-traps", |_| {
        let out = stdout::get_stdout();
        let n = out.check_write().map_err(|e| format!("{e:?}"))?;
        let _ = out.write(&vec![b'x'; n as usize + 1]);
        Err("it was taken".into())
    }),
    ("io/write-without-a-permit-traps", |_| {
        let _ = stdout::get_stdout().write(b"x");
        Err("it was taken".into())
    }),
    ("io/write-zeroes-over-the-permit-traps", |_| {
        let out = stdout::get_stdout();
        let n = out.check_write().map_err(|e| format!("{e:?}"))?;
        let _ = out.write_zeroes(n + 1);
        Err("it was taken".into())
    }),
    ("io/write-zeroes-of-everything-traps", |_| {
        let _ = stdout::get_stdout().write_zeroes(u64::MAX);
        Err("it was taken".into())
    }),
    ("io/a-permit-is-used-up", |_| {
        let out = stdout::get_stdout();
        let n = out.check_write().map_err(|e| format!("{e:?}"))?;
        out.write(b"some of it\n").map_err(|e| format!("{e:?}"))?;
        let _ = out.write(&vec![b'x'; n as usize]);
        Err("it was taken".into())
    }),
    ("io/blocking-write-takes-4096", |_| {
        check_matches!(stderr::get_stderr().blocking_write_and_flush(&[b'.'; 4096]), Ok(()));
        Ok(())
    }),
    ("io/blocking-write-of-4097-traps", |_| {
        let _ = stderr::get_stderr().blocking_write_and_flush(&[b'.'; 4097]);
        Err("it was taken".into())
    }),
    ("io/blocking-write-zeroes-takes-4096", |_| {
        check_matches!(stderr::get_stderr().blocking_write_zeroes_and_flush(4096), Ok(()));
        Ok(())
    }),
    ("io/blocking-write-zeroes-of-4097-traps", |_| {
        let _ = stderr::get_stderr().blocking_write_zeroes_and_flush(4097);
        Err("it was taken".into())
    }),
    ("io/blocking-write-zeroes-of-everything-traps", |_| {
        let _ = stderr::get_stderr().blocking_write_zeroes_and_flush(u64::MAX);
        Err("it was taken".into())
    }),
    ("io/flush-ends-and-permits-again", flush),
    ("io/an-output-stream-is-ready", |_| {
        let out = stdout::get_stdout();
        let ready = out.subscribe();
        ready.block();
        check!(ready.ready(), "not ready after it blocked");
        check_matches!(out.check_write(), Ok(1..));
        Ok(())
    }),
    ("io/an-empty-input-is-closed", |_| {
        let input = stdin::get_stdin();
        input.subscribe().block();
        check_matches!(input.blocking_read(10), Err(StreamError::Closed));
        check_matches!(input.read(10), Err(StreamError::Closed));
        check_matches!(input.read(0), Err(StreamError::Closed));
        check_matches!(input.skip(10), Err(StreamError::Closed));
        check_matches!(input.blocking_skip(10), Err(StreamError::Closed));
        Ok(())
    }),
    ("io/splice-from-a-closed-input-is-closed", |_| {
        let (out, input) = (stdout::get_stdout(), stdin::get_stdin());
        input.subscribe().block();
        check_matches!(out.splice(&input, 10), Err(StreamError::Closed));
        check_matches!(out.blocking_splice(&input, 10), Err(StreamError::Closed));
        Ok(())
    }),
    ("io/a-pollable-outlives-its-stream", |_| {
        let input = stdin::get_stdin();
        let ready = input.subscribe();
        drop(input);
        ready.block();
        Ok(())
    }),
];

fn only_ready(_: &Peers) -> Outcome {
    let (late, early) = (subscribe_duration(HOUR), subscribe_duration(MILLISECOND));
    let ready = poll(&[&late, &early]);
    check!(ready == [1], "ready are {ready:?}");
    check!(!late.ready() && early.ready(), "ready() says otherwise");
    Ok(())
}

fn all_ready(_: &Peers) -> Outcome {
    let (now, late) = (subscribe_duration(0), subscribe_duration(HOUR));
    let ready = poll(&[&now, &late, &now, &late, &now]);
    check!(ready == [0, 2, 4], "ready are {ready:?}");
    Ok(())
}

fn same_twice(_: &Peers) -> Outcome {
    let input = stdin::get_stdin();
    let (a, b) = (input.subscribe(), input.subscribe());
    let mut ready = Vec::new();
    // A stream may become ready between two looks at it.
    while ready.len() < 4 {
        ready = poll(&[&a, &b, &a, &b]);
    }
    check!(ready == [0, 1, 2, 3], "ready are {ready:?}");
    Ok(())
}

fn first_timer(_: &Peers) -> Outcome {
    let began = now();
    let timers: Vec<_> = (0..50).map(|i| subscribe_instant(began + (50 - i) * 40 * MILLISECOND)).collect();
    let ready = poll(&timers.iter().collect::<Vec<_>>());
    check!(ready.contains(&49) && !ready.contains(&0), "ready are {ready:?}");
    check!(now() >= began + 40 * MILLISECOND, "it returned too soon");
    Ok(())
}

fn thousands(_: &Peers) -> Outcome {
    let timer = subscribe_duration(0);
    let ready = poll(&vec![&timer; 5000]);
    check!(ready.len() == 5000 && ready[4999] == 4999, "{} are ready", ready.len());
    Ok(())
}

fn ready_after_block(_: &Peers) -> Outcome {
    let timer = subscribe_duration(MILLISECOND);
    timer.block();
    check!(timer.ready(), "not ready after it blocked");
    timer.block();
    check!(poll(&[&timer]) == [0], "poll finds it not ready");
    Ok(())
}

fn used_again(_: &Peers) -> Outcome {
    let out = stdout::get_stdout();
    let ready = out.subscribe();
    for _ in 0..10 {
        ready.block();
        let n = out.check_write().map_err(|e| format!("{e:?}"))?;
        check!(n >= 50, "only {n} bytes are permitted");
        check_matches!(out.write(&[b'a'; 50]), Ok(()));
    }
    Ok(())
}

fn permits(_: &Peers) -> Outcome {
    let out = stdout::get_stdout();
    let n = out.check_write().map_err(|e| format!("{e:?}"))?;
    check!(n >= 4096, "only {n} bytes are permitted");
    check_matches!(out.write(&[b'x'; 100]), Ok(()));
    check_matches!(out.write_zeroes(100), Ok(()));
    check_matches!(out.write(&vec![b'y'; n as usize - 200]), Ok(()));
    check_matches!(out.blocking_flush(), Ok(()));
    Ok(())
}

fn flush(_: &Peers) -> Outcome {
    let out = stdout::get_stdout();
    check_matches!(out.check_write(), Ok(1..));
    check_matches!(out.write(b"flushed\n"), Ok(()));
    check_matches!(out.flush(), Ok(()));
    out.subscribe().block();
    check_matches!(out.check_write(), Ok(1..));
    check_matches!(out.blocking_flush(), Ok(()));
    check_matches!(out.check_write(), Ok(1..));
    Ok(())
}
