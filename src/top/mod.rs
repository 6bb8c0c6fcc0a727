//! `nearkey top`: what a running process does, in the terminal.
//!
//! It asks the admin endpoint for what the page there shows, every two seconds. [`source`] asks,
//! [`app`] keeps what was told and what keys chose, [`draw`] turns that into cells and does nothing else,
//! [`text`] into lines for those without a terminal, [`screen`] holds the terminal.

use std::io::{self, IsTerminal, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::ask;
use crate::cli::Cli;
use crate::config;

mod app;
mod draw;
mod facts;
mod numbers;
mod screen;
mod source;
mod text;

use app::{App, Order};
use source::Source;

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Shows the process until a key ends it, or once as text. The exit code is 1 where there is nothing to
/// show, 2 where the configuration does not say whom to ask.
pub fn run(cli: &Cli, once: bool) -> ExitCode {
    let admin = match config::healthcheck_address(cli) {
        Ok(Some(admin)) => ask::reachable(admin),
        Ok(None) => {
            eprintln!("the admin endpoint is off (admin.address): nobody to ask");
            return ExitCode::FAILURE;
        }
        Err(errors) => {
            eprintln!("{errors}");
            return ExitCode::from(2);
        }
    };
    let shown = match once || !is_screen() {
        true => print_once(admin),
        false => screen::show(admin),
    };
    match shown {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

/// Whether the output can be drawn on.
fn is_screen() -> bool {
    let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    io::stdout().is_terminal() && !is_dumb
}

fn print_once(admin: SocketAddr) -> Result<(), String> {
    let mut app = App::new(admin.to_string());
    let answer = Source::new(get(admin)).ask(Order::default())?;
    app.take(Ok(answer), now_ms());
    // A reader that has read enough is no failure.
    let _ = io::stdout().write_all(text::snapshot(&app, now_ms()).as_bytes());
    Ok(())
}

/// Bodies of answers.
fn get(admin: SocketAddr) -> impl FnMut(&str) -> Result<String, String> {
    move |path| {
        let (status, body) = ask::get(admin, path, PATIENCE)?;
        match status.as_str() {
            "200" => Ok(body),
            _ => Err(format!(
                "{admin} answers {path} with the HTTP status {status}"
            )),
        }
    }
}

fn now_ms() -> u64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
    since_1970.map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}
