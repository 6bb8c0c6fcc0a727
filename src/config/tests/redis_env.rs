//! The variables that applications already have, in the forms in which they are found.

use std::time::Duration;

use super::given;
use crate::upstream::{Address, Config, Verify};

fn upstream(env: &str) -> Config {
    given().envs(env).config().upstream
}

fn tcp(host: &str, port: u16) -> Address {
    let host = host.to_owned();
    Address::Tcp { host, port }
}

#[test]
fn an_upstash_host_implies_tls() {
    let url = "redis://:your-upstash-token@your-redis.upstash.io:6379";
    let upstream = upstream(&format!("UPSTASH_REDIS_URL={url}\nREDIS_URL={url}"));
    assert_eq!(upstream.address, tcp("your-redis.upstash.io", 6379));
    assert_eq!(upstream.password.unwrap().expose(), "your-upstash-token");
    assert_eq!(upstream.username, None);
    assert_eq!(upstream.tls.unwrap().verify, Verify::Full);
}

#[test]
fn the_connection_settings_go_to_theirs() {
    let upstream = upstream(
        "REDIS_URL=redis://r:1\nREDIS_MAX_CONNECTIONS=20\nREDIS_TIMEOUT=30\nREDIS_RETRY_ON_TIMEOUT=true",
    );
    assert_eq!(upstream.max_connections, 20);
    assert_eq!(upstream.command_timeout, Duration::from_secs(30));
    assert!(upstream.retry_reads);
    let half =
        self::upstream("REDIS_URL=redis://r:1\nREDIS_TIMEOUT=0.5\nREDIS_RETRY_ON_TIMEOUT=False");
    assert_eq!(half.command_timeout, Duration::from_millis(500));
    assert!(!half.retry_reads);
}

#[test]
fn a_placeholder_for_the_port_is_explained() {
    let errors = given()
        .envs("REDIS_URL=upstash://default:password@host:port\nREDIS_SSL=true")
        .errors();
    assert_eq!(
        errors,
        "env REDIS_URL: upstream.url: has the placeholder \"port\" for its port: write the number that your provider shows, such as 6379"
    );
    let errors = given().env("REDIS_URL", "upstash://...").errors();
    assert!(errors.contains("is it a placeholder?"), "{errors}");
    let errors = given()
        .env(
            "REDIS_URL",
            "redis://user:pass@redis-xxxxx.redislabs.com:port",
        )
        .errors();
    assert!(errors.contains("\"port\" for its port"), "{errors}");
}

#[test]
fn redis_cloud_is_plain_and_warned_about() {
    let sources = given().env(
        "REDIS_URL",
        "redis://default:password@redis-12345.redislabs.com:12345",
    );
    let upstream = sources.config().upstream;
    assert_eq!(upstream.address, tcp("redis-12345.redislabs.com", 12345));
    assert_eq!(upstream.username.as_deref(), Some("default"));
    assert!(upstream.tls.is_none());
    assert!(sources.warnings().contains("unencrypted"));
}

#[test]
fn host_port_and_password_make_an_address() {
    let upstream = upstream(
        "REDIS_HOST=10.0.0.5\nREDIS_PORT=6379\nREDIS_PASSWORD=secure-password\nREDIS_SSL=false",
    );
    assert_eq!(upstream.address, tcp("10.0.0.5", 6379));
    assert_eq!(upstream.password.unwrap().expose(), "secure-password");
    assert!(upstream.tls.is_none());
}

#[test]
fn an_endpoint_with_tls() {
    let upstream = upstream(
        "REDIS_ENDPOINT=condvest-price-cache.xxxxxx.cache.amazonaws.com\nREDIS_PORT=6379\nREDIS_SSL=true",
    );
    let host = "condvest-price-cache.xxxxxx.cache.amazonaws.com";
    assert_eq!(upstream.address, tcp(host, 6379));
    assert!(upstream.tls.is_some());
}

#[test]
fn an_empty_password_is_none() {
    let upstream = upstream("REDIS_HOST=redis\nREDIS_PORT=6379\nREDIS_DB=0\nREDIS_PASSWORD=");
    assert_eq!(upstream.address, tcp("redis", 6379));
    assert_eq!((upstream.password, upstream.database), (None, 0));
}

