wit_bindgen::generate!({ world: "handler", generate_all });

use exports::dunlin::timer::handler::{Guest, Tick};
use wasi::keyvalue::{atomics, store};
use wasi::messaging::producer;
use wasi::messaging::types::{Client, Message};

struct Handler;

export!(Handler);

impl Guest for Handler {
    /// What it counts and publishes takes effect when it returns Ok; an error undoes it, and the tick is tried again.
    fn handle(tick: Tick) -> Result<(), String> {
        let n = count("ticks").map_err(|e| format!("count: {e:?}"))?;
        let line = format!("{} {n}", tick.timer);
        Client::connect("default")
            .and_then(|client| producer::send(&client, "ticks", Message::new(line.as_bytes())))
            .map_err(|e| format!("publish: {e:?}"))
    }
}

fn count(key: &str) -> Result<i64, store::Error> {
    atomics::increment(&store::open("default")?, key, 1)
}
