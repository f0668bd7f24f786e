//! What WASI 0.2.12 asks of a host, one case a name. GET /cases lists them as "name", GET /case/<name> runs one and answers with
//! its verdict as JSON; as a command, the first argument is the case and the verdict is a line of stdout. A case that must end in
//! a trap never answers. Other paths are for the tests that look at the handler from outside: see inbound.rs.

mod bodies;
mod cli;
mod clocks;
mod fields;
mod inbound;
mod io;
mod outbound;
mod peers;
mod requests;

wit_bindgen::generate!({
    path: "../../../wit",
    inline: r#"
        package dunlin:conformance;
        world conformance {
            import wasi:io/error@0.2.12;
            import wasi:io/poll@0.2.12;
            import wasi:io/streams@0.2.12;
            import wasi:clocks/monotonic-clock@0.2.12;
            import wasi:clocks/wall-clock@0.2.12;
            import wasi:clocks/timezone@0.2.12;
            import wasi:random/random@0.2.12;
            import wasi:random/insecure@0.2.12;
            import wasi:random/insecure-seed@0.2.12;
            import wasi:cli/environment@0.2.12;
            import wasi:cli/exit@0.2.12;
            import wasi:cli/stdin@0.2.12;
            import wasi:cli/stdout@0.2.12;
            import wasi:cli/stderr@0.2.12;
            import wasi:cli/terminal-stdin@0.2.12;
            import wasi:cli/terminal-stdout@0.2.12;
            import wasi:cli/terminal-stderr@0.2.12;
            import wasi:sockets/network@0.2.12;
            import wasi:sockets/instance-network@0.2.12;
            import wasi:sockets/ip-name-lookup@0.2.12;
            import wasi:sockets/tcp@0.2.12;
            import wasi:sockets/tcp-create-socket@0.2.12;
            import wasi:sockets/udp@0.2.12;
            import wasi:sockets/udp-create-socket@0.2.12;
            import wasi:http/types@0.2.12;
            import wasi:http/outgoing-handler@0.2.12;
            export wasi:http/incoming-handler@0.2.12;
            export wasi:cli/run@0.2.12;
        }
    "#,
    features: ["clocks-timezone", "informational-outbound-responses", "network-error-code"],
    generate_all,
});

use exports::wasi::cli::run::Guest as Command;
use exports::wasi::http::incoming_handler::Guest as Handler;
use wasi::cli::{environment, stderr, stdout};
use wasi::http::types::{IncomingRequest, ResponseOutparam};

/// Why a case failed.
pub type Outcome = Result<(), String>;

/// A case and its name, "<package>/<what must hold>".
pub type Case = (&'static str, fn(&Peers) -> Outcome);

/// Fails the case unless the condition holds.
#[macro_export]
macro_rules! check {
    ($condition:expr, $($why:tt)+) => {
        if !$condition {
            return Err(format!($($why)+));
        }
    };
}

/// Fails the case unless the value has the form.
#[macro_export]
macro_rules! check_matches {
    ($value:expr, $($form:tt)+) => {{
        let value = $value;
        if !matches!(&value, $($form)+) {
            return Err(format!("{} is {:?}, want {}", stringify!($value), value, stringify!($($form)+)));
        }
    }};
}

/// Servers that the test runs for the cases: authorities by name.
pub struct Peers(Vec<(String, String)>);

impl Peers {
    /// From "name=authority&name=authority".
    fn parse(query: &str) -> Peers {
        Peers(query.split('&').filter_map(|p| p.split_once('=')).map(|(k, v)| (k.into(), v.into())).collect())
    }

    pub fn get(&self, name: &str) -> Result<&str, String> {
        let found = self.0.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str());
        found.ok_or_else(|| format!("the test names no peer {name}"))
    }
}

fn cases() -> impl Iterator<Item = &'static Case> {
    [io::CASES, clocks::CASES, cli::CASES, fields::CASES, requests::CASES, outbound::CASES, bodies::CASES, peers::CASES]
        .into_iter()
        .flatten()
}

fn verdict(name: &str, peers: &Peers) -> String {
    let outcome = match cases().find(|(n, _)| *n == name) {
        Some((_, case)) => case(peers),
        None => Err("there is no such case".into()),
    };
    let why = outcome.as_ref().err().cloned().unwrap_or_default();
    serde_json::to_string(&[("case", name), ("why", &why)].map(|(k, v)| format!("{k}: {v}")))
        .map(|detail| format!("{{\"pass\":{},\"detail\":{detail}}}\n", outcome.is_ok()))
        .unwrap_or_default()
}

struct Conformance;

export!(Conformance);

impl Handler for Conformance {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        say_panics();
        let target = request.path_with_query().unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        if path == "/cases" {
            let names: Vec<_> = cases().map(|(n, _)| *n).collect();
            inbound::answer(out, 200, &(names.join("\n") + "\n"));
        } else if let Some(name) = path.strip_prefix("/case/") {
            inbound::answer(out, 200, &verdict(name, &Peers::parse(query)));
        } else {
            inbound::handle(request, path, query, out);
        }
    }
}

impl Command for Conformance {
    fn run() -> Result<(), ()> {
        say_panics();
        let arguments = environment::get_arguments();
        let name = arguments.first().map(String::as_str).unwrap_or_default();
        let line = verdict(name, &Peers::parse(arguments.get(1).map(String::as_str).unwrap_or_default()));
        stdout::get_stdout().blocking_write_and_flush(line.as_bytes()).map_err(|_| ())
    }
}

/// A panic is a trap without a word otherwise.
fn say_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let line = format!("{panic}\n");
        let _ = stderr::get_stderr().blocking_write_and_flush(&line.as_bytes()[..line.len().min(4096)]);
    }));
}
