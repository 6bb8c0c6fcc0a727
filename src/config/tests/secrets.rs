//! Secrets planted in every place where one can stand; none may come out anywhere.

use super::{Dir, Given, given};
use crate::cli;

const CANARY: &str = "c4n4ry";

/// Everything that a load can print.
fn output(sources: &Given) -> String {
    match sources.load() {
        Ok(loaded) => format!("{loaded:?}\n{}\n{:?}", loaded.effective, loaded.warnings),
        Err(errors) => format!("{errors}\n{errors:?}"),
    }
}

fn assert_hidden(sources: &Given) {
    let output = output(sources);
    assert!(!output.contains(CANARY), "{output}");
}

#[test]
fn no_url_gives_its_secret_away() {
    for url in [
        "redis://:c4n4ry@r:1",
        "redis://user:c4n4ry@r:1/2",
        "rediss://user:c4n4ry@r:1/x",
        "redis://user:c4n4ry@r:port",
        "redis://user:c4n4ry@r:99999",
        "redis://user:c4n4ry@r:1?ssl_ca_certs=x",
        "redis://user:c4/n4ry@r:1",
        "redis://user:/c4n4ry@r:1",
        "redis://user:?c4n4ry@r:1",
        "redis://user:#c4n4ry@r:1",
        "redis://user:c4n4ry",
        "redis://c4n4ry:6379/x",
        "redis://r:1/c4n4ry",
        "redis://r:1?c4n4ry=C",
        "redis://r:1?db=c4n4ry",
        "redis://r:1?ssl_cert_reqs=c4n4ry",
        "redis://:c4n4ry@a b",
        "redis://:c4n4ry@[::1",
        "redis://:c4n4ry@[::1]x",
        "redis://:c4n4ry%FF@r",
        "\"redis://:c4n4ry@r:1\"",
        "redis-cli -u redis://:c4n4ry@r:1",
        "http://:c4n4ry@r:1",
        "c4n4ry",
        "c4n4ry://x",
        "unix://user:c4n4ry@/run/r.sock",
        "unix:///run/r.sock?password=c4n4ry",
        "unix://c4n4ry",
        "redis://:c4n4ry@localhost:6379",
    ] {
        assert_hidden(&given().env("REDIS_URL", url));
        assert_hidden(&given().env("UPSTASH_REDIS_URL", url));
        assert_hidden(&given().env("NEARKEY_UPSTREAM__URL", url));
        assert_hidden(&given().file(&format!("[upstream]\nurl = '{url}'\n")));
        let mut flag = given();
        flag.args = vec!["--upstream".to_owned(), url.to_owned()];
        assert_hidden(&flag);
    }
}

#[test]
fn no_other_source_gives_its_secret_away() {
    let dir = Dir::new();
    let file = dir.write("secret", CANARY);
    let url = || given().env("REDIS_URL", "redis://r:1");
    for sources in [
        given().envs("REDIS_HOST=r\nREDIS_PASSWORD=c4n4ry"),
        given().envs("REDIS_HOST=redis://:c4n4ry@r\nREDIS_PASSWORD=c4n4ry"),
        given().envs("REDIS_HOST=r\nREDIS_PORT=redis://:c4n4ry@r:1"),
        url().env("REDIS_PASSWORD", CANARY),
        url().env("NEARKEY_UPSTREAM__PASSWORD", CANARY),
        url().env("NEARKEY_UPSTREAM__PASWORD", CANARY),
        url().env("NEARKEY_LISTEN__PASSWORD", CANARY),
        url().env("NEARKEY_UPSTREAM__PASSWORD_FILE", &file),
        url().env("NEARKEY_LISTEN__ADDRESS", "redis://:c4n4ry@r"),
        url().env("NEARKEY_UPSTREAM__VERIFY", "redis://:c4n4ry@r"),
        url().file("[upstream]\npassword = \"c4n4ry\"\n"),
        url().file("[upstream]\npasword = \"c4n4ry\"\n"),
        url().file("[upstream]\npassword = c4n4ry\n"),
        url().file("[upstream]\npassword = \"c4n4ry\n"),
        url().file("[upstream]\npassword \"c4n4ry\"\n"),
        url().file("[upstream]\npassword = [\"c4n4ry\"]\n"),
        url().file("password = \"c4n4ry\"\n"),
    ] {
        assert_hidden(&sources);
    }
}

#[test]
fn the_password_is_there_though_it_does_not_show() {
    let loaded = given().env("REDIS_URL", "redis://u:c4n4ry@r:1").loaded();
    assert_eq!(loaded.config.upstream.password.unwrap().expose(), CANARY);
    let shown = loaded.effective.to_string();
    assert!(shown.contains("url = \"redis://<hidden>@r:1\""), "{shown}");
    assert!(shown.contains("password = \"<hidden>\""), "{shown}");
}

#[test]
fn a_token_in_the_place_of_the_user_does_not_show() {
    let loaded = given().env("REDIS_URL", "redis://c4n4ry@r:1").loaded();
    assert!(!loaded.effective.to_string().contains(CANARY));
    let warning = loaded.warnings.join("\n");
    assert!(warning.contains("a token alone is written redis://:TOKEN@HOST"));
    assert!(!warning.contains(CANARY));
}

#[test]
fn what_stands_in_for_a_secret_is_no_secret() {
    let shown = given()
        .env("REDIS_URL", "redis://u:p@r:1")
        .loaded()
        .effective;
    let errors = given().file(&shown.to_string()).errors();
    assert_eq!(errors.lines().count(), 2, "{errors}");
    for line in errors.lines() {
        assert!(line.ends_with("write the secret itself"), "{line}");
    }
}

#[test]
fn a_misplaced_argument_is_not_repeated() {
    for args in [
        vec!["nearkey", "redis://:c4n4ry@r"],
        vec!["nearkey", "--upsteam=redis://:c4n4ry@r"],
        vec!["nearkey", "config", "redis://:c4n4ry@r"],
        vec!["nearkey", "healthcheck", "--timeout", "redis://:c4n4ry@r"],
    ] {
        let error = cli::parse_from(args.into_iter().map(Into::into))
            .err()
            .unwrap();
        assert!(!error.to_string().contains(CANARY), "{error}");
        assert_eq!(error.exit_code(), 2);
    }
}

#[test]
fn flags_do_not_show_the_upstream() {
    let args = ["nearkey", "--upstream", "redis://:c4n4ry@r"];
    let cli = cli::parse_from(args.map(Into::into)).ok().unwrap();
    assert!(!format!("{:?}", cli.flags).contains(CANARY));
}
