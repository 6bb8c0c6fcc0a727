//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::config::value;
use crate::secret::Secret;

const EXAMPLES: &str = "\
Examples:
  A Redis on this machine, on another port than Nearkey's 6379:
    nearkey --upstream redis://localhost:6380

  Upstash, from the variable that its console gives (TLS is implied):
    UPSTASH_REDIS_URL=rediss://default:TOKEN@your-db.upstash.io:6379 nearkey

  As a container beside an application (its localhost is Nearkey's):
    docker run --network container:app -e REDIS_URL nearkey

  A server with a CA of its own; applications use a unix socket:
    nearkey --upstream rediss://10.0.0.5:6378 --upstream-ca ca.pem --listen unix:/run/nearkey.sock

  Replies to reads of hot keys kept in memory, for some keys (rules of L1, see proxy.toml):
    NEARKEY_CACHE__RULES='product:*; session:* bypass' nearkey

  What would it run with, and where does each value come from?
    nearkey config

Environment, where the application's variables do as they are:
  UPSTASH_REDIS_URL, REDIS_URL       redis://, rediss://, upstash:// or unix://; the first one set
  REDIS_ENDPOINT, REDIS_HOST         else host, with REDIS_PORT, REDIS_USERNAME, REDIS_PASSWORD,
                                     REDIS_DB, REDIS_SSL
  REDIS_SSL_CERT_REQS, REDIS_SSL_CHECK_HOSTNAME, REDIS_MAX_CONNECTIONS, REDIS_TIMEOUT (seconds),
  REDIS_RETRY_ON_TIMEOUT, REDIS_AUTH_REQUIRED
  NEARKEY_SECTION__KEY               any setting: NEARKEY_UPSTREAM__MAX_CONNECTIONS=20
  NEARKEY_CONFIG                     the file, as --config

Later wins: default, proxy.toml, REDIS_* variables, NEARKEY_* variables, flags. A password in a flag
can be seen in the list of processes; prefer a variable or upstream.password_file.
Every setting is explained in proxy.toml.";

/// A Redis proxy for the same machine: many application connections over a few to the server.
#[derive(Clone, Debug, Parser)]
#[command(name = "nearkey", version, after_help = EXAMPLES, disable_help_subcommand = true)]
pub struct Cli {
    /// Settings given on the command line.
    #[command(flatten)]
    pub flags: Flags,
    /// What to do; without it, run the proxy.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// The common settings; they win over the file and the environment.
#[derive(Args, Clone, Debug, Default)]
pub struct Flags {
    /// Configuration file [default: ./proxy.toml, then /etc/nearkey/proxy.toml, if present]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where applications connect: HOST:PORT, :PORT, PORT or unix:PATH; may be given once for each
    #[arg(long, global = true, value_name = "ADDRESS")]
    pub listen: Vec<String>,
    /// The Redis server, such as rediss://default:PASSWORD@HOST:6379
    #[arg(long, global = true, value_name = "URL", value_parser = secret)]
    pub upstream: Option<Secret>,
    /// CA file in PEM for the server's certificate
    #[arg(long, global = true, value_name = "FILE")]
    pub upstream_ca: Option<PathBuf>,
    /// Address of /metrics and /health, or off
    #[arg(long, global = true, value_name = "ADDRESS")]
    pub admin: Option<String>,
    /// Worker threads; 0 takes the CPUs that this container may use
    #[arg(long, global = true, value_name = "N")]
    pub workers: Option<String>,
    /// text or json
    #[arg(long, global = true, value_name = "FORMAT")]
    pub log_format: Option<String>,
}

/// What `nearkey` does other than run.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Print the configuration in force, secrets hidden, each value with where it comes from
    Config,
    /// Ask a running proxy whether it is healthy; exit code 0 or 1, for container health checks
    Healthcheck {
        /// Longest wait for the answer
        #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = value::duration)]
        timeout: Duration,
    },
}

/// Parses the command line of this process; a wrong one ends it with exit code 2.
pub fn parse() -> Cli {
    match parse_from(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    }
}

/// Parses a command line, the program's name first.
///
/// # Errors
///
/// clap's error, which also stands for `--help` and `--version`.
pub fn parse_from(args: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(args).map_err(|error| {
        // clap repeats the argument it does not understand; a URL may hold a password.
        let rendered = error.to_string();
        if !error.use_stderr() || !rendered.contains("://") {
            return error;
        }
        Cli::command().error(
            clap::error::ErrorKind::UnknownArgument,
            "an argument that looks like a URL is out of place (not repeated here, since it may hold a password): the server is named with --upstream URL",
        )
    })
}

fn secret(text: &str) -> Result<Secret, std::convert::Infallible> {
    Ok(Secret::new(text))
}
