//! L1 in `/metrics` and `/health`, and the page of hot keys.

use metrics::{Gauge, Unit};
use serde::Serialize;
use serde_json::json;

use super::State;
use super::http::{Request, Response, Status};
use super::metrics::Metrics;
use crate::l1::hot::{By, HotKey, Reason};
use crate::l1::report::{DEFAULT_HOT, InForce, MAX_HOT, Report, name_of, units};
use crate::l1::tracker::Standing;

/// Over this many of the hottest keys it is counted why they are answered from L1 or not.
const COUNTED: usize = 100;

/// What becomes of hot keys, as a label, and which reason it stands for.
const FATES: [(&str, Option<Reason>); 9] = [
    ("cached", None),
    ("no_rule", Some(Reason::NoRule)),
    ("rule", Some(Reason::Rule)),
    ("too_large", Some(Reason::TooLarge)),
    ("command", Some(Reason::Command)),
    ("in_flight", Some(Reason::InFlight)),
    ("not_tracked", Some(Reason::NotTracked)),
    ("written", Some(Reason::Written)),
    ("too_seldom", Some(Reason::TooSeldom)),
];

impl State {
    /// What L1 is doing.
    pub(super) fn l1_report(&self) -> Report<'_> {
        Report::new(self.l1.as_deref(), &self.workers)
    }
}

/// The `l1` of `/health`.
#[derive(Serialize)]
pub(super) struct Health {
    mode: &'static str,
    configured: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    why: String,
    entries: u64,
    bytes: u64,
    max_bytes: u64,
    /// `null` where there was nothing to hit.
    hit_ratio: Option<f64>,
}

/// How L1 is. It has no part in whether the process is healthy: without it, reads travel.
pub(super) fn health(state: &State) -> Health {
    let report = state.l1_report();
    let (mode, why) = report.in_force();
    Health {
        mode: mode.as_str(),
        configured: report.configured(),
        why,
        entries: report.entries(),
        bytes: report.bytes(),
        max_bytes: report.max_bytes(),
        hit_ratio: report.hit_ratio(),
    }
}

impl Metrics {
    /// The series of L1; there without one, too, so that dashboards need not know.
    pub(super) fn add_l1(&mut self, state: &State) {
        self.add_l1_reads();
        self.add_l1_fills();
        self.add_l1_state();
        self.add_l1_savings(state);
    }

    fn add_l1_reads(&mut self) {
        let help = "Commands answered from L1.";
        self.counter("nearkey_l1_hits_total", help, |s| s.sum(|c| &c.l1_hits));
        let help = "Bytes of those commands and of their replies.";
        self.counter("nearkey_l1_hit_bytes_total", help, |s| {
            s.sum(|c| &c.l1_hit_bytes)
        });
        let help = "Reads that L1 could have answered had it known the key.";
        self.counter("nearkey_l1_misses_total", help, |s| s.sum(|c| &c.l1_misses));
        let help = "Reads that waited for a fetch which another had ordered.";
        self.counter("nearkey_l1_joins_total", help, |s| s.sum(|c| &c.l1_joins));
        let help = "Fetches ordered on tracked connections.";
        self.counter("nearkey_l1_fetches_total", help, |s| {
            s.sum(|c| &c.l1_fetches)
        });
        let help = "Commands answered by a fetch.";
        self.counter("nearkey_l1_fetched_total", help, |s| {
            s.sum(|c| &c.l1_fetched)
        });
        let help = "Commands answered beyond an entry's age while the server was unreachable.";
        self.counter("nearkey_l1_stale_hits_total", help, |s| {
            s.sum(|c| &c.l1_stale_hits)
        });
        let help = "Commands that L1 would have answered had it not only observed.";
        self.counter("nearkey_l1_observed_hits_total", help, |s| {
            s.sum(|c| &c.l1_observed_hits)
        });
        let help = "Reads of a kind that L1 holds which it did not look for.";
        let mut bypass = self.family("nearkey_l1_bypass_total", help);
        bypass.add("reason", "rule", |s| s.sum(|c| &c.l1_bypass_rule));
        bypass.add("reason", "pipeline", |s| s.sum(|c| &c.l1_bypass_pipeline));
        bypass.add("reason", "waste", |s| s.sum(|c| &c.l1_bypass_waste));
        bypass.add("reason", "down", |s| s.sum(|c| &c.l1_bypass_down));
    }

