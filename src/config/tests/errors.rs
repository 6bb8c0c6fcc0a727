//! What is said when something is wrong: all of it at once, each with its place and a way out.

use super::{Dir, given};
use crate::upstream::Auth;

const URL: &str = "redis://redis:6380";

/// The one error of a file that also names an upstream, without `proxy.toml:`.
fn file_error(text: &str) -> String {
    let errors = given().env("REDIS_URL", URL).file(text).errors();
    errors
        .strip_prefix("proxy.toml:")
        .unwrap_or(&errors)
        .to_owned()
}

fn env_error(name: &str, value: &str) -> String {
    let errors = given().env("REDIS_URL", URL).env(name, value).errors();
    let prefix = format!("env {name}: ");
    errors.strip_prefix(&prefix).unwrap_or(&errors).to_owned()
}

#[test]
fn all_problems_are_reported_at_once() {
    let file = "[listen]\nmax_clients = 0\n\n[upstream]\nmax_conections = 5\nkeepalive = 30\n[colour]\nx = 1\n";
    let errors = given()
        .file(file)
        .env("NEARKEY_LOG__FROMAT", "json")
        .env("NEARKEY_LISTEN__BACKLOG", "many")
        .flags("--workers 5000 --log-format xml")
        .errors();
    let expected = [
        "proxy.toml:5: unknown setting upstream.max_conections; did you mean upstream.max_connections?",
        "proxy.toml:7: unknown section [colour]",
        "env NEARKEY_LOG__FROMAT: unknown variable; did you mean NEARKEY_LOG__FORMAT?",
        "proxy.toml:2: listen.max_clients: 0 is not a whole number from 1 to 1000000",
        "proxy.toml:6: upstream.keepalive: 30 needs a unit, such as \"30s\" or \"30ms\"",
        "env NEARKEY_LISTEN__BACKLOG: listen.backlog: \"many\" is not a whole number from 1 to 65535",
        "flag --workers: process.workers: 5000 is not a whole number from 0 to 1024",
        "flag --log-format: log.format: \"xml\" is not one of \"text\", \"json\"",
    ];
    let lines: Vec<&str> = errors.lines().collect();
    assert_eq!(lines[..8], expected);
    assert!(lines[8].starts_with("upstream.url: no Redis server is named: give --upstream"));
    assert_eq!(lines.len(), 9);
}

#[test]
fn a_missing_upstream_teaches() {
    let errors = given().errors();
    assert_eq!(
        errors,
        "upstream.url: no Redis server is named: give --upstream rediss://default:PASSWORD@HOST:6379, or set REDIS_URL, UPSTASH_REDIS_URL or REDIS_HOST, or upstream.url in proxy.toml"
    );
}

#[test]
fn misspelt_names_find_their_neighbours() {
    let hint = |text: &str| {
        file_error(text)
            .split("did you mean ")
            .nth(1)
            .map(str::to_owned)
    };
    assert_eq!(hint("[upstream]\ntimeout_connect = 1").as_deref(), None);
    assert_eq!(
        hint("[upstream]\nkeep_alive = 1").as_deref(),
        Some("upstream.keepalive?")
    );
    assert_eq!(
        hint("[listen]\nmax_connections = 1").as_deref(),
        Some("upstream.max_connections?")
    );
    assert_eq!(
        hint("max_connections = 1").as_deref(),
        Some("upstream.max_connections?")
    );
    assert_eq!(hint("[upstreem]\nurl = 1").as_deref(), Some("upstream?"));
    let env = env_error("NEARKEY_UPSTREAM_MAX_CONNECTIONS", "1");
    assert_eq!(
        env,
        "unknown variable; did you mean NEARKEY_UPSTREAM__MAX_CONNECTIONS?"
    );
}

#[test]
fn kubernetes_service_links_are_not_misspelt_settings() {
    let links = "REDIS_URL=redis://r:1\nNEARKEY_SERVICE_HOST=10.0.0.1\nNEARKEY_SERVICE_PORT=6379\nNEARKEY_SERVICE_PORT_REDIS=6379\nNEARKEY_PORT=tcp://10.0.0.1:6379\nNEARKEY_PORT_6379_TCP=tcp://10.0.0.1:6379\nNEARKEY_PORT_6379_TCP_ADDR=10.0.0.1";
    given().envs(links).config();
    assert!(env_error("NEARKEY_LISTEN_PORT", "6380").starts_with("unknown variable"));
}

