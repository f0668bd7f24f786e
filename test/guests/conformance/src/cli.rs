//! wasi:cli and wasi:sockets.

use crate::wasi::cli::{environment, exit, stderr, stdin, stdout, terminal_stderr, terminal_stdin, terminal_stdout};
use crate::wasi::http::types::{ErrorCode as HttpError, Fields, OutgoingRequest};
use crate::wasi::io::streams::StreamError;
use crate::wasi::sockets::network::{ErrorCode, IpAddressFamily, network_error_code};
use crate::wasi::sockets::{instance_network, ip_name_lookup, tcp_create_socket, udp_create_socket};
use crate::{Case, Outcome, Peers, check, check_matches};

const ENVIRONMENT: [(&str, &str); 3] = [("EMPTY", ""), ("callooh", "callay"), ("frabjous", "day ✓")];
const ARGUMENTS: [&str; 4] = ["", "an argument", "with ✓", "\"quotes\""];
const INPUT: &str = "So rested he by the Tumtum tree,\nAnd stood awhile in thought.";

pub const CASES: &[Case] = &[
    ("cli/environment-is-what-is-granted", |_| {
        let got = environment::get_environment();
        let want = ENVIRONMENT.map(|(k, v)| (k.to_string(), v.to_string()));
        check!(got == want, "{got:?}");
        Ok(())
    }),
    ("cli/environment-is-empty-by-default", |_| {
        let got = environment::get_environment();
        check!(got.is_empty(), "{got:?}");
        Ok(())
    }),
    ("cli/arguments", |_| {
        let got = environment::get_arguments();
        check!(got.get(2..) == Some(&ARGUMENTS.map(String::from)), "{got:?}");
        Ok(())
    }),
    ("cli/there-is-no-working-directory", |_| {
        check_matches!(environment::initial_cwd(), None);
        Ok(())
    }),
    ("cli/stdin-is-read-to-its-end", read_stdin),
    ("cli/stdin-by-twos", stdin_by_twos),
    ("cli/stdin-is-spliced-to-stdout", |_| {
        let (out, input) = (stdout::get_stdout(), stdin::get_stdin());
        let mut spliced = 0;
        loop {
            match out.blocking_splice(&input, 7) {
                Ok(n) if n > 7 => return Err(format!("{n} of 7 bytes were spliced")),
                Ok(n) => spliced += n,
                Err(StreamError::Closed) => break,
                Err(e) => return Err(format!("{e:?}")),
            }
        }
        check!(spliced == INPUT.len() as u64, "{spliced} bytes were spliced");
        Ok(())
    }),
    ("cli/stdin-is-skipped", |_| {
        let input = stdin::get_stdin();
        let mut skipped = 0;
        while skipped < 3 {
            skipped += input.blocking_skip(3 - skipped).map_err(|e| format!("{e:?}"))?;
        }
        let rest = input.blocking_read(6).map_err(|e| format!("{e:?}"))?;
        check!(INPUT[3..].as_bytes().starts_with(&rest) && !rest.is_empty(), "after 3 bytes come {rest:?}");
        Ok(())
    }),
    ("cli/output-is-lines", |_| {
        for (out, to) in [(stdout::get_stdout(), "stdout"), (stderr::get_stderr(), "stderr")] {
            for part in ["this is half a print ", "to ", to, "\n\nafter empty\n", "never ended"] {
                check_matches!(out.blocking_write_and_flush(part.as_bytes()), Ok(()));
            }
        }
        Ok(())
    }),
    ("cli/output-of-two-handles-is-one", |_| {
        for part in ["start a print ", "1", "2", "3", "\n"] {
            check_matches!(stderr::get_stderr().blocking_write_and_flush(part.as_bytes()), Ok(()));
        }
        Ok(())
    }),
    ("cli/there-is-no-terminal", |_| {
        check!(terminal_stdin::get_terminal_stdin().is_none(), "stdin is one");
        check!(terminal_stdout::get_terminal_stdout().is_none(), "stdout is one");
        check!(terminal_stderr::get_terminal_stderr().is_none(), "stderr is one");
        Ok(())
    }),
    ("cli/exit-with-success", |_| {
        exit::exit(Ok(()));
        Err("it went on".into())
    }),
    ("cli/exit-with-failure", |_| {
        exit::exit(Err(()));
        Err("it went on".into())
    }),
    ("cli/exit-with-code-42", |_| {
        exit::exit_with_code(42);
        Err("it went on".into())
    }),
    ("cli/exit-with-code-0", |_| {
        exit::exit_with_code(0);
        Err("it went on".into())
    }),
    ("sockets/tcp-is-refused", |_| {
        check_matches!(tcp_create_socket::create_tcp_socket(IpAddressFamily::Ipv4), Err(ErrorCode::AccessDenied));
        check_matches!(tcp_create_socket::create_tcp_socket(IpAddressFamily::Ipv6), Err(ErrorCode::AccessDenied));
        Ok(())
    }),
    ("sockets/udp-is-refused", |_| {
        check_matches!(udp_create_socket::create_udp_socket(IpAddressFamily::Ipv4), Err(ErrorCode::AccessDenied));
        check_matches!(udp_create_socket::create_udp_socket(IpAddressFamily::Ipv6), Err(ErrorCode::AccessDenied));
        Ok(())
    }),
    ("sockets/names-are-not-resolved", |_| {
        let network = instance_network::instance_network();
        for name in ["example.com", "localhost", "127.0.0.1", "::1"] {
            check_matches!(ip_name_lookup::resolve_addresses(&network, name), Err(ErrorCode::PermanentResolverFailure));
        }
        Ok(())
    }),
    ("sockets/what-is-no-name-is-an-invalid-argument", |_| {
        let network = instance_network::instance_network();
        for name in ["", " ", "a.b<&>", "127.0.0.1:80", "[::]:80", "http://example.com/"] {
            check_matches!(ip_name_lookup::resolve_addresses(&network, name), Err(ErrorCode::InvalidArgument));
        }
        Ok(())
    }),
    ("sockets/an-error-of-http-is-none-of-the-network", http_error),
];

