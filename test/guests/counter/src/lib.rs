//! Counts what reaches it, by three triggers, in keyvalue, and publishes each count.
//!
//! A message or a tick adds one to its kind's counter and publishes the new value as text on `count/mqtt` or
//! `count/timer/<timer>`. HTTP: POST / counts itself, GET / doesn't; both answer {"http":n,"mqtt":n,"timer":n}. A message with the
//! payload "fail" is counted, published, and then failed: none of it may be seen.

use std::io::{self, Write};

use wasip2::exports::http::incoming_handler::Guest as HttpHandler;
use wasip2::http::types::{
    Fields, IncomingRequest, Method, OutgoingBody, OutgoingResponse, ResponseOutparam,
};

wit_bindgen::generate!({
    path: "../../../wit",
    inline: r#"
        package dunlin:counter;
        world counter {
            import wasi:keyvalue/store@0.2.0-draft2;
            import wasi:keyvalue/atomics@0.2.0-draft2;
            import wasi:messaging/producer@0.2.0-draft;
            export wasi:messaging/incoming-handler@0.2.0-draft;
            export dunlin:timer/handler@0.1.0;
        }
    "#,
    generate_all,
});

use exports::dunlin::timer::handler::{Guest as TimerHandler, Tick};
use exports::wasi::messaging::incoming_handler::Guest as MessageHandler;
use wasi::keyvalue0_2_0_draft2::{atomics, store};
use wasi::messaging::producer;
use wasi::messaging::types::{Client, Error, Message};

struct Counter;

export!(Counter);
wasip2::http::proxy::export!(Counter);

impl MessageHandler for Counter {
    fn handle(message: Message) -> Result<(), Error> {
        count_and_publish("mqtt", "count/mqtt").map_err(Error::Other)?;
        if message.data() == b"fail" {
            return Err(Error::Other("failing, as told".into()));
        }
        Ok(())
    }
}

impl TimerHandler for Counter {
    fn handle(tick: Tick) -> Result<(), String> {
        count_and_publish("timer", &format!("count/timer/{}", tick.timer))
    }
}

impl HttpHandler for Counter {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let counted = match request.method() {
            Method::Post => count("http").map(|_| ()),
            _ => Ok(()),
        };
        let (status, body) = match counted.and_then(|()| report()) {
            Ok(body) => (200, body),
            Err(why) => (500, why + "\n"),
        };
        respond(out, status, body.as_bytes()).expect("write body");
    }
}

fn count_and_publish(trigger: &str, topic: &str) -> Result<(), String> {
    let n = count(trigger)?;
    let client = Client::connect("default").map_err(|e| format!("connect: {e:?}"))?;
    producer::send(&client, topic, Message::new(n.to_string().as_bytes()))
        .map_err(|e| format!("publish: {e:?}"))
}

/// Adds one. How `increment` keeps a number is the host's business, so what `report` reads is kept beside it, as text.
fn count(trigger: &str) -> Result<i64, String> {
    let bucket = store::open("default").map_err(|e| format!("open store: {e:?}"))?;
    let n = atomics::increment(&bucket, &format!("count/{trigger}"), 1)
        .map_err(|e| format!("increment: {e:?}"))?;
    bucket
        .set(&format!("text/{trigger}"), n.to_string().as_bytes())
        .map_err(|e| format!("set: {e:?}"))?;
    Ok(n)
}

fn report() -> Result<String, String> {
    let bucket = store::open("default").map_err(|e| format!("open store: {e:?}"))?;
    let mut fields = Vec::new();
    for trigger in ["http", "mqtt", "timer"] {
        let n = bucket.get(&format!("text/{trigger}")).map_err(|e| format!("get: {e:?}"))?;
        let n = String::from_utf8(n.unwrap_or_else(|| b"0".to_vec())).map_err(|e| e.to_string())?;
        fields.push(format!("\"{trigger}\":{n}"));
    }
    Ok(format!("{{{}}}\n", fields.join(",")))
}

fn respond(out: ResponseOutparam, status: u16, text: &[u8]) -> io::Result<()> {
    let kind: &[u8] = if status == 200 { b"application/json" } else { b"text/plain" };
    let headers = [("content-type".to_string(), kind.to_vec())];
    let response = OutgoingResponse::new(Fields::from_list(&headers).expect("make headers"));
    response.set_status_code(status).expect("set status");
    let body = response.body().expect("take body");
    ResponseOutparam::set(out, Ok(response));
    let mut stream = body.write().expect("take stream");
    stream.write_all(text)?;
    drop(stream);
    OutgoingBody::finish(body, None).map_err(io::Error::other)
}
