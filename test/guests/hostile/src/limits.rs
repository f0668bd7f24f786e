//! Misdeeds against a handler's limits: each takes of one thing until it is told that there is no more, or for ever.

use std::hint::black_box;
use std::mem::forget;

use wasip2::cli::{environment, stderr, stdout};
use wasip2::clocks::monotonic_clock;
use wasip2::http::outgoing_handler;
use wasip2::http::types::{Fields, OutgoingRequest, OutgoingResponse, RequestOptions, Scheme};
use wasip2::io::poll::{Pollable, poll};
use wasip2::random::random::get_random_bytes;

use crate::wasi::keyvalue0_2_0_draft2::{batch, store};
use crate::wasi::logging::logging::{self, Level};
use crate::wasi::messaging::producer;
use crate::wasi::messaging::types::{Client, Message};

const HOUR: u64 = 3_600_000_000_000;

/// Does what is asked for; false if it is none of these.
pub fn take(misdeed: &str) -> bool {
    let (name, argument) = misdeed.split_once(' ').unwrap_or((misdeed, ""));
    match name {
        // Handles of each kind, none of them given back: 100,000 would be more than anybody needs.
        "handles-pollable" => hoard(|| monotonic_clock::subscribe_duration(HOUR)),
        "handles-fields" => hoard(Fields::new),
        "handles-request" => hoard(|| OutgoingRequest::new(Fields::new())),
        "handles-response" => hoard(|| OutgoingResponse::new(Fields::new())),
        "handles-options" => hoard(RequestOptions::new),
        "handles-stream" => hoard(stdout::get_stdout),
        "handles-bucket" => hoard(|| store::open("default")),
        "handles-client" => hoard(|| Client::connect("default")),
        "handles-message" => hoard(|| Message::new(b"")),
        // A process would fork: here each handle begets two of other kinds.
        "fork-bomb" => hoard(|| {
            let request = OutgoingRequest::new(Fields::new());
            forget((request.headers(), request.body(), stderr::get_stderr().subscribe()));
            request
        }),
        "poll-nothing" => drop(poll(&[])),
        "poll-many" => {
            let all: Vec<Pollable> = (0..9_000).map(|n| monotonic_clock::subscribe_duration(HOUR + n)).collect();
            drop(poll(&all.iter().collect::<Vec<_>>()));
        }
        // The same one a million times, over and over: it is ready at once.
        "poll-spin" => {
            let one = monotonic_clock::subscribe_duration(0);
            let many = vec![&one; 1_000_000];
            loop {
                drop(black_box(poll(&many)));
            }
        }
        "stderr-endless" => {
            let to = stderr::get_stderr();
            loop {
                _ = to.blocking_write_and_flush(&[b'\n'; 4096]);
            }
        }
        "log-endless" => loop {
            logging::log(Level::Error, "", "again");
        },
        "random" => drop(black_box(get_random_bytes(4 << 30))),
        "environment" => loop {
            black_box((environment::get_environment(), environment::get_arguments()));
        },
        // One value, asked for so often in one call that the answer would be 16 GiB.
        "get-many" => {
            let bucket = store::open("default").expect("open store");
            bucket.set("big", &vec![b'x'; 256 << 10]).expect("set");
            let keys = vec!["big".to_string(); 65_536];
            batch::get_many(&bucket, &keys).expect("get many");
        }
        "list-keys" => {
            let bucket = store::open("default").expect("open store");
            for i in 0..2_000 {
                bucket.set(&format!("{i:01000}"), b"").expect("set");
            }
            loop {
                black_box(bucket.list_keys(None).expect("list keys"));
            }
        }
        "strings" => {
            let long = "x".repeat(20 << 20);
            let bucket = store::open("default").expect("open store");
            store::open(&long).map(|_| ()).expect_err("open a store with a name of 20 MiB");
            let client = Client::connect(&long).expect("connect");
            producer::send(&client, &long, Message::new(b"")).expect_err("publish to a topic of 20 MiB");
            for _ in 0..100 {
                logging::log(Level::Error, &long, &long);
            }
            bucket.set(&long, b"").expect_err("set a key of 20 MiB");
        }
        // A list of bytes is what crosses to the host at the highest price.
        "bytes" => {
            let long = vec![b'x'; 20 << 20];
            loop {
                forget(Message::new(&long));
            }
        }
        // Three MiB that stay, if they may, under keys that no other event has.
        "kv-fill" => {
            let bucket = store::open("default").expect("open store");
            for i in 0..3 {
                let key = format!("{}-{i}", wasip2::random::random::get_random_u64());
                bucket.set(&key, &vec![b'x'; 1 << 20]).expect("set");
            }
        }
        // The same, but it makes do with what it gets.
        "kv-coping" => {
            let bucket = store::open("default").expect("open store");
            for i in 0..3 {
                let key = format!("{}-{i}", wasip2::random::random::get_random_u64());
                _ = bucket.set(&key, &vec![b'x'; 1 << 20]);
            }
        }
        "kv-bomb" => {
            let bucket = store::open("default").expect("open store");
            for i in 0.. {
                bucket.set(&i.to_string(), b"").expect("set");
            }
        }
        // A gigabyte.
        "kv-flood" => {
            let bucket = store::open("default").expect("open store");
            for i in 0..1024 {
                bucket.set(&i.to_string(), &vec![b'x'; 1 << 20]).expect("set");
            }
        }
        "publish-bomb" => {
            let client = Client::connect("default").expect("connect");
            for i in 0.. {
                producer::send(&client, "bomb", Message::new(&vec![i as u8; 64 << 10])).expect("publish");
            }
        }
        // To the authority that is named, until one is refused.
        "request-bomb" => loop {
            let request = OutgoingRequest::new(Fields::new());
            request.set_scheme(Some(&Scheme::Http)).expect("set scheme");
            request.set_authority(Some(argument)).expect("set authority");
            let answer = outgoing_handler::handle(request, None).expect("request");
            answer.subscribe().block();
        },
        // As Rust's standard library does it, where there is one.
        "give-up" => {
            _ = stderr::get_stderr().blocking_write_and_flush(b"memory allocation of 65536 bytes failed\n");
            std::process::abort();
        }
        _ => return false,
    }
    true
}

/// Makes handles without end.
fn hoard<T>(mut make: impl FnMut() -> T) {
    loop {
        forget(black_box(make()));
    }
}
