//! wasi:clocks and wasi:random.

use std::collections::HashSet;

use crate::wasi::clocks::{monotonic_clock as monotonic, timezone, wall_clock as wall};
use crate::wasi::random::{insecure, insecure_seed, random};
use crate::{Case, Outcome, Peers, check};

const MILLISECOND: u64 = 1_000_000;

pub const CASES: &[Case] = &[
    ("clocks/monotonic-never-goes-back", |_| {
        let mut last = monotonic::now();
        for _ in 0..1000 {
            let now = monotonic::now();
            check!(now >= last, "{now} after {last}");
            last = now;
        }
        Ok(())
    }),
    ("clocks/monotonic-resolution-is-not-zero", |_| {
        let r = monotonic::resolution();
        check!(r > 0 && r <= MILLISECOND, "the resolution is {r} ns");
        Ok(())
    }),
    ("clocks/a-sleep-takes-its-time", sleep),
    ("clocks/no-time-and-times-past-are-ready", |_| {
        monotonic::subscribe_duration(0).block();
        monotonic::subscribe_instant(monotonic::now()).block();
        monotonic::subscribe_instant(monotonic::now() - 1).block();
        monotonic::subscribe_instant(0).block();
        check!(monotonic::subscribe_duration(0).ready(), "a wait of 0 is not ready");
        Ok(())
    }),
    ("clocks/the-end-of-time-is-not-ready", |_| {
        check!(!monotonic::subscribe_duration(u64::MAX).ready(), "a wait of 2^64-1 ns is over");
        check!(!monotonic::subscribe_instant(u64::MAX).ready(), "it is 2^64-1 ns since the start");
        Ok(())
    }),
    ("clocks/wall-clock-is-a-time-of-this-century", |_| {
        let now = wall::now();
        check!(now.nanoseconds < 1_000_000_000, "{} nanoseconds", now.nanoseconds);
        check!((1_700_000_000..4_200_000_000).contains(&now.seconds), "{} seconds since 1970", now.seconds);
        Ok(())
    }),
    ("clocks/wall-clock-resolution", |_| {
        let r = wall::resolution();
        check!(r.seconds == 0 && r.nanoseconds > 0 && r.nanoseconds < 1_000_000_000, "{r:?}");
        Ok(())
    }),
    ("clocks/timezone-is-utc", |_| {
        let now = wall::now();
        let display = timezone::display(now);
        check!(display.utc_offset == 0 && display.name == "UTC" && !display.in_daylight_saving_time, "{display:?}");
        check!(timezone::utc_offset(now) == 0, "the offset is {}", timezone::utc_offset(now));
        Ok(())
    }),
    ("random/as-many-bytes-as-asked-for", |_| {
        for n in [0, 1, 2, 255, 256, 4096, 100_000] {
            let (secure, fast) = (random::get_random_bytes(n).len(), insecure::get_insecure_random_bytes(n).len());
            check!(secure as u64 == n && fast as u64 == n, "{secure} and {fast} bytes, {n} were asked for");
        }
        Ok(())
    }),
    ("random/no-two-alike", |_| {
        let bytes: HashSet<_> = (0..100).map(|_| random::get_random_bytes(16)).collect();
        let numbers: HashSet<_> = (0..100).map(|_| random::get_random_u64()).collect();
        check!(bytes.len() == 100 && numbers.len() == 100, "{} and {} of 100 differ", bytes.len(), numbers.len());
        let bytes: HashSet<_> = (0..100).map(|_| insecure::get_insecure_random_bytes(16)).collect();
        let numbers: HashSet<_> = (0..100).map(|_| insecure::get_insecure_random_u64()).collect();
        check!(bytes.len() == 100 && numbers.len() == 100, "{} and {} insecure ones of 100 differ", bytes.len(), numbers.len());
        Ok(())
    }),
    ("random/every-bit-is-used", |_| {
        let (ones, zeros) = (0..200).map(|_| random::get_random_u64()).fold((0, 0), |(o, z), n| (o | n, z | !n));
        check!(ones == u64::MAX && zeros == u64::MAX, "bits {:x} are never set, {:x} always", !ones, !zeros);
        Ok(())
    }),
    ("random/the-seed-stays-the-same", |_| {
        let seed = insecure_seed::insecure_seed();
        for _ in 0..10 {
            check!(insecure_seed::insecure_seed() == seed, "the seed has changed");
        }
        Ok(())
    }),
    ("random/too-much-at-once-traps", |_| {
        let n = random::get_random_bytes(u64::MAX).len();
        Err(format!("{n} bytes were given"))
    }),
    ("random/too-much-that-is-insecure-traps", |_| {
        let n = insecure::get_insecure_random_bytes(1 << 40).len();
        Err(format!("{n} bytes were given"))
    }),
];

fn sleep(_: &Peers) -> Outcome {
    for by_instant in [true, false] {
        let began = monotonic::now();
        let until = if by_instant {
            monotonic::subscribe_instant(began + 10 * MILLISECOND)
        } else {
            monotonic::subscribe_duration(10 * MILLISECOND)
        };
        until.block();
        let took = monotonic::now() - began;
        check!(took >= 10 * MILLISECOND, "a sleep of 10 ms took {took} ns");
    }
    Ok(())
}