#[test]
fn user_and_database_complete_a_host() {
    let upstream = upstream(
        "REDIS_HOST=::1\nREDIS_PORT=6380\nREDIS_DB=2\nREDIS_USERNAME=u\nREDIS_PASSWORD=p:@/",
    );
    assert_eq!(upstream.address, tcp("::1", 6380));
    assert_eq!(
        (upstream.database, upstream.username.as_deref()),
        (2, Some("u"))
    );
    assert_eq!(upstream.password.unwrap().expose(), "p:@/");
}

#[test]
fn the_order_of_the_variables() {
    let all = "UPSTASH_REDIS_URL=rediss://a:1\nREDIS_URL=redis://b:1\nREDIS_ENDPOINT=c\nREDIS_HOST=d\nREDIS_PORT=1";
    for (skip, host) in ["a", "b", "c", "d"].into_iter().enumerate() {
        let env: Vec<&str> = all.lines().skip(skip).collect();
        assert_eq!(upstream(&env.join("\n")).address, tcp(host, 1));
    }
}

#[test]
fn an_endpoint_may_carry_its_port() {
    assert_eq!(
        upstream("REDIS_ENDPOINT=cache:6380").address,
        tcp("cache", 6380)
    );
    let both = upstream("REDIS_ENDPOINT=cache:6380\nREDIS_PORT=6380");
    assert_eq!(both.address, tcp("cache", 6380));
    let errors = given()
        .envs("REDIS_ENDPOINT=cache:6380\nREDIS_PORT=6379")
        .errors();
    assert!(errors.contains("differs from REDIS_PORT"), "{errors}");
}

#[test]
fn the_port_of_a_kubernetes_service_is_understood() {
    let upstream = upstream("REDIS_HOST=redis\nREDIS_PORT=tcp://10.0.0.11:6390");
    assert_eq!(upstream.address, tcp("redis", 6390));
}

#[test]
fn a_url_stands_for_itself() {
    let sources =
        given().envs("REDIS_URL=redis://r:1\nREDIS_PASSWORD=canary\nREDIS_DB=7\nREDIS_PORT=9");
    let upstream = sources.config().upstream;
    assert_eq!((upstream.address, upstream.database), (tcp("r", 1), 0));
    assert_eq!(upstream.password, None);
    let warnings = sources.warnings();
    assert!(
        warnings.starts_with("REDIS_PASSWORD is not used"),
        "{warnings}"
    );
}

#[test]
fn an_application_with_its_own_view_does_not_disturb() {
    let sources = given()
        .envs(
            "REDIS_HOST=localhost\nREDIS_PORT=6379\nREDIS_PASSWORD=app\nREDIS_SSL=true\nREDIS_DB=x",
        )
        .env("NEARKEY_UPSTREAM__URL", "redis://real:1");
    let upstream = sources.config().upstream;
    assert_eq!(upstream.address, tcp("real", 1));
    assert!(upstream.password.is_none() && upstream.tls.is_none());
}

#[test]
fn redis_ssl_asks_for_tls_and_never_takes_it_away() {
    assert!(
        upstream("REDIS_URL=redis://r:1\nREDIS_SSL=true")
            .tls
            .is_some()
    );
    assert!(
        upstream("REDIS_URL=rediss://r:1\nREDIS_SSL=false")
            .tls
            .is_some()
    );
    assert!(
        upstream("REDIS_HOST=x.upstash.io\nREDIS_SSL=false")
            .tls
            .is_some()
    );
    let errors = given().envs("REDIS_HOST=r\nREDIS_SSL=maybe").errors();
    assert_eq!(errors, "env REDIS_SSL: \"maybe\" is neither true nor false");
}

