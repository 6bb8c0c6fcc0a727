//! Redis URLs as clients accept them.

use crate::config::url::Url;
use crate::upstream::Address;

fn parse(text: &str) -> Url {
    match Url::parse(text) {
        Ok(url) => url,
        Err(error) => panic!("{text}: {error}"),
    }
}

fn error(text: &str) -> String {
    Url::parse(text)
        .err()
        .unwrap_or_else(|| panic!("{text} was accepted"))
}

fn credentials(text: &str) -> (Option<String>, Option<String>) {
    let url = parse(text);
    let password = url.password.map(|password| password.expose().to_owned());
    (url.username, password)
}

#[test]
fn schemes_decide_on_tls() {
    for (url, tls) in [
        ("redis://h", false),
        ("REDIS://h", false),
        ("valkey://h", false),
        ("rediss://h", true),
        ("valkeys://h", true),
        ("upstash://h", true),
        ("unix:///s", false),
    ] {
        assert_eq!(parse(url).asks_for_tls(), tls, "{url}");
    }
}

#[test]
fn addresses_have_a_default_port() {
    for (url, address) in [
        ("redis://h", "h:6379"),
        ("redis://h:1", "h:1"),
        ("redis://h.example.com.:1", "h.example.com.:1"),
        ("redis://10.0.0.5:6380/0", "10.0.0.5:6380"),
        ("redis://[::1]:6379", "[::1]:6379"),
        ("redis://[2001:db8::1]", "[2001:db8::1]:6379"),
        ("  redis://h:1\r\n", "h:1"),
        ("unix:///run/redis.sock", "/run/redis.sock"),
        ("unix:/run/redis.sock", "/run/redis.sock"),
        ("redis+unix:///run/a%20b?db=1", "/run/a b"),
        ("redis+socket:///run/r.sock", "/run/r.sock"),
    ] {
        assert_eq!(parse(url).address.to_string(), address, "{url}");
    }
    let bracketed = parse("redis://[::1]").address;
    assert!(matches!(bracketed, Address::Tcp { host, .. } if host == "::1"));
}

#[test]
fn user_and_password() {
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(credentials("redis://h"), (None, None));
    assert_eq!(credentials("redis://:token@h"), (None, some("token")));
    assert_eq!(credentials("redis://user@h"), (some("user"), None));
    assert_eq!(credentials("redis://user:@h"), (some("user"), None));
    assert_eq!(
        credentials("redis://u%40x:p%2F%3a%25%C3%A4@h"),
        (some("u@x"), some("p/:%ä"))
    );
    assert_eq!(credentials("redis://u:a@b:c@h"), (some("u"), some("a@b:c")));
    assert_eq!(credentials("redis://u:100%@h"), (some("u"), some("100%")));
    assert_eq!(credentials("redis://u:a+b@h"), (some("u"), some("a+b")));
    assert_eq!(credentials("unix://u:p@/s"), (some("u"), some("p")));
    assert_eq!(credentials("unix:///s?password=p%40"), (None, some("p@")));
}

#[test]
fn databases_and_queries() {
    assert_eq!(parse("redis://h").database, None);
    assert_eq!(parse("redis://h/").database, None);
    assert_eq!(parse("rediss://h:1/2").database, Some(2));
    assert_eq!(parse("redis://h?db=3").database, Some(3));
    assert_eq!(parse("redis://h/2?db=3").database, Some(3));
    assert_eq!(parse("unix:///s?db=4").database, Some(4));
    assert_eq!(parse("rediss://h?ssl_cert_reqs=none").verify, Some("none"));
    assert_eq!(
        parse("rediss://h?ssl_cert_reqs=required").verify,
        Some("full")
    );
    assert_eq!(
        parse("rediss://h?ssl_check_hostname=false&db=1").verify,
        Some("ca")
    );
    assert_eq!(parse("rediss://h").verify, None);
}

#[test]
fn what_is_wrong_is_said() {
    for (url, part) in [
        ("h:6379", "must begin with redis://"),
        ("", "must begin with redis://"),
        ("ftp://h", "must begin with redis://"),
        ("https://h", "is an HTTP address"),
        ("redis-sentinel://h", "Sentinel or Cluster"),
        ("'redis://h'", "wrapped in quotes"),
        ("redis://", "names no host"),
        ("redis://:6379", "names no host"),
        ("redis://h:", "not a number from 1 to 65535"),
        ("redis://h:0", "not a number from 1 to 65535"),
        ("redis://h:65536", "not a number from 1 to 65535"),
        ("redis://h:<port>", "placeholder \"<port>\""),
        ("redis://h:${PORT}", "placeholder \"${PORT}\""),
        ("redis://<host>:1", "is it a placeholder?"),
        ("redis://::1:6379", "write [::1]:6379"),
        ("redis://[::1", "[ without its ]"),
        ("redis://[::1]6379", "between ] and the port"),
        ("redis://[h]x:1", "between ] and the port"),
        ("redis://h/one", "database that is not a number"),
        ("redis://h/1/2", "database that is not a number"),
        ("redis://h/-1", "database that is not a number"),
        ("redis://h#x", "# part"),
        ("redis://u:p/q@h", "percent-encoded"),
        ("redis://u:%FF@h", "not UTF-8"),
        ("redis://h?protocol=3", "query parameter protocol,"),
        ("redis://h?X-Y=3", "query parameter given,"),
        (
            "redis://h?ssl_cert_reqs=maybe",
            "required, optional or none",
        ),
        ("unix://run/redis.sock", "absolute path"),
        ("unix://redis.sock", "absolute path"),
    ] {
        let error = error(url);
        assert!(error.contains(part), "{url}: {error}");
    }
}

#[test]
fn a_url_prints_without_its_user_part() {
    for (url, printed) in [
        ("redis://h", "redis://h:6379"),
        ("upstash://default:p@h:1", "rediss://<hidden>@h:1"),
        ("redis://token@h/3", "redis://<hidden>@h:6379/3"),
        ("unix://u:p@/s?db=2", "unix://<hidden>@/s?db=2"),
        ("redis://[::1]:1", "redis://[::1]:1"),
    ] {
        assert_eq!(parse(url).to_string(), printed);
    }
}
