//! Everything a handler may do wrong, one misdeed a request path (/panic) or message payload (panic), so that tests can show
//! that it costs nobody else anything.

mod limits;

use std::hint::black_box;
use std::io::Write;

use wasip2::cli::stderr;
use wasip2::clocks::monotonic_clock;
use wasip2::exports::http::incoming_handler::Guest as HttpHandler;
use wasip2::http::types::{
    Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam,
};
use wasip2::io::streams::OutputStream;

wit_bindgen::generate!({
    path: "../../../wit",
    inline: r#"
        package dunlin:hostile;
        world hostile {
            import wasi:keyvalue/store@0.2.0-draft2;
            import wasi:keyvalue/batch@0.2.0-draft2;
            import wasi:logging/logging@0.1.0-draft;
            import wasi:messaging/producer@0.2.0-draft;
            export wasi:messaging/incoming-handler@0.2.0-draft;
        }
    "#,
    generate_all,
});

use exports::wasi::messaging::incoming_handler::Guest as MessageHandler;
use wasi::keyvalue0_2_0_draft2::store;
use wasi::messaging::producer;
use wasi::messaging::types::{Client, Error, Message};

const HALF: &[u8] = b"half of a body";

struct Hostile;

export!(Hostile);
wasip2::http::proxy::export!(Hostile);

impl MessageHandler for Hostile {
    fn handle(message: Message) -> Result<(), Error> {
        let misdeed = String::from_utf8_lossy(&message.data()).into_owned();
        if misdeed == "fail" {
            return Err(Error::Other("failing, as told".into()));
        }
        if do_wrong(&misdeed) { Ok(()) } else { Err(Error::Other(format!("no misdeed is called {misdeed}"))) }
    }
}

impl HttpHandler for Hostile {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let path = request.path_with_query().unwrap_or_default();
        // The last part, so that any route will do.
        match path.split('?').next().unwrap_or_default().rsplit('/').next().unwrap_or_default() {
            // Returns without a response.
            "never" => drop(out),
            // Keeps the right to answer for longer than the instance lives.
            "leak" => std::mem::forget(out),
            "twice" => twice(out),
            "open" => {
                // The status and half of a body, which is never finished.
                let (body, mut stream) = start(out, 200);
                stream.write_all(HALF).expect("write body");
                std::mem::forget((body, stream));
            }
            "drop" => {
                // The same, but given back unfinished: the response must be seen to be cut off.
                let (body, mut stream) = start(out, 200);
                stream.write_all(HALF).expect("write body");
                drop(stream);
                drop(body);
            }
            "endless" => {
                let (_body, mut stream) = start(out, 200);
                loop {
                    stream.write_all(&[b'x'; 4096]).expect("write body");
                }
            }
            "late" => {
                // The status is out by the time it traps.
                let (_body, mut stream) = start(out, 200);
                stream.write_all(HALF).expect("write body");
                panic!("too late");
            }
            misdeed => {
                let known = do_wrong(misdeed);
                let (status, text) = if known { (200, "done\n") } else { (404, "no misdeed is called that\n") };
                let (body, mut stream) = start(out, status);
                stream.write_all(text.as_bytes()).expect("write body");
                drop(stream);
                OutgoingBody::finish(body, None).expect("finish body");
            }
        }
    }
}

/// Misdeeds that need no response; false if there is none of that name. "ok" is none, for telling that the rest still works.
fn do_wrong(misdeed: &str) -> bool {
    match misdeed {
        "ok" => {}
        "panic" => panic!("as told"),
        "loop" => loop {
            black_box(());
        },
        "sleep" => monotonic_clock::subscribe_duration(3_600_000_000_000).block(),
        "stack" => drop(black_box(deeper(black_box(1)))),
        "memory" => {
            // Every page is touched, and none given back.
            let mut held: Vec<Vec<u8>> = Vec::new();
            loop {
                held.push(black_box(vec![1; 1 << 20]));
            }
        }
        "stderr" => {
            let mut to = stderr::get_stderr();
            let line = [[b'.'; 1023].as_slice(), b"\n"].concat();
            for _ in 0..10 << 10 {
                // Who stops listening does nobody wrong.
                if to.write_all(&line).is_err() {
                    break;
                }
            }
        }
        // Writes and publishes what must never be seen, because it traps after.
        "half" => {
            let bucket = store::open("default").expect("open store");
            bucket.set("half", b"done").expect("set");
            let client = Client::connect("default").expect("connect");
            producer::send(&client, "half/done", Message::new(b"done")).expect("publish");
            panic!("after the effects");
        }
        // 64 MiB of effects in one event.
        "flood" => {
            let bucket = store::open("default").expect("open store");
            for i in 0..64 {
                bucket.set(&format!("flood/{i}"), &vec![b'x'; 1 << 20]).expect("set");
            }
        }
        _ => return limits::take(misdeed),
    }
    true
}

#[inline(never)]
#[allow(unconditional_recursion)]
fn deeper(n: u64) -> u64 {
    let frame = black_box([n; 64]);
    deeper(n + 1) + frame[(n % 64) as usize]
}

fn start(out: ResponseOutparam, status: u16) -> (OutgoingBody, OutputStream) {
    let response = OutgoingResponse::new(Fields::new());
    response.set_status_code(status).expect("set status");
    let body = response.body().expect("take body");
    ResponseOutparam::set(out, Ok(response));
    let stream = body.write().expect("take stream");
    (body, stream)
}

fn twice(out: ResponseOutparam) {
    let again = out.handle();
    start(out, 200);
    // The handle is gone; a host must not find a response behind it any more.
    start(unsafe { ResponseOutparam::from_handle(again) }, 201);
}
