wit_bindgen::generate!({ world: "handler", generate_all });

use exports::wasi::messaging::incoming_handler::Guest;
use wasi::keyvalue::{atomics, store};
use wasi::messaging::producer;
use wasi::messaging::types::{Client, Error, Message};

const LIMIT: f64 = 30.0;

struct Handler;

export!(Handler);

impl Guest for Handler {
    /// What it counts and publishes takes effect when it returns Ok; an error undoes it, and the message is tried again.
    fn handle(message: Message) -> Result<(), Error> {
        let topic = message.topic().unwrap_or_default();
        let data = message.data();
        let text = String::from_utf8_lossy(&data);
        let value: f64 = text.trim().parse().map_err(|e| Error::Other(format!("read {text:?}: {e}")))?;
        if value <= LIMIT {
            return Ok(());
        }
        let alerts = count("alerts").map_err(|e| Error::Other(format!("count: {e:?}")))?;
        let alert = format!("{text} is above {LIMIT}, alert {alerts}");
        producer::send(&Client::connect("default")?, &format!("alerts/{topic}"), Message::new(alert.as_bytes()))
    }
}

fn count(key: &str) -> Result<i64, store::Error> {
    atomics::increment(&store::open("default")?, key, 1)
}