    fn add_l1_fills(&mut self) {
        let help = "Replies that were kept.";
        self.counter("nearkey_l1_fills_total", help, |s| s.sum(|c| &c.l1_fills));
        let help = "Replies that were fetched and not kept.";
        let mut rejected = self.family("nearkey_l1_fills_rejected_total", help);
        rejected.add("reason", "moved", |s| s.sum(|c| &c.l1_fills_moved));
        rejected.add("reason", "large", |s| s.sum(|c| &c.l1_fills_large));
        rejected.add("reason", "unfit", |s| s.sum(|c| &c.l1_fills_unfit));
        let help = "Entries dropped for lack of room.";
        self.counter("nearkey_l1_evictions_total", help, |s| {
            s.l1_report().kept().evictions
        });
        let help = "Entries taken out because they were too old, or their key had changed.";
        self.counter("nearkey_l1_swept_total", help, |s| {
            s.l1_report().kept().swept
        });
        let help = "Replies that were not kept because too many came at once.";
        self.counter("nearkey_l1_dropped_total", help, |s| {
            s.l1_report().kept().dropped
        });
        let help = "Invalidation pushes of the server.";
        self.counter("nearkey_l1_pushes_total", help, |s| s.sum(|c| &c.l1_pushes));
        let help = "Keys that pushes named.";
        self.counter("nearkey_l1_pushed_keys_total", help, |s| {
            s.sum(|c| &c.l1_pushed_keys)
        });
        let help = "Pushes that ended everything.";
        self.counter("nearkey_l1_flushes_total", help, |s| {
            s.sum(|c| &c.l1_flushes)
        });
        let help = "Commands sent for L1's own sake.";
        self.counter("nearkey_l1_overhead_commands_total", help, |s| {
            s.sum(|c| &c.l1_overhead_commands)
        });
        let help = "Bytes of those commands, of their replies, and of pushes.";
        self.counter("nearkey_l1_overhead_bytes_total", help, |s| {
            s.sum(|c| &c.l1_overhead_bytes)
        });
    }

    fn add_l1_state(&mut self) {
        let help = "Entries in L1, about.";
        self.gauge("nearkey_l1_entries", help, |s| {
            s.l1_report().entries() as f64
        });
        let help = "Memory of L1's entries, about.";
        self.gauge_in(Unit::Bytes, "nearkey_l1_bytes", help, |s| {
            s.l1_report().bytes() as f64
        });
        let help =
            "Bound on that memory: cache.max_bytes, or what process.memory_limit leaves of it.";
        self.gauge_in(Unit::Bytes, "nearkey_l1_max_bytes", help, |s| {
            s.l1_report().max_bytes() as f64
        });
        let name = "nearkey_l1_mode";
        metrics::describe_gauge!(name, "1 for what keeps L1 coherent now, 0 for all else.");
        for mode in InForce::ALL {
            let gauge = metrics::gauge!(name, "mode" => mode.as_str());
            self.add_gauge(gauge, move |s| {
                f64::from(u8::from(s.l1_report().in_force().0 == mode))
            });
        }
        let name = "nearkey_l1_connections";
        metrics::describe_gauge!(name, Unit::Count, "Connections for L1, by how they stand.");
        for (word, standing) in [
            ("tracking", Standing::Tracking),
            ("timed", Standing::Timed),
            ("opening", Standing::Opening),
            ("closed", Standing::Closed),
        ] {
            let gauge = metrics::gauge!(name, "standing" => word);
            self.add_gauge(gauge, move |s| s.l1_report().connections(standing) as f64);
        }
    }

    fn add_l1_savings(&mut self, state: &State) {
        let help = "Commands that the server did not get, less those of L1's own.";
        self.gauge("nearkey_l1_saved_commands", help, |s| {
            s.l1_report().savings().commands as f64
        });
        let help = "Bytes that did not travel.";
        self.gauge_in(Unit::Bytes, "nearkey_l1_saved_bytes", help, |s| {
            s.l1_report().savings().bytes as f64
        });
        let help = "What clients did not wait, by the mean round trip.";
        self.gauge_in(Unit::Seconds, "nearkey_l1_saved_seconds", help, |s| {
            s.l1_report().savings().waiting.as_secs_f64()
        });
        if state.l1_report().has_prices() {
            let help = "What the provider did not charge, at the prices of [cost].";
            self.gauge("nearkey_l1_saved_money", help, |s| {
                units(s.l1_report().savings().money.unwrap_or(0))
            });
            let help = "What it would not have, for hits that were only observed.";
            self.gauge("nearkey_l1_would_save_money", help, |s| {
                units(s.l1_report().unused().money.unwrap_or(0))
            });
        }
    }
}

