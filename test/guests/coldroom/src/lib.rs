//! The guard of a cold room, one component behind three triggers.
//!
//! MQTT: readings on `tele/<sensor>/SENSOR`, as Tasmota sends them. Timer: notices a sensor that fell silent. HTTP: the
//! state, as a page and under `/api` as JSON. Alarms go to `alarms/coldroom/<sensor>`, once for each change. All state is in
//! the keyvalue store "default", one record a sensor, so that an update or a power cut loses none of it.

mod page;
mod sensor;
mod tasmota;

use std::io::{self, Write};

use wasip2::clocks::wall_clock;
use wasip2::exports::http::incoming_handler::Guest as HttpHandler;
use wasip2::http::types::{
    Fields, IncomingRequest, Method, OutgoingBody, OutgoingResponse, ResponseOutparam,
};

wit_bindgen::generate!({
    path: "../../../wit",
    inline: r#"
        package dunlin:coldroom;
        world coldroom {
            import wasi:config/store@0.2.0-rc.1;
            import wasi:keyvalue/store@0.2.0-draft2;
            import wasi:logging/logging@0.1.0-draft;
            import wasi:messaging/producer@0.2.0-draft;
            export dunlin:timer/handler@0.1.0;
            export wasi:messaging/incoming-handler@0.2.0-draft;
        }
    "#,
    generate_all,
});

use exports::dunlin::timer::handler::{Guest as TimerHandler, Tick};
use exports::wasi::messaging::incoming_handler::Guest as MessageHandler;
use sensor::{Change, Limits, Sensor};
use wasi::config0_2_0_rc_1::store as config;
use wasi::keyvalue0_2_0_draft2::store::{self, Bucket};
use wasi::logging::logging::{Level, log};
use wasi::messaging::producer;
use wasi::messaging::types::{Client, Error, Message};

struct Coldroom;

export!(Coldroom);
wasip2::http::proxy::export!(Coldroom);

impl MessageHandler for Coldroom {
    fn handle(message: Message) -> Result<(), Error> {
        let topic = message.topic().unwrap_or_default();
        on_message(&topic, &message.data()).map_err(Error::Other)
    }
}

impl TimerHandler for Coldroom {
    fn handle(tick: Tick) -> Result<(), String> {
        on_tick(tick.actual)
    }
}

impl HttpHandler for Coldroom {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let path = request.path_with_query().unwrap_or_default();
        let path = path.split('?').next().unwrap_or_default().trim_end_matches('/');
        let (status, kind, body) = match (request.method(), path.rsplit('/').next()) {
            (Method::Get | Method::Head, Some("api")) => answer("application/json", page::json),
            (Method::Get | Method::Head, Some("coldroom")) => answer("text/html; charset=utf-8", page::html),
            (Method::Get | Method::Head, _) => (404, "text/plain", "not found\n".into()),
            _ => (405, "text/plain", "only GET\n".into()),
        };
        respond(out, status, kind, body.as_bytes()).expect("write body");
    }
}

fn on_message(topic: &str, payload: &[u8]) -> Result<(), String> {
    let source = tasmota::source(topic).ok_or_else(|| format!("topic {topic}: not tele/<sensor>/SENSOR"))?;
    let readings = tasmota::readings(source, payload).map_err(|e| format!("message on {topic}: {e}"))?;
    if readings.is_empty() {
        log(Level::Debug, "coldroom", &format!("no temperature on {topic}"));
    }
    let (limits, bucket) = (limits()?, open()?);
    for reading in readings {
        let mut sensor = load(&bucket, &reading.sensor)?.unwrap_or_default();
        let changes = sensor.take(&reading, now(), &limits);
        save(&bucket, &reading.sensor, &sensor)?;
        announce(&reading.sensor, &sensor, &changes, &limits)?;
    }
    Ok(())
}

fn on_tick(now: u64) -> Result<(), String> {
    let (limits, bucket) = (limits()?, open()?);
    for name in names(&bucket)? {
        let Some(mut sensor) = load(&bucket, &name)? else { continue };
        // Nothing changed is nothing written: a quiet tick costs the flash nothing.
        if let Some(change) = sensor.check(now, &limits) {
            save(&bucket, &name, &sensor)?;
            announce(&name, &sensor, &[change], &limits)?;
        }
    }
    Ok(())
}

