//! What the endpoint tells of L1.

use super::*;
use crate::commands::CommandTable;
use crate::l1::config::{Config, Cost, Verb};
use crate::l1::entry::Scope;
use crate::l1::hot::{Event, Hot, Reason};
use crate::l1::tracker::Standing;

fn l1(config: Config) -> Arc<L1> {
    L1::new(config, &CommandTable::builtin()).unwrap()
}

fn caching() -> Config {
    Config {
        default: Verb::Cache,
        ..Config::default()
    }
}

fn with(l1: &Arc<L1>) -> State {
    State {
        l1: Some(l1.clone()),
        ..state()
    }
}

/// A worker that has seen these events.
fn hot(l1: &L1, events: &[(&[u8], Event, u32)]) {
    let hot = Hot::new(l1.config().hash_key_names);
    l1.watch(hot.view());
    for (key, event, times) in events {
        for _ in 0..*times {
            hot.note(key, l1.stamps.hash(key), *event, 10);
        }
    }
}

#[tokio::test]
async fn hits_are_commands_and_keyspace_hits() {
    let (address, state) = start(with(&l1(caching()))).await;
    let [one, two] = [&state.workers[0].counters, &state.workers[1].counters];
    one.commands_shared.add(5);
    one.l1_hits.add(30);
    two.l1_hits.add(10);
    two.l1_fetched.add(2);
    two.l1_misses.add(10);
    one.l1_hit_bytes.add(4_000);
    one.l1_overhead_commands.add(6);
    one.l1_bypass_rule.add(1);
    one.l1_fills_large.add(3);
    let (_, text) = get(address, "/metrics").await;
    let samples = samples(&text);
    for (series, value) in [
        ("nearkey_l1_hits_total", 40.0),
        ("redis_keyspace_hits_total", 40.0),
        ("redis_keyspace_misses_total", 10.0),
        ("nearkey_commands_total{class=\"l1\"}", 42.0),
        ("redis_commands_total", 47.0),
        ("nearkey_l1_bypass_total{reason=\"rule\"}", 1.0),
        ("nearkey_l1_bypass_total{reason=\"pipeline\"}", 0.0),
        ("nearkey_l1_bypass_total{reason=\"waste\"}", 0.0),
        ("nearkey_l1_bypass_total{reason=\"down\"}", 0.0),
        ("nearkey_l1_fills_rejected_total{reason=\"large\"}", 3.0),
        ("nearkey_l1_overhead_commands_total", 6.0),
        ("nearkey_l1_saved_commands", 34.0),
        ("nearkey_l1_saved_bytes", 4_000.0),
        ("nearkey_l1_max_bytes", 67_108_864.0),
    ] {
        assert_eq!(samples.get(series), Some(&value), "{series}");
    }
    assert!(!text.contains("money"), "no price is stated");
}

#[tokio::test]
async fn money_is_told_where_prices_are_stated() {
    let cost = Cost {
        per_100k_commands: 400_000,
        per_gb: 0,
    };
    let config = Config { cost, ..caching() };
    let (address, state) = start(with(&l1(config))).await;
    state.workers[0].counters.l1_hits.add(50_000);
    state.workers[0].counters.l1_observed_hits.add(25_000);
    let (_, text) = get(address, "/metrics").await;
    let samples = samples(&text);
    assert_eq!(samples["nearkey_l1_saved_money"], 0.2);
    assert_eq!(samples["nearkey_l1_would_save_money"], 0.1);
}

#[tokio::test]
async fn the_mode_is_told_with_its_reason_and_changes_no_verdict() {
    let l1 = l1(caching());
    let (address, state) = start(with(&l1)).await;
    set(&state, UpstreamState::Up);
    let shown = async || {
        let (code, health) = get_json(address, "/health").await;
        assert_eq!((code, &health["status"]), (200, &json!("healthy")));
        assert_eq!(get(address, "/ready").await.0, 200);
        health["l1"].clone()
    };
    let mode = async |mode: &str| {
        let (_, text) = get(address, "/metrics").await;
        let series = format!("nearkey_l1_mode{{mode=\"{mode}\"}}");
        let samples = samples(&text);
        let modes = samples
            .iter()
            .filter(|(s, _)| s.starts_with("nearkey_l1_mode{"));
        assert_eq!(modes.map(|(_, value)| value).sum::<f64>(), 1.0);
        samples[series.as_str()] == 1.0
    };
    assert_eq!(shown().await["mode"], "waiting");
    let tracker = l1.tracker(Scope::default());
    tracker.set_standing(Standing::Timed, Some("unknown subcommand 'tracking'"));
    let told = shown().await;
    assert_eq!(
        (&told["mode"], &told["configured"]),
        (&json!("off"), &json!("auto"))
    );
    assert!(
        told["why"]
            .as_str()
            .unwrap()
            .starts_with("unknown subcommand")
    );
    assert!(mode("off").await);
    tracker.set_standing(Standing::Tracking, None);
    state.workers[1].counters.l1_hits.add(3);
    state.workers[0].counters.l1_misses.add(1);
    let expected = json!({
        "mode": "tracking", "configured": "auto", "entries": 0, "bytes": 0,
        "max_bytes": 67_108_864, "hit_ratio": 0.75,
    });
    assert_eq!(shown().await, expected);
    assert!(mode("tracking").await);
    let (_, text) = get(address, "/metrics").await;
    assert_eq!(
        samples(&text)["nearkey_l1_connections{standing=\"tracking\"}"],
        1.0
    );
}

