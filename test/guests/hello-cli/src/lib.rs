//! A command: prints a line, its arguments and its environment, and fails when its first argument is "fail".

use std::io::Write;

use wasip2::cli::{environment, stderr, stdout};
use wasip2::exports::cli::run::Guest;

struct Hello;

wasip2::cli::command::export!(Hello);

impl Guest for Hello {
    fn run() -> Result<(), ()> {
        let mut out = stdout::get_stdout();
        let arguments = environment::get_arguments();
        writeln!(out, "hello from a command").map_err(|_| ())?;
        for argument in &arguments {
            writeln!(out, "arg {argument}").map_err(|_| ())?;
        }
        for (name, value) in environment::get_environment() {
            writeln!(out, "env {name}={value}").map_err(|_| ())?;
        }
        out.flush().map_err(|_| ())?;
        if arguments.iter().any(|a| a == "fail") {
            writeln!(stderr::get_stderr(), "failing, as told").map_err(|_| ())?;
            return Err(());
        }
        Ok(())
    }
}