/// Logs each change, and publishes it on the sensor's alarm topic.
fn announce(name: &str, sensor: &Sensor, changes: &[Change], limits: &Limits) -> Result<(), String> {
    for change in changes {
        let level = if change.is_alarm() { Level::Warn } else { Level::Info };
        log(level, "coldroom", &format!("{name}: {} at {:.1} C", change.name(), sensor.last));
        let text = page::alarm(name, sensor, change, limits);
        let client = Client::connect("default").map_err(|e| format!("connect: {e:?}"))?;
        producer::send(&client, &format!("alarms/coldroom/{name}"), Message::new(text.as_bytes()))
            .map_err(|e| format!("publish alarm: {e:?}"))?;
    }
    Ok(())
}

fn answer(kind: &'static str, show: fn(&[(String, Sensor)], &Limits, u64) -> String) -> (u16, &'static str, String) {
    match state() {
        Ok((sensors, limits)) => (200, kind, show(&sensors, &limits, now())),
        Err(why) => (500, "text/plain", why + "\n"),
    }
}

fn state() -> Result<(Vec<(String, Sensor)>, Limits), String> {
    let (limits, bucket) = (limits()?, open()?);
    let mut sensors = Vec::new();
    for name in names(&bucket)? {
        if let Some(sensor) = load(&bucket, &name)? {
            sensors.push((name, sensor));
        }
    }
    Ok((sensors, limits))
}

const PREFIX: &str = "sensor/";

fn open() -> Result<Bucket, String> {
    store::open("default").map_err(|e| format!("open store: {e:?}"))
}

fn names(bucket: &Bucket) -> Result<Vec<String>, String> {
    let (mut names, mut cursor) = (Vec::new(), None);
    loop {
        let part = bucket.list_keys(cursor.as_deref()).map_err(|e| format!("list keys: {e:?}"))?;
        names.extend(part.keys.iter().filter_map(|k| k.strip_prefix(PREFIX)).map(String::from));
        cursor = part.cursor;
        if cursor.is_none() {
            names.sort();
            return Ok(names);
        }
    }
}

fn load(bucket: &Bucket, name: &str) -> Result<Option<Sensor>, String> {
    let record = bucket.get(&format!("{PREFIX}{name}")).map_err(|e| format!("get {name}: {e:?}"))?;
    record.map(|r| serde_json::from_slice(&r).map_err(|e| format!("record of {name}: {e}"))).transpose()
}

fn save(bucket: &Bucket, name: &str, sensor: &Sensor) -> Result<(), String> {
    let record = serde_json::to_vec(sensor).map_err(|e| format!("record of {name}: {e}"))?;
    bucket.set(&format!("{PREFIX}{name}"), &record).map_err(|e| format!("set {name}: {e:?}"))
}

fn limits() -> Result<Limits, String> {
    Ok(Limits {
        threshold: variable("threshold", 8.0)?,
        hysteresis: variable("hysteresis", 0.5)?,
        silent_after_ms: (variable("silent_after", 60.0)?.max(0.0) * 1000.0) as u64,
    })
}

/// A variable of the manifest that is a number, or its default where the manifest has none.
fn variable(name: &str, default: f64) -> Result<f64, String> {
    match config::get(name).map_err(|e| format!("variable {name}: {e:?}"))? {
        None => Ok(default),
        Some(text) => match text.trim().parse::<f64>() {
            Ok(x) if x.is_finite() => Ok(x),
            _ => Err(format!("variable {name}: not a number: {text:?}")),
        },
    }
}

/// Milliseconds since 1970.
fn now() -> u64 {
    let t = wall_clock::now();
    t.seconds * 1000 + u64::from(t.nanoseconds / 1_000_000)
}

fn respond(out: ResponseOutparam, status: u16, kind: &str, text: &[u8]) -> io::Result<()> {
    let headers = [
        ("content-type".to_string(), kind.as_bytes().to_vec()),
        ("cache-control".to_string(), b"no-store".to_vec()),
    ];
    let response = OutgoingResponse::new(Fields::from_list(&headers).expect("make headers"));
    response.set_status_code(status).expect("set status");
    let body = response.body().expect("take body");
    ResponseOutparam::set(out, Ok(response));
    let mut stream = body.write().expect("take stream");
    stream.write_all(text)?;
    drop(stream);
    OutgoingBody::finish(body, None).map_err(io::Error::other)
}
