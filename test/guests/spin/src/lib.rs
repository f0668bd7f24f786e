//! A component as made for Spin's synchronous triggers, http, mqtt and cron, with the version strings that Spin uses.
//!
//! A message is kept under `message/<topic>` in the store "default", a cron event's time, in seconds, under `cron`, and the
//! variable `greeting`, where there is one, under `greeting`. The payload "fail" is kept, and then fails; "forward" is also
//! published on `spin/<topic>`. HTTP: a path whose last part is `keys` answers with the store's keys and values, one a line,
//! and all others with the headers that Spin adds to a request, as "name: value" lines.

use std::io::Write;

use wasip2::exports::http::incoming_handler::Guest as HttpHandler;
use wasip2::http::types::{
    Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam,
};

wit_bindgen::generate!({
    path: "../../../wit",
    inline: r#"
        package dunlin:spin-guest;
        world spin-guest {
            import wasi:config/store@0.2.0-draft-2024-09-27;
            import wasi:keyvalue/store@0.2.0-draft2;
            import fermyon:spin/key-value@2.0.0;
            import fermyon:spin/variables@2.0.0;
            import fermyon:spin/mqtt@2.0.0;
            include spin:mqtt-trigger/spin-mqtt;
            include fermyon:spin-cron/spin-cron@2.0.0 with { metadata as cron-metadata, error as cron-error }
        }
    "#,
    generate_all,
});

use fermyon::spin::{key_value, mqtt, variables};
use wasi::config0_2_0_draft_2024_09_27::store as config;
use wasi::keyvalue0_2_0_draft2::store;

struct Spin;

export!(Spin);
wasip2::http::proxy::export!(Spin);

impl Guest for Spin {
    fn handle_message(message: Payload, metadata: Metadata) -> Result<(), Error> {
        keep(&format!("message/{}", metadata.topic), &message).map_err(Error::Other)?;
        match message.as_slice() {
            b"fail" => Err(Error::Other("failing, as told".into())),
            b"forward" => forward(&format!("spin/{}", metadata.topic), &message).map_err(Error::Other),
            _ => Ok(()),
        }
    }

    fn handle_cron_event(metadata: CronMetadata) -> Result<(), CronError> {
        keep("cron", metadata.timestamp.to_string().as_bytes()).map_err(CronError::Other)
    }
}

impl HttpHandler for Spin {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let path = request.path_with_query().unwrap_or_default();
        let text = if path.ends_with("/keys") { keys() } else { Ok(headers(&request)) };
        let (status, text) = match text {
            Ok(text) => (200, text),
            Err(e) => (500, e),
        };
        let response = OutgoingResponse::new(Fields::new());
        response.set_status_code(status).expect("set status");
        let body = response.body().expect("take body");
        ResponseOutparam::set(out, Ok(response));
        let mut stream = body.write().expect("take stream");
        stream.write_all(text.as_bytes()).expect("write body");
        drop(stream);
        OutgoingBody::finish(body, None).expect("finish body");
    }
}

fn headers(request: &IncomingRequest) -> String {
    let mut text = String::new();
    for (name, value) in request.headers().entries() {
        if name.starts_with("spin-") {
            text += &format!("{name}: {}\n", String::from_utf8_lossy(&value));
        }
    }
    text
}

/// What is kept, read back through Spin's own interface.
fn keys() -> Result<String, String> {
    let store = key_value::Store::open("default").map_err(|e| format!("open store: {e:?}"))?;
    let mut text = String::new();
    let mut keys = store.get_keys().map_err(|e| format!("get keys: {e:?}"))?;
    keys.sort();
    for key in keys {
        let value = store.get(&key).map_err(|e| format!("get {key}: {e:?}"))?.unwrap_or_default();
        text += &format!("{key}={}\n", String::from_utf8_lossy(&value));
    }
    if let Ok(greeting) = variables::get("greeting") {
        text += &format!("variable greeting={greeting}\n");
    }
    Ok(text)
}

fn forward(topic: &str, message: &[u8]) -> Result<(), String> {
    let connection = mqtt::Connection::open("mqtt://localhost:1883", "", "", 30).map_err(|e| format!("open connection: {e:?}"))?;
    connection.publish(topic, message, mqtt::Qos::AtLeastOnce).map_err(|e| format!("publish: {e:?}"))
}

fn keep(key: &str, value: &[u8]) -> Result<(), String> {
    let bucket = store::open("default").map_err(|e| format!("open store: {e:?}"))?;
    if let Some(greeting) = config::get("greeting").map_err(|e| format!("variable greeting: {e:?}"))? {
        bucket.set("greeting", greeting.as_bytes()).map_err(|e| format!("set greeting: {e:?}"))?;
    }
    bucket.set(key, value).map_err(|e| format!("set {key}: {e:?}"))
}
