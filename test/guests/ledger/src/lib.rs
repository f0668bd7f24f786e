//! Sums readings, for the proof that none is lost and none counted twice.
//!
//! A message is a number as text, or JSON with a member "n". It is added to "sum", and one to "count", in keyvalue; the
//! reading and both are published on "ledger/<topic>" as "n count sum", and what comes on "up/..." to the fleet as well, on
//! "uplink:ledger/<topic>". A number that is a multiple of 97 is written like the others, and then failed: none of it may be seen. What comes on "ledger/..." itself is entered under "audit-count" and "audit-sum", and not
//! published. HTTP answers "count sum audit-count audit-sum".

use std::io::Write;

use wasip2::exports::http::incoming_handler::Guest as HttpHandler;
use wasip2::http::types::{Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam};

wit_bindgen::generate!({
    path: "../../../wit",
    inline: r#"
        package dunlin:ledger;
        world ledger {
            import wasi:keyvalue/store@0.2.0-draft2;
            import wasi:messaging/producer@0.2.0-draft;
            export wasi:messaging/incoming-handler@0.2.0-draft;
        }
    "#,
    generate_all,
});

use exports::wasi::messaging::incoming_handler::Guest as MessageHandler;
use wasi::keyvalue0_2_0_draft2::store::{self, Bucket};
use wasi::messaging::producer;
use wasi::messaging::types::{Client, Error, Message};

struct Ledger;

export!(Ledger);
wasip2::http::proxy::export!(Ledger);

impl MessageHandler for Ledger {
    fn handle(message: Message) -> Result<(), Error> {
        let data = message.data();
        let text = std::str::from_utf8(&data).map_err(|e| Error::Other(e.to_string()))?;
        let n = number(text).ok_or_else(|| Error::Other(format!("no number in {text:?}")))?;
        enter(n, &message.topic().unwrap_or_default()).map_err(Error::Other)?;
        if n % 97 == 0 {
            return Err(Error::Other(format!("failing over {n}, as told")));
        }
        Ok(())
    }
}

fn number(text: &str) -> Option<u64> {
    let digits = match text.split_once("\"n\":") {
        Some((_, rest)) => rest.trim_start(),
        None => text,
    };
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    digits[..end].parse().ok()
}

fn enter(n: u64, topic: &str) -> Result<(), String> {
    let bucket = store::open("default").map_err(|e| format!("open store: {e:?}"))?;
    let audit = topic.starts_with("ledger/");
    let (counts, sums) = if audit { ("audit-count", "audit-sum") } else { ("count", "sum") };
    let count = get(&bucket, counts)? + 1;
    let sum = get(&bucket, sums)? + n;
    set(&bucket, counts, count)?;
    set(&bucket, sums, sum)?;
    if audit {
        return Ok(());
    }
    let client = Client::connect("default").map_err(|e| format!("connect: {e:?}"))?;
    let publish = |to: String| {
        let entry = Message::new(format!("{n} {count} {sum}").as_bytes());
        producer::send(&client, &to, entry).map_err(|e| format!("publish: {e:?}"))
    };
    if topic.starts_with("up/") {
        publish(format!("uplink:ledger/{topic}"))?;
    }
    publish(format!("ledger/{topic}"))
}

fn get(bucket: &Bucket, key: &str) -> Result<u64, String> {
    match bucket.get(key).map_err(|e| format!("get {key}: {e:?}"))? {
        Some(b) => String::from_utf8_lossy(&b).parse().map_err(|e| format!("{key}: {e}")),
        None => Ok(0),
    }
}

fn set(bucket: &Bucket, key: &str, value: u64) -> Result<(), String> {
    bucket.set(key, value.to_string().as_bytes()).map_err(|e| format!("set {key}: {e:?}"))
}

impl HttpHandler for Ledger {
    fn handle(_request: IncomingRequest, out: ResponseOutparam) {
        let answer = store::open("default")
            .map_err(|e| format!("open store: {e:?}"))
            .and_then(|b| {
                let mut line = Vec::new();
                for key in ["count", "sum", "audit-count", "audit-sum"] {
                    line.push(get(&b, key)?.to_string());
                }
                Ok(line.join(" ") + "\n")
            });
        let (status, body) = match answer {
            Ok(body) => (200, body),
            Err(why) => (500, why + "\n"),
        };
        let response = OutgoingResponse::new(Fields::new());
        response.set_status_code(status).expect("set status");
        let outgoing = response.body().expect("take body");
        ResponseOutparam::set(out, Ok(response));
        let mut stream = outgoing.write().expect("take stream");
        stream.write_all(body.as_bytes()).expect("write body");
        drop(stream);
        OutgoingBody::finish(outgoing, None).expect("finish body");
    }
}
