//! Which source wins, and what each value says of its origin.

use std::time::Duration;

use super::{Dir, given};
use crate::commands::DEFAULT_DENY;
use crate::telemetry::Format;
use crate::upstream::{Address, OnLostReply};

const URL: &str = "redis://redis:6380";

fn tcp(host: &str, port: u16) -> Address {
    let host = host.to_owned();
    Address::Tcp { host, port }
}

#[test]
fn the_defaults_are_those_of_the_design() {
    let config = given().env("REDIS_URL", URL).config();
    assert_eq!(config.listen.address.unwrap().to_string(), "127.0.0.1:6379");
    assert_eq!(config.listen.unix, None);
    assert_eq!(config.listen.unix_mode, 0o700);
    assert!(config.listen.password.is_none() && config.listen.protected_mode);
    assert_eq!(
        (config.listen.max_clients, config.listen.backlog),
        (10_000, 4096)
    );
    assert_eq!(config.listen.client_output_limit, 128 << 20);
    assert_eq!(config.listen.idle_timeout, Duration::ZERO);
    let upstream = &config.upstream;
    assert_eq!(upstream.address, tcp("redis", 6380));
    assert_eq!((upstream.max_connections, upstream.connections), (10, 2));
    assert_eq!(upstream.connect_timeout, Duration::from_secs(3));
    assert_eq!(upstream.command_timeout, Duration::from_secs(5));
    assert_eq!(upstream.queue_timeout, Duration::from_secs(1));
    assert_eq!(upstream.lease_timeout, Duration::from_secs(1));
    assert_eq!(upstream.idle_timeout, Duration::from_secs(300));
    assert_eq!(upstream.keepalive, Duration::from_secs(30));
    assert_eq!(upstream.stall_timeout, Duration::from_secs(15));
    assert_eq!(upstream.backoff_min, Duration::from_millis(50));
    assert_eq!(upstream.backoff_max, Duration::from_secs(2));
    assert_eq!(upstream.large_request, 1 << 20);
    assert_eq!(upstream.on_lost_reply, OnLostReply::Close);
    assert!(upstream.retry_reads && upstream.tls.is_none());
    assert_eq!(config.commands.deny, DEFAULT_DENY);
    assert_eq!(config.admin.address.unwrap().to_string(), "127.0.0.1:9180");
    assert_eq!(
        (config.log.format, config.log.level.as_str()),
        (Format::Text, "info")
    );
    assert!(config.process.workers >= 1);
    assert_eq!(config.process.drain_timeout, Duration::from_secs(8));
}

#[test]
fn each_source_wins_over_the_one_before() {
    let file = "[upstream]\nurl = \"redis://file:1\"\nmax_connections = 11\n";
    let mut sources = given().file(file);
    let check = |sources: &super::Given, host: &str, max: usize, origin: &str| {
        let loaded = sources.loaded();
        assert_eq!(loaded.config.upstream.address, tcp(host, 1));
        assert_eq!(loaded.config.upstream.max_connections, max);
        let found = loaded.effective.origin("upstream.url").unwrap().to_owned();
        assert!(found.ends_with(origin), "{found}");
    };
    check(&sources, "file", 11, "proxy.toml:2");
    sources = sources.envs("REDIS_URL=redis://shared:1\nREDIS_MAX_CONNECTIONS=12");
    check(&sources, "shared", 12, "env REDIS_URL");
    sources =
        sources.envs("NEARKEY_UPSTREAM__URL=redis://own:1\nNEARKEY_UPSTREAM__MAX_CONNECTIONS=13");
    check(&sources, "own", 13, "env NEARKEY_UPSTREAM__URL");
    sources = sources.flags("--upstream redis://flag:1");
    check(&sources, "flag", 13, "flag --upstream");
}

#[test]
fn every_setting_has_an_environment_form() {
    for setting in crate::config::SETTINGS {
        // No value of any kind: it must be recognised and refused, not ignored.
        let errors = given()
            .env("REDIS_URL", URL)
            .env(&setting.env_name(), "@")
            .load();
        let text = errors.map_or_else(
            |errors| errors.to_string(),
            |loaded| loaded.effective.to_string(),
        );
        assert!(
            text.contains(&format!("env {}", setting.env_name())),
            "{text}"
        );
    }
}