fn read_stdin(_: &Peers) -> Outcome {
    let input = stdin::get_stdin();
    let mut got = Vec::new();
    loop {
        match input.blocking_read(1 << 20) {
            Ok(part) => got.extend(part),
            Err(StreamError::Closed) => break,
            Err(e) => return Err(format!("{e:?}")),
        }
    }
    check!(got == INPUT.as_bytes(), "{:?}", String::from_utf8_lossy(&got));
    Ok(())
}

fn stdin_by_twos(_: &Peers) -> Outcome {
    let input = stdin::get_stdin();
    let ready = input.subscribe();
    let mut got = Vec::new();
    loop {
        ready.block();
        check_matches!(input.read(0), Ok(_) | Err(StreamError::Closed));
        match input.read(2) {
            Ok(part) => {
                check!((1..=2).contains(&part.len()), "{} of 2 bytes when it was ready", part.len());
                got.extend(part);
            }
            Err(StreamError::Closed) => break,
            Err(e) => return Err(format!("{e:?}")),
        }
    }
    check!(got == INPUT.as_bytes(), "{:?}", String::from_utf8_lossy(&got));
    Ok(())
}

fn http_error(_: &Peers) -> Outcome {
    let headers = Fields::from_list(&[("content-length".into(), b"1".to_vec())]).map_err(|e| format!("{e:?}"))?;
    let body = OutgoingRequest::new(headers).body().map_err(|_| "no body")?;
    let Err(StreamError::LastOperationFailed(e)) = body.write().map_err(|_| "no stream")?.blocking_write_and_flush(b"two") else {
        return Err("too long a body was taken".into());
    };
    check_matches!(network_error_code(&e), None);
    check_matches!(crate::wasi::http::types::http_error_code(&e), Some(HttpError::HttpRequestBodySize(Some(3))));
    check!(!e.to_debug_string().is_empty(), "the error says nothing");
    Ok(())
}