#[test]
fn the_checks_of_the_certificate() {
    let verify = |env: &str| {
        let upstream = upstream(&format!("REDIS_URL=rediss://r:1\n{env}"));
        upstream.tls.unwrap().verify
    };
    let seed =
        "REDIS_SSL_CERT_REQS=required\nREDIS_SSL_CHECK_HOSTNAME=true\nREDIS_AUTH_REQUIRED=false";
    assert_eq!(verify(seed), Verify::Full);
    assert_eq!(verify("REDIS_SSL_CERT_REQS=optional"), Verify::Full);
    assert_eq!(verify("REDIS_SSL_CERT_REQS=none"), Verify::None);
    assert_eq!(verify("REDIS_SSL_CHECK_HOSTNAME=false"), Verify::Ca);
    assert_eq!(
        verify("REDIS_SSL_CERT_REQS=required\nREDIS_SSL_CHECK_HOSTNAME=False"),
        Verify::Ca
    );
    assert_eq!(
        verify("REDIS_SSL_CERT_REQS=none\nREDIS_SSL_CHECK_HOSTNAME=true"),
        Verify::None
    );
    let weak = given()
        .envs("REDIS_URL=rediss://r:1\nREDIS_SSL_CERT_REQS=none")
        .warnings();
    assert!(
        weak.starts_with("upstream.verify is \"none\" (env REDIS_SSL_CERT_REQS)"),
        "{weak}"
    );
    let errors = given()
        .envs("REDIS_URL=rediss://r:1\nREDIS_SSL_CERT_REQS=maybe")
        .errors();
    assert_eq!(
        errors,
        "env REDIS_SSL_CERT_REQS: must be required, optional or none"
    );
}

#[test]
fn required_credentials_must_be_there() {
    let errors = given()
        .envs("REDIS_HOST=r\nREDIS_AUTH_REQUIRED=true")
        .errors();
    assert!(
        errors.starts_with("env REDIS_AUTH_REQUIRED: is true, but there is no password"),
        "{errors}"
    );
    let upstream = upstream("REDIS_URL=redis://:p@r\nREDIS_AUTH_REQUIRED=true");
    assert!(upstream.password.is_some());
}

#[test]
fn the_proxy_itself_is_no_upstream() {
    let errors = given()
        .envs("REDIS_HOST=localhost\nREDIS_PORT=6379")
        .errors();
    let start = "env REDIS_HOST: upstream.url: names 127.0.0.1:6379, which is Nearkey's own listen.address (default)";
    assert!(errors.starts_with(start), "{errors}");
    assert!(errors.contains("NEARKEY_UPSTREAM__URL"), "{errors}");
    for (url, listen) in [
        ("redis://localhost:6379/0", "127.0.0.1:6379"),
        ("redis://127.0.0.1", "0.0.0.0:6379"),
        ("redis://[::1]:6379", "[::]:6379"),
        ("redis://0.0.0.0:6379", "127.0.0.1:6379"),
        ("redis://10.0.0.5:7000", "10.0.0.5:7000"),
        ("redis://localhost:9180", "127.0.0.1:6379"),
        ("unix:///run/n.sock", "unix:/run/n.sock"),
    ] {
        let errors = given()
            .env("REDIS_URL", url)
            .flags(&format!("--listen {listen}"))
            .errors();
        assert!(
            errors.contains("connect to itself"),
            "{url} {listen} {errors}"
        );
    }
    for (url, listen) in [
        ("redis://localhost:6380", "127.0.0.1:6379"),
        ("redis://127.0.0.2:6379", "127.0.0.1:6379"),
        ("redis://redis:6379", "0.0.0.0:6379"),
        ("redis://localhost:6379", "127.0.0.1:0"),
    ] {
        given()
            .env("REDIS_URL", url)
            .flags(&format!("--listen {listen}"))
            .config();
    }
}

#[test]
fn other_variables_are_not_ours() {
    let env = "REDIS_URL=redis://r:1\nREDIS_SERVICE_HOST=x\nREDIS_TLS=x\nUPSTASH_REDIS_REST_URL=https://x";
    given().envs(env).config();
}

#[test]
fn the_rest_address_alone_is_explained() {
    let errors = given()
        .envs(
            "UPSTASH_REDIS_REST_URL=https://your-redis.upstash.io\nUPSTASH_REDIS_REST_TOKEN=canary",
        )
        .errors();
    assert!(
        errors.contains("UPSTASH_REDIS_REST_URL is Upstash's HTTP address"),
        "{errors}"
    );
    let errors = given()
        .env("REDIS_URL", "https://your-redis.upstash.io")
        .errors();
    assert!(
        errors.contains("rediss://default:PASSWORD@HOST:6379"),
        "{errors}"
    );
}