#[tokio::test]
async fn a_process_without_l1_says_so() {
    let (address, _) = start(state()).await;
    let (_, health) = get_json(address, "/health").await;
    assert_eq!(health["l1"]["mode"], "off");
    assert!(health["l1"]["why"].as_str().unwrap().contains("cache.mode"));
    assert_eq!(health["l1"]["hit_ratio"], Value::Null);
    let (code, page) = get_json(address, "/hotkeys").await;
    assert_eq!((code, &page["keys"]), (200, &json!([])));
}

#[tokio::test]
async fn hot_keys_are_listed_with_advice_over_all_workers() {
    let l1 = l1(caching());
    let missed = Event::Bypass(Reason::NoRule);
    hot(&l1, &[(b"a", Event::Hit, 20), (b"b", missed, 10)]);
    hot(
        &l1,
        &[(b"a", Event::Hit, 10), (b"c\x1b[2J", Event::Miss, 1)],
    );
    let (address, _) = start(with(&l1)).await;
    let (_, page) = get_json(address, "/hotkeys").await;
    let first = json!({
        "key": "a", "reads": 30, "hits": 30, "misses": 0, "writes": 0, "bytes": 300,
        "advice": "cached",
    });
    assert_eq!(page["keys"][0], first);
    assert_eq!(page["keys"][1]["advice"], Reason::NoRule.advice());
    assert_eq!(page["keys"][2]["key"], "c\\u{1b}[2J");
    assert_eq!(
        (&page["by"], &page["l1"]["mode"]),
        (&json!("reads"), &json!("waiting"))
    );
    let (_, page) = get_json(address, "/hotkeys?by=misses&n=1").await;
    assert_eq!(page["keys"].as_array().map(Vec::len), Some(1));
    assert_eq!(page["keys"][0]["key"], "b");

    let (_, text) = get(address, "/metrics").await;
    let samples = samples(&text);
    assert_eq!(samples["nearkey_l1_hot_keys{fate=\"cached\"}"], 1.0);
    assert_eq!(samples["nearkey_l1_hot_keys{fate=\"no_rule\"}"], 1.0);
    assert!(
        !samples.keys().any(|series| series.contains("c\\u")),
        "a key became a label"
    );
}

#[tokio::test]
async fn hot_keys_are_text_for_those_who_ask_for_it() {
    let l1 = l1(caching());
    hot(&l1, &[(b"product:1", Event::Hit, 7)]);
    let (address, _) = start(with(&l1)).await;
    let (_, text) = get(address, "/hotkeys?format=text").await;
    assert!(text.starts_with("L1: waiting ("), "{text}");
    let row = text.lines().last().unwrap();
    let words: Vec<&str> = row.split_whitespace().collect();
    assert_eq!(words, ["7", "7", "0", "0", "70", "cached", "product:1"]);
    let request = b"GET /hotkeys HTTP/1.0\r\nAccept: text/plain\r\n\r\n";
    assert!(exchange(address, request).await.ends_with(&text));
    let request = b"GET /hotkeys?format=json HTTP/1.0\r\nAccept: text/plain\r\n\r\n";
    assert!(
        exchange(address, request)
            .await
            .contains("application/json")
    );
    for (query, what) in [
        ("n=0", "n is a number"),
        ("n=x", "n is a number"),
        ("by=age", "by is reads"),
        ("format=xml", "format is"),
        ("top=3", "the options are"),
    ] {
        let (code, body) = get(address, &format!("/hotkeys?{query}")).await;
        assert!(code == 400 && body.starts_with(what), "{query}: {body}");
    }
}

#[tokio::test]
async fn names_of_keys_can_be_kept_from_sight() {
    let config = Config {
        hash_key_names: true,
        ..caching()
    };
    let l1 = l1(config);
    hot(&l1, &[(b"user:jane@example.org", Event::Hit, 3)]);
    let (address, _) = start(with(&l1)).await;
    let hash = format!("#{:016x}", l1.stamps.hash(b"user:jane@example.org"));
    let (_, page) = get_json(address, "/hotkeys").await;
    assert_eq!(page["keys"][0]["key"], hash.as_str());
    for path in ["/hotkeys", "/hotkeys?format=text", "/metrics", "/health"] {
        assert!(!get(address, path).await.1.contains("jane"), "{path}");
    }
}
