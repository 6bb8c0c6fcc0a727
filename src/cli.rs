//! The command line.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::PossibleValuesParser;
use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::config::{self, value};
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

  Would it work with this server? What can the server do?
    nearkey check --upstream rediss://default:PASSWORD@HOST:6379

  Do 100 instances fit the plan, and what should be set?
    nearkey plan --provider redis-cloud-256 --instances 100

  What does the running one do? (its admin address as configured, or --admin HOST:PORT)
    nearkey top

  What would it run with, and where does each value come from?
    nearkey config

  A settings file to start from:
    nearkey config --example upstash > proxy.toml

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
    Config {
        /// Print a settings file to start from instead
        #[arg(long, value_name = "PROVIDER", value_parser = PossibleValuesParser::new(config::EXAMPLES))]
        example: Option<String>,
        /// Print the JSON schema of proxy.toml instead, for editors
        #[arg(long, conflicts_with = "example")]
        schema: bool,
    },
    /// Connect as configured, print what the server is and can, and what stands in the way; exit code
    /// 0 if it would work, 1 if not, 2 for a wrong configuration
    Check {
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Compute whether a fleet fits a server's connection limit, and what to set; exit code 0 if it fits, else 1
    Plan(Plan),
    /// Show in the terminal what a running proxy does: connections in and out, commands, latency, hot keys, events
    Top {
        /// Print one snapshot as text and end; also done where the output is no terminal
        #[arg(long)]
        once: bool,
    },
    /// Ask a running proxy whether it is healthy; exit code 0 or 1, for container health checks
    Healthcheck {
        /// Longest wait for the answer
        #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = value::duration)]
        timeout: Duration,
        /// Ask only whether the proxy runs (/live), whatever the server does: where a failing check restarts
        #[arg(long)]
        live: bool,
    },
    /// Print what makes a shell complete the command line
    Completions {
        /// bash, zsh, fish, elvish or powershell
        #[arg(value_name = "SHELL")]
        shell: clap_complete::Shell,
    },
    /// Print the manual page, in roff
    Man,
}

/// What `nearkey plan` is asked.
#[derive(Args, Clone, Debug)]
pub struct Plan {
    /// The server's plan; `--list` shows those that are known
    #[arg(long, value_name = "NAME", conflicts_with = "max_clients")]
    pub provider: Option<String>,
    /// The server's connection limit, where no known plan fits
    #[arg(long, value_name = "N")]
    pub max_clients: Option<usize>,
    /// Processes of Nearkey that run at the same time
    #[arg(long, value_name = "N", default_value = "1", value_parser = at_least_one)]
    pub instances: usize,
    /// Connections of each [default: upstream.max_connections of the configuration in force]
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub connections_per_instance: Option<usize>,
    /// Connections that others hold: jobs, consoles, monitoring
    #[arg(long, value_name = "N", default_value = "0")]
    pub other_clients: usize,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Print the plans that are known, with their limits
    #[arg(long)]
    pub list: bool,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("must be at least 1".to_owned()),
        Ok(number) => Ok(number),
        Err(_) => Err("is not a number".to_owned()),
    }
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

/// What makes `shell` complete the command line.
pub fn completions(shell: clap_complete::Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "nearkey", &mut script);
    script
}

/// The manual page, in roff: the program's own, then the options of each subcommand.
///
/// # Errors
///
/// None in practice: it is written to memory.
pub fn manual() -> io::Result<Vec<u8>> {
    let mut command = Cli::command();
    command.build();
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone()).render(&mut page)?;
    // The examples are laid out already; the subcommands have no pages of their own.
    let mut page = String::from_utf8_lossy(&page)
        .replacen(".SH EXTRA\n", ".SH EXAMPLES AND ENVIRONMENT\n.nf\n", 1)
        .replacen(".SH VERSION\n", ".fi\n.SH VERSION\n", 1);
    for subcommand in command.get_subcommands() {
        let name = subcommand.get_name();
        page = page.replace(&format!("nearkey\\-{name}(1)"), &format!("nearkey {name}"));
        let own = subcommand.clone().mut_args(|arg| {
            let global = arg.is_global_set();
            arg.hide(global)
        });
        let mut section = Vec::new();
        clap_mangen::Man::new(own).render_options_section(&mut section)?;
        let heading = format!(".SH \"NEARKEY {}\"", name.to_uppercase());
        page += &String::from_utf8_lossy(&section).replacen(".SH OPTIONS", &heading, 1);
    }
    Ok(page.into_bytes())
}

fn secret(text: &str) -> Result<Secret, std::convert::Infallible> {
    Ok(Secret::new(text))
}