#[test]
fn types_are_checked() {
    for (line, expected) in [
        (
            "max_connections = \"9\"",
            "upstream.max_connections: must be a whole number from 1 to 100000, not a string",
        ),
        (
            "max_connections = 9.5",
            "upstream.max_connections: must be a whole number from 1 to 100000, not a fraction",
        ),
        (
            "max_connections = -1",
            "upstream.max_connections: -1 is not a whole number from 1 to 100000",
        ),
        (
            "retry_reads = \"yes\"",
            "upstream.retry_reads: must be true or false, not a string",
        ),
        (
            "keepalive = true",
            "upstream.keepalive: must be a duration such as \"5s\", \"100ms\" or \"1m\", not a boolean",
        ),
        (
            "keepalive = \"2d\"",
            "upstream.keepalive: \"2d\" is not a duration such as \"5s\", \"100ms\" or \"1m\"",
        ),
        (
            "command_timeout = \"0s\"",
            "upstream.command_timeout: 0s is not from 1ms to 24h",
        ),
        (
            "large_request = \"1k\"",
            "upstream.large_request: \"1k\" is not a size such as \"64kb\", \"1mb\" or 65536",
        ),
        (
            "large_request = 5",
            "upstream.large_request: 5 is not from 1kb to 2gb",
        ),
        (
            "verify = \"strict\"",
            "upstream.verify: \"strict\" is not one of \"full\", \"ca\", \"none\"",
        ),
        (
            "server_name = \"a b\"",
            "upstream.server_name: \"a b\" is not a host name",
        ),
        (
            "url = 5",
            "upstream.url: must be a URL in quotes, not a number",
        ),
    ] {
        let found = file_error(&format!("[upstream]\n{line}\n"));
        assert_eq!(found, format!("2: {expected}"));
    }
    assert!(file_error("[listen]\nunix_mode = 700").contains("must be an octal mode in quotes"));
    assert!(file_error("[commands]\ndeny = \"KEYS\"").contains("must be a list of strings"));
    assert!(file_error("[commands]\ndeny = [\"A B C\"]").contains("neither a command nor"));
    assert!(
        file_error("[upstream.tls]\nca = 1")
            .contains("must be one of \"auto\", \"on\", \"off\", not a table")
    );
    assert!(env_error("NEARKEY_LOG__LEVEL", "inof").contains("\"inof\" is not a level"));
}

#[test]
fn what_is_not_toml_names_its_line() {
    let errors = file_error("[upstream]\nkeepalive = 30s\n");
    assert!(errors.starts_with("2: not valid TOML: "), "{errors}");
    assert_eq!(errors.lines().count(), 1);
    let twice = file_error("[log]\nlevel = \"info\"\nlevel = \"warn\"\n");
    assert!(
        twice.starts_with("3: not valid TOML: duplicate key"),
        "{twice}"
    );
}

#[test]
fn a_named_file_must_exist() {
    let errors = given()
        .flags("--config /nowhere/x.toml --upstream redis://r")
        .errors();
    assert!(
        errors.starts_with("flag --config: cannot read /nowhere/x.toml: No such file"),
        "{errors}"
    );
    let errors = given().env("NEARKEY_CONFIG", "/nowhere/x.toml").errors();
    assert!(
        errors.starts_with("env NEARKEY_CONFIG: cannot read"),
        "{errors}"
    );
    assert_eq!(errors.lines().count(), 1);
}

#[test]
fn settings_that_need_each_other() {
    let dir = Dir::new();
    let pem = dir.write("x.pem", "");
    for (env, value, expected) in [
        (
            "NEARKEY_LISTEN__TLS_CERT",
            pem.as_str(),
            "listen.tls_cert: needs listen.tls_key too",
        ),
        (
            "NEARKEY_LISTEN__TLS_CLIENT_CA",
            &pem,
            "listen.tls_client_ca: needs listen.tls_cert",
        ),
        (
            "NEARKEY_UPSTREAM__CLIENT_KEY",
            &pem,
            "upstream.client_key: needs upstream.client_cert too",
        ),
        (
            "NEARKEY_UPSTREAM__CA",
            &pem,
            "upstream.ca: is for TLS, but upstream.url (env REDIS_URL)",
        ),
        (
            "NEARKEY_LISTEN__ADDRESS",
            "off",
            "listen.address: is off, and listen.unix is not set",
        ),
        (
            "NEARKEY_ADMIN__ADDRESS",
            ":6379",
            "admin.address: 127.0.0.1:6379 collides with listen.address",
        ),
        (
            "NEARKEY_UPSTREAM__CONNECTIONS",
            "11",
            "upstream.connections: 11 is above upstream.max_connections, which is 10 (default)",
        ),
        (
            "NEARKEY_COMMANDS__DENY",
            "keys,flushall async",
            "commands.deny: 'FLUSHALL ASYNC': FLUSHALL has no subcommands",
        ),
        (
            "NEARKEY_UPSTREAM__BACKOFF_MIN",
            "9s",
            "upstream.backoff_min: is above upstream.backoff_max (default)",
        ),
    ] {
        let errors = given().env("REDIS_URL", URL).env(env, value).errors();
        assert!(
            errors.contains(&format!("env {env}: {expected}")),
            "{errors}"
        );
    }
}