#[test]
fn flags_reach_their_settings() {
    let dir = Dir::new();
    let ca = dir.write("ca.pem", "");
    let loaded = given()
        .flags("--upstream rediss://r:1 --listen :7000 --listen unix:/run/n.sock --admin off")
        .flags(&format!("--workers 3 --log-format json --upstream-ca {ca}"))
        .loaded();
    let config = loaded.config;
    assert_eq!(config.listen.address.unwrap().to_string(), "127.0.0.1:7000");
    assert_eq!(config.listen.unix.unwrap().to_str(), Some("/run/n.sock"));
    assert_eq!(config.admin.address, None);
    assert_eq!(
        (config.process.workers, config.log.format),
        (3, Format::Json)
    );
    assert_eq!(
        config.upstream.tls.unwrap().ca.unwrap().to_str(),
        Some(ca.as_str())
    );
    assert_eq!(
        loaded.effective.origin("listen.unix"),
        Some("flag --listen")
    );
}

#[test]
fn flags_may_follow_the_subcommand() {
    let config = given()
        .flags("config --upstream redis://r:1 --workers 2")
        .config();
    assert_eq!(config.process.workers, 2);
}

#[test]
fn a_socket_as_the_only_listen_flag_turns_tcp_off() {
    let config = given()
        .flags("--upstream redis://r --listen unix:///run/n.sock")
        .config();
    assert_eq!(config.listen.address, None);
    assert_eq!(config.listen.unix.unwrap().to_str(), Some("/run/n.sock"));
}

#[test]
fn a_named_file_is_used_alone() {
    let dir = Dir::new();
    let flag = dir.write("flag.toml", "[upstream]\nurl = \"redis://flag:1\"");
    let env = dir.write("env.toml", "[upstream]\nurl = \"redis://env:1\"");
    let sources = given()
        .file("[upstream]\nurl = \"redis://found:1\"\nkeepalive = \"1s\"")
        .env("NEARKEY_CONFIG", &env);
    let loaded = sources.loaded();
    assert_eq!(loaded.config.upstream.address, tcp("env", 1));
    assert_eq!(loaded.config.upstream.keepalive, Duration::from_secs(30));
    assert_eq!(loaded.file.unwrap().display().to_string(), env);
    let config = sources.flags(&format!("--config {flag}")).config();
    assert_eq!(config.upstream.address, tcp("flag", 1));
}

#[test]
fn an_empty_variable_counts_as_not_set() {
    let config = given()
        .envs("REDIS_URL=redis://r:1\nREDIS_MAX_CONNECTIONS=\nNEARKEY_UPSTREAM__KEEPALIVE=\nUPSTASH_REDIS_URL=\nNEARKEY_CONFIG=")
        .config();
    assert_eq!(config.upstream.address, tcp("r", 1));
    assert_eq!(config.upstream.max_connections, 10);
}

#[test]
fn credentials_of_their_own_win_over_the_urls() {
    let config = given()
        .env("REDIS_URL", "redis://user:one@r:1/3")
        .env("NEARKEY_UPSTREAM__PASSWORD", "two")
        .env("NEARKEY_UPSTREAM__DATABASE", "4")
        .config();
    assert_eq!(config.upstream.username.as_deref(), Some("user"));
    assert_eq!(config.upstream.password.unwrap().expose(), "two");
    assert_eq!(config.upstream.database, 4);
}

#[test]
fn beside_the_url_a_setting_of_its_own_wins() {
    let dir = Dir::new();
    let secret = dir.write("secret", "three");
    let base = "[upstream]\nurl = \"redis://user:one@r:1/3\"\ndatabase = 0\n";
    let upstream = |more: &str| given().file(&format!("{base}{more}\n")).config().upstream;
    assert_eq!(
        upstream("password = \"two\"").password.unwrap().expose(),
        "two"
    );
    let file = upstream(&format!("password_file = \"{secret}\""));
    assert_eq!(file.password.unwrap().expose(), "three");
    assert_eq!((file.username.as_deref(), file.database), (Some("user"), 0));
}

#[test]
fn a_later_url_brings_its_own_credentials() {
    let dir = Dir::new();
    let secret = dir.write("secret", "old");
    let file =
        format!("[upstream]\nusername = \"app\"\npassword_file = \"{secret}\"\ndatabase = 5\n");
    let loaded = given()
        .file(&file)
        .env("REDIS_URL", "redis://:token@r:1/0")
        .loaded();
    let upstream = &loaded.config.upstream;
    assert_eq!(upstream.username, None);
    assert_eq!(upstream.password.as_ref().unwrap().expose(), "token");
    assert_eq!(upstream.database, 0);
    let origin = loaded.effective.origin("upstream.password").unwrap();
    assert_eq!(origin, "env REDIS_URL; part of upstream.url");
}