/// How many of the hottest keys meet which fate.
pub(super) struct HotCounts(Vec<(Gauge, Option<Reason>)>);

impl HotCounts {
    /// Registers the series.
    pub(super) fn new() -> Self {
        let name = "nearkey_l1_hot_keys";
        let help = "The 100 keys read most within the last minute, by what becomes of their reads.";
        metrics::describe_gauge!(name, Unit::Count, help);
        let series = FATES.map(|(word, why)| (metrics::gauge!(name, "fate" => word), why));
        Self(series.into())
    }

    pub(super) fn update(&self, state: &State) {
        let keys = state.l1_report().hot_keys(By::Reads, COUNTED);
        for (gauge, fate) in &self.0 {
            let meets = |key: &&HotKey| key.reads > 0 && key.why_not == *fate;
            gauge.set(keys.iter().filter(meets).count() as f64);
        }
    }
}

/// `/hotkeys`: `?by=reads|misses|bytes|writes`, `n`, `format=json|text`.
pub(super) fn hot_keys(state: &State, request: &Request) -> Response {
    match Wish::of(request) {
        Err(what) => Response::text(Status::BadRequest, format!("{what}\n")),
        Ok(wish) => {
            let keys = state.l1_report().hot_keys(wish.by.0, wish.top);
            match wish.text {
                true => Response::text(Status::Ok, table(state, &wish, &keys)),
                false => Response::json(Status::Ok, &page(state, &wish, &keys)),
            }
        }
    }
}

struct Wish {
    by: (By, &'static str),
    top: usize,
    text: bool,
}

impl Wish {
    const BY: [(By, &'static str); 4] = [
        (By::Reads, "reads"),
        (By::Unanswered, "misses"),
        (By::Bytes, "bytes"),
        (By::Writes, "writes"),
    ];

    fn of(request: &Request) -> Result<Self, String> {
        let mut wish = Self {
            by: Self::BY[0],
            top: DEFAULT_HOT,
            text: request.wants_text,
        };
        for pair in request.query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            match (name, value) {
                ("format", "text") => wish.text = true,
                ("format", "json") => wish.text = false,
                ("format", _) => return Err("format is json or text".to_owned()),
                ("n", n) => {
                    let number = n.parse().ok().filter(|n| (1..=MAX_HOT).contains(n));
                    wish.top = number.ok_or(format!("n is a number from 1 to {MAX_HOT}"))?;
                }
                ("by", word) => {
                    let by = Self::BY.into_iter().find(|(_, name)| *name == word);
                    wish.by = by.ok_or("by is reads, misses, bytes or writes")?;
                }
                _ => return Err("the options are by, n and format".to_owned()),
            }
        }
        Ok(wish)
    }
}

fn page(state: &State, wish: &Wish, keys: &[HotKey]) -> serde_json::Value {
    let rows = keys.iter().map(|key| {
        json!({
            "key": name_of(key),
            "reads": key.reads,
            "hits": key.hits,
            "misses": key.misses,
            "writes": key.writes,
            "bytes": key.bytes,
            "advice": key.advice(),
        })
    });
    let rows: Vec<_> = rows.collect();
    json!({ "l1": health(state), "by": wish.by.1, "seconds": 60, "keys": rows })
}

/// For a terminal. The name comes last, since its width is anybody's guess.
fn table(state: &State, wish: &Wish, keys: &[HotKey]) -> String {
    let health = health(state);
    let why = match health.why.as_str() {
        "" => String::new(),
        why => format!(" ({why})"),
    };
    let (mode, by) = (health.mode, wish.by.1);
    let mut text = format!("L1: {mode}{why}\nLast minute, about; most {by} first.\n\n");
    let row = |cells: [&str; 7]| {
        let [reads, hits, misses, writes, bytes, advice, key] = cells;
        format!("{reads:>9} {hits:>9} {misses:>9} {writes:>9} {bytes:>12}  {advice:<55} {key}\n")
    };
    let head = [
        "reads", "hits", "misses", "writes", "bytes", "advice", "key",
    ];
    text += &row(head);
    for key in keys {
        let counts = [key.reads, key.hits, key.misses, key.writes, key.bytes];
        let [reads, hits, misses, writes, bytes] = counts.map(|count| count.to_string());
        let (advice, name) = (key.advice(), name_of(key));
        text += &row([&reads, &hits, &misses, &writes, &bytes, advice, &name]);
    }
    if keys.is_empty() {
        text += "(no key was read or written)\n";
    }
    text
}
