//! Takes messages on to where the network is needed.
//!
//! By a message's topic: "send/<topic>" is published on "uplink:<topic>", and an error of that fails the event; of "post/<anything>" the payload is
//! "<scheme>://<authority><path> <text>", the text is sent there with POST, and "<status> <dunlin-deferred>" or the error is published
//! on "posted"; of "when/<anything>" all that the board says of the time is published on "moment", as "name=value" with blanks between. HTTP answers
//! the same, from the headers.

use wasip2::cli::environment::get_environment;
use wasip2::exports::http::incoming_handler::Guest as HttpHandler;
use wasip2::http::outgoing_handler;
use wasip2::http::types::{
    Fields, IncomingRequest, Method, OutgoingBody, OutgoingRequest, OutgoingResponse, ResponseOutparam, Scheme,
};

wit_bindgen::generate!({
    path: "../../../wit",
    inline: r#"
        package dunlin:courier;
        world courier {
            import wasi:messaging/producer@0.2.0-draft;
            export wasi:messaging/incoming-handler@0.2.0-draft;
        }
    "#,
    generate_all,
});

use exports::wasi::messaging::incoming_handler::Guest as MessageHandler;
use wasi::messaging::producer;
use wasi::messaging::types::{Client, Error, Message};

struct Courier;

export!(Courier);
wasip2::http::proxy::export!(Courier);

impl MessageHandler for Courier {
    fn handle(message: Message) -> Result<(), Error> {
        let topic = message.topic().unwrap_or_default();
        if let Some(to) = topic.strip_prefix("send/") {
            return publish(&format!("uplink:{to}"), &message.data());
        }
        if topic.starts_with("post/") {
            let told = post(&String::from_utf8_lossy(&message.data())).unwrap_or_else(|e| e);
            return publish("posted", told.as_bytes());
        }
        let mut told: Vec<String> =
            message.metadata().unwrap_or_default().into_iter().map(|(k, v)| format!("{k}={v}")).collect();
        told.extend(get_environment().into_iter().filter(|(k, _)| k.starts_with("DUNLIN_")).map(|(k, v)| format!("{k}={v}")));
        publish("moment", told.join(" ").as_bytes())
    }
}

impl HttpHandler for Courier {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let told: Vec<String> = request
            .headers()
            .entries()
            .into_iter()
            .filter(|(name, _)| name.starts_with("dunlin-"))
            .map(|(name, value)| format!("{name}={}", String::from_utf8_lossy(&value)))
            .collect();
        let response = OutgoingResponse::new(Fields::new());
        let body = response.body().expect("take body");
        ResponseOutparam::set(out, Ok(response));
        let stream = body.write().expect("take stream");
        stream.blocking_write_and_flush(told.join(" ").as_bytes()).expect("write");
        drop(stream);
        OutgoingBody::finish(body, None).expect("finish body");
    }
}

fn publish(topic: &str, payload: &[u8]) -> Result<(), Error> {
    let client = Client::connect("default")?;
    producer::send(&client, topic, Message::new(payload))
}

fn post(order: &str) -> Result<String, String> {
    let (url, text) = order.split_once(' ').ok_or("no blank")?;
    let (scheme, rest) = url.split_once("://").ok_or("no scheme")?;
    let at = rest.find('/').unwrap_or(rest.len());
    let request = OutgoingRequest::new(Fields::new());
    request.set_method(&Method::Post).map_err(|()| "method")?;
    let scheme = if scheme == "http" { Scheme::Http } else { Scheme::Https };
    request.set_scheme(Some(&scheme)).map_err(|()| "scheme")?;
    request.set_authority(Some(&rest[..at])).map_err(|()| "authority")?;
    request.set_path_with_query(Some(&rest[at..])).map_err(|()| "path")?;
    let body = request.body().map_err(|()| "body")?;
    let future = outgoing_handler::handle(request, None).map_err(|e| format!("{e:?}"))?;
    let stream = body.write().map_err(|()| "stream")?;
    stream.blocking_write_and_flush(text.as_bytes()).map_err(|e| format!("{e:?}"))?;
    drop(stream);
    OutgoingBody::finish(body, None).map_err(|e| format!("{e:?}"))?;
    future.subscribe().block();
    let response = future.get().ok_or("no answer")?.map_err(|()| "taken")?.map_err(|e| format!("{e:?}"))?;
    let deferred = response.headers().get("dunlin-deferred").concat();
    Ok(format!("{} {}", response.status(), String::from_utf8_lossy(&deferred)).trim_end().to_string())
}