#[test]
fn files_that_cannot_be_read() {
    let dir = Dir::new();
    let empty = dir.write("empty", "\n");
    let error = env_error("NEARKEY_UPSTREAM__PASSWORD_FILE", "/nowhere/secret");
    assert!(
        error.starts_with("upstream.password_file: cannot read /nowhere/secret: No such file"),
        "{error}"
    );
    let error = env_error("NEARKEY_UPSTREAM__PASSWORD_FILE", &empty);
    assert!(error.ends_with("is empty"), "{error}");
    let both = given()
        .env("REDIS_URL", URL)
        .env("NEARKEY_UPSTREAM__PASSWORD_FILE", &empty)
        .env("NEARKEY_UPSTREAM__PASSWORD", "canary")
        .errors();
    assert_eq!(
        both,
        "env NEARKEY_UPSTREAM__PASSWORD_FILE: upstream.password_file: is set, and upstream.password too (env NEARKEY_UPSTREAM__PASSWORD): give one of them"
    );
    let ca = given()
        .flags("--upstream rediss://r --upstream-ca /nowhere/ca.pem")
        .errors();
    assert!(
        ca.starts_with("flag --upstream-ca: upstream.ca: cannot read"),
        "{ca}"
    );
}

#[test]
fn tls_that_contradicts_itself() {
    let error = |url: &str, tls: &str| {
        given()
            .env("REDIS_URL", url)
            .env("NEARKEY_UPSTREAM__TLS", tls)
            .errors()
    };
    assert!(error("rediss://r", "off").contains("asks for TLS: write redis://"));
    assert!(error("unix:///run/r.sock", "on").contains("a unix socket, which carries no TLS"));
}

#[test]
fn listening_beyond_loopback_is_warned_about() {
    let open = given().env("REDIS_URL", URL).flags("--listen *:6379");
    assert!(open.warnings().contains("clients from there are refused"));
    let wide = given()
        .env("REDIS_URL", URL)
        .flags("--listen *:6379")
        .env("NEARKEY_LISTEN__PROTECTED_MODE", "off");
    assert!(wide.warnings().contains("open to everyone"));
    let safe = given()
        .env("REDIS_URL", URL)
        .flags("--listen *:6379")
        .env("NEARKEY_LISTEN__PASSWORD", "x");
    assert_eq!(safe.warnings(), "");
}

#[test]
fn passthrough_leaves_passwords_to_the_server() {
    let passthrough = || {
        given()
            .env("REDIS_URL", URL)
            .env("NEARKEY_UPSTREAM__AUTH", "passthrough")
    };
    assert_eq!(passthrough().config().upstream.auth, Auth::Passthrough);
    let none = given().env("REDIS_URL", URL).config();
    assert_eq!(none.upstream.auth, Auth::Own);
    let both = passthrough().env("NEARKEY_LISTEN__PASSWORD", "canary");
    assert_eq!(
        both.errors(),
        "env NEARKEY_UPSTREAM__AUTH: upstream.auth: is \"passthrough\", and listen.password is set (env NEARKEY_LISTEN__PASSWORD): clients say AUTH with the server's own users then, so there is no password of Nearkey's to ask for"
    );
    let dir = Dir::new();
    let file = passthrough().env("NEARKEY_LISTEN__PASSWORD_FILE", &dir.write("pw", "canary"));
    assert!(file.errors().contains("and listen.password_file is set"));
    let wide = || passthrough().flags("--listen *:6379");
    assert!(wide().warnings().contains("clients from there are refused"));
    let open = wide().env("NEARKEY_LISTEN__PROTECTED_MODE", "off");
    assert_eq!(open.warnings(), "");
    let wrong = given()
        .env("REDIS_URL", URL)
        .env("NEARKEY_UPSTREAM__AUTH", "client");
    assert!(
        wrong
            .errors()
            .contains("not one of \"own\", \"passthrough\"")
    );
}