#[test]
fn passwords_come_from_files_too() {
    let dir = Dir::new();
    let (server, client) = (
        dir.write("server", "s3 cret \r\n"),
        dir.write("client", "word\n"),
    );
    let config = given()
        .env("REDIS_URL", URL)
        .env("NEARKEY_UPSTREAM__PASSWORD_FILE", &server)
        .env("NEARKEY_LISTEN__PASSWORD_FILE", &client)
        .config();
    assert_eq!(config.upstream.password.unwrap().expose(), "s3 cret ");
    assert_eq!(config.listen.password.unwrap().expose(), "word");
}

#[test]
fn a_low_ceiling_lowers_the_built_in_number_of_shared_connections() {
    let loaded = given()
        .envs("REDIS_URL=redis://r:1\nREDIS_MAX_CONNECTIONS=1")
        .loaded();
    assert_eq!(loaded.config.upstream.connections, 1);
    let origin = loaded.effective.origin("upstream.connections").unwrap();
    assert_eq!(origin, "default; limited by upstream.max_connections");
}

#[test]
fn denied_commands_replace_the_list() {
    let base = || given().env("REDIS_URL", URL);
    let deny = |text: &str| {
        base()
            .env("NEARKEY_COMMANDS__DENY", text)
            .config()
            .commands
            .deny
    };
    assert_eq!(
        deny("flushall, cluster  meet"),
        ["FLUSHALL", "CLUSTER MEET"]
    );
    assert!(deny("none").is_empty());
    let file = base().file("[commands]\ndeny = [\"keys\"]\n");
    assert_eq!(file.config().commands.deny, ["KEYS"]);
}

#[test]
fn the_output_of_config_can_be_fed_back() {
    let dir = Dir::new();
    let ca = dir.write("ca \"odd\" \\ name.pem", "");
    let sources = given()
        .env("NEARKEY_UPSTREAM__CA", &ca)
        .flags("--upstream rediss://r:1/2 --listen 0.0.0.0:0 --workers 2 --log-format json")
        .envs("NEARKEY_LOG__LEVEL=info,nearkey=debug\nNEARKEY_UPSTREAM__LARGE_REQUEST=1500");
    let loaded = sources.loaded();
    let again = given().file(&loaded.effective.to_string()).loaded();
    assert_eq!(again.config, loaded.config);
}

#[test]
fn config_shows_values_with_their_origins() {
    let text = given()
        .file("[upstream]\nkeepalive = \"120s\"\n")
        .env(
            "UPSTASH_REDIS_URL",
            "redis://:tok@your-redis.upstash.io:6379",
        )
        .loaded()
        .effective
        .to_string();
    let line = |name: &str| text.lines().find(|line| line.starts_with(name)).unwrap();
    assert!(
        text.starts_with("[listen]\naddress = \"127.0.0.1:6379\""),
        "{text}"
    );
    assert!(line("url").starts_with("url = \"redis://<hidden>@your-redis.upstash.io:6379\""));
    assert!(line("url").ends_with("# env UPSTASH_REDIS_URL"));
    assert!(line("tls ").ends_with("# default; on, since Upstash speaks nothing else"));
    assert!(line("keepalive").starts_with("keepalive = \"2m\" "));
    assert!(line("keepalive").ends_with("proxy.toml:2"));
    assert!(line("queue_timeout").ends_with("  # default"));
}

#[test]
fn the_health_check_needs_no_more_than_its_address() {
    let cli = |args: &str| {
        let args = format!("nearkey {args}");
        let args: Vec<_> = args.split_whitespace().map(Into::into).collect();
        crate::cli::parse_from(args).ok().unwrap()
    };
    let find = |args: &str, env: &str| {
        let env = super::given().envs(env).env;
        crate::config::admin_address(&cli(args).flags, &env, &[])
    };
    let show = |found: Option<std::net::SocketAddr>| found.unwrap().to_string();
    assert_eq!(show(find("healthcheck", "").unwrap()), "127.0.0.1:9180");
    let any = find(
        "healthcheck",
        "NEARKEY_ADMIN__ADDRESS=0.0.0.0:1\nREDIS_URL=broken",
    );
    assert_eq!(show(any.unwrap()), "127.0.0.1:1");
    assert_eq!(find("healthcheck --admin off", "").unwrap(), None);
    let wrong = find("healthcheck --admin nowhere", "NEARKEY_X=1").unwrap_err();
    assert_eq!(wrong.problems().len(), 1);
}
