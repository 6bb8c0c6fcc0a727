//! `nearkey plan`: whether a fleet fits a server's connection limit, and what to set.
//!
//! The arithmetic is one line: instances x `upstream.max_connections` + other clients, against the
//! limit. The ceiling is hard, so the line holds whatever the applications do.

use std::fmt;

use serde_json::{Value, json};

mod providers;

pub use providers::{PROVIDERS, Provider};

/// During a rolling deploy old and new instances run side by side.
const DEPLOY: usize = 2;

/// Above this share of the limit there is little room for anything unforeseen.
const NARROW: f64 = 0.9;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// Connections that the server allows.
    pub limit: usize,
    /// Whose limit it is, if a provider's.
    pub provider: Option<&'static Provider>,
    /// Processes of Nearkey.
    pub instances: usize,
    /// `upstream.max_connections` of each.
    pub per_instance: usize,
    /// `upstream.connections` of each.
    pub shared: usize,
    /// Connections of others: jobs, consoles, monitoring.
    pub others: usize,
}

/// The answer; `Display` is for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    question: Question,
    /// `upstream.max_connections` and `upstream.connections` that fit, also during a deploy if that can
    /// be; `None` if nothing does.
    suggested: Option<(usize, usize)>,
    warnings: Vec<String>,
}

impl Plan {
    /// Computes the answer.
    pub fn new(question: Question) -> Self {
        let mut plan = Self {
            suggested: question.suggest(),
            question,
            warnings: Vec::new(),
        };
        plan.warn();
        plan
    }

    /// The fleet fits as it is.
    pub fn fits(&self) -> bool {
        self.question.total(1) <= self.question.limit
    }

    fn fits_deploy(&self) -> bool {
        self.question.total(DEPLOY) <= self.question.limit
    }

    fn warn(&mut self) {
        let q = self.question;
        if self.fits() && !self.fits_deploy() {
            self.warnings.push(format!(
                "a rolling deploy runs old and new instances side by side: {} connections of {}; deploy \
                 in steps, or lower upstream.max_connections",
                q.total(DEPLOY),
                q.limit
            ));
        }
        let narrow = q.total(1) as f64 > q.limit as f64 * NARROW;
        if self.fits() && narrow {
            self.warnings.push(format!(
                "{} of {} leaves little room: connections that a crashed instance left behind count until \
                 the server notices",
                q.total(1),
                q.limit
            ));
        }
        let per_instance = match self.suggested {
            Some((most, _)) if !self.fits() => most,
            _ if self.fits() => q.per_instance,
            _ => 1,
        };
        let own = per_instance.saturating_sub(1);
        let leases = match own {
            0 => "with one connection for each instance there is none beside the shared one: clients of a \
                  second protocol or database, blocking commands, WATCH and pub/sub take turns with it \
                  and wait, or fail"
                .to_owned(),
            1 => "blocking commands, WATCH, MONITOR and all subscribers together take a connection of \
                  their own: one of them at a time on each instance"
                .to_owned(),
            own => format!(
                "blocking commands, WATCH, MONITOR and all subscribers together take connections of their \
                 own: up to {own} at a time on each instance, fewer by each shared one beyond the first"
            ),
        };
        self.warnings.push(leases);
        if let Some(provider) = q.provider.filter(|provider| !provider.note.is_empty()) {
            self.warnings
                .push(format!("{}: {}", provider.plan, provider.note));
        }
    }

    /// Most instances with one connection each, now and during a deploy.
    fn most_instances(&self) -> (usize, usize) {
        let room = self.question.room();
        (room, room / DEPLOY)
    }

    /// A larger plan of the same provider that has room for one connection each during a deploy.
    fn larger(&self) -> Option<&'static Provider> {
        let fleets = self.question.instances.saturating_mul(DEPLOY);
        let needed = fleets.saturating_add(self.question.others);
        self.question.provider?.larger(needed)
    }

    /// The answer for programs.
    pub fn json(&self) -> Value {
        let q = self.question;
        let (instances, during_deploys) = self.most_instances();
        json!({
            "fits": self.fits(),
            "limit": q.limit,
            "provider": q.provider.map(|p| json!({
                "name": p.name, "plan": p.plan, "source": p.source, "as_of": p.as_of,
            })),
            "instances": q.instances,
            "connections_per_instance": q.per_instance,
            "other_clients": q.others,
            "total": q.total(1),
            "rolling_deploy": { "total": q.total(DEPLOY), "fits": self.fits_deploy() },
            "suggested": self.suggested.map(|(most, shared)| json!({
                "upstream.max_connections": most, "upstream.connections": shared,
            })),
            "most_instances": { "steady": instances, "rolling_deploy": during_deploys },
            "larger_plan": self.larger().map(|p| json!({ "name": p.name, "limit": p.max_clients })),
            "warnings": self.warnings,
        })
    }
}

impl Question {
    /// Connections when `times` as many instances run.
    fn total(&self, times: usize) -> usize {
        let fleet = self.instances.saturating_mul(self.per_instance);
        fleet.saturating_mul(times).saturating_add(self.others)
    }

    fn room(&self) -> usize {
        self.limit.saturating_sub(self.others)
    }

    fn suggest(&self) -> Option<(usize, usize)> {
        let instances = self.instances.max(1);
        let during_deploys = self.room() / instances.saturating_mul(DEPLOY);
        let most = match during_deploys {
            0 => self.room() / instances,
            most => most,
        };
        let most = most.min(self.per_instance);
        // One is left for what needs a connection of its own.
        let shared = self.shared.min(most.saturating_sub(1)).max(1);
        (most > 0).then_some((most, shared))
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let q = self.question;
        match q.provider {
            Some(p) => writeln!(
                f,
                "limit    {} connections: {} ({}, read {})",
                q.limit, p.plan, p.source, p.as_of
            )?,
            None => writeln!(f, "limit    {} connections", q.limit)?,
        }
        writeln!(
            f,
            "fleet    {} instances x {} connections (upstream.max_connections) + {} others = {}",
            q.instances,
            q.per_instance,
            q.others,
            q.total(1)
        )?;
        let verdict = |fits: bool| if fits { "fits" } else { "does not fit" };
        writeln!(
            f,
            "verdict  {} of {}: {}",
            q.total(1),
            q.limit,
            verdict(self.fits())
        )?;
        writeln!(
            f,
            "deploy   2 x {} x {} + {} = {} of {} while old and new run side by side: {}",
            q.instances,
            q.per_instance,
            q.others,
            q.total(DEPLOY),
            q.limit,
            verdict(self.fits_deploy())
        )?;
        self.write_advice(f)?;
        for warning in &self.warnings {
            writeln!(f, "note     {warning}")?;
        }
        Ok(())
    }
}

impl Plan {
    fn write_advice(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let q = self.question;
        if self.fits_deploy() {
            return writeln!(f, "set      nothing: it fits as it is");
        }
        if let Some((most, shared)) = self.suggested {
            let when = match q.instances * most * DEPLOY + q.others <= q.limit {
                true => "fits during deploys too",
                false => "fits, but not while two fleets run side by side",
            };
            return writeln!(
                f,
                "set      NEARKEY_UPSTREAM__MAX_CONNECTIONS={most} NEARKEY_UPSTREAM__CONNECTIONS={shared}: \
                 {} x {most} + {} = {}, {when}",
                q.instances,
                q.others,
                q.instances * most + q.others
            );
        }
        let (steady, during_deploys) = self.most_instances();
        writeln!(
            f,
            "set      nothing fits: each instance needs one connection, {} are left for {}; at most {steady} \
             instances of one connection, {during_deploys} if deploys run two fleets side by side",
            q.room(),
            q.instances
        )?;
        match self.larger() {
            Some(larger) => writeln!(
                f,
                "or       --provider {}: {}, {} connections",
                larger.name,
                larger.plan,
                larger.max_clients.unwrap_or_default()
            ),
            None => Ok(()),
        }
    }
}

/// What `nearkey plan --list` prints.
pub fn list() -> String {
    use fmt::Write;
    let mut text = String::new();
    for row in PROVIDERS {
        let limit = row
            .max_clients
            .map_or_else(|| "-".to_owned(), |n| n.to_string());
        let note = match row.note {
            "" => String::new(),
            note => format!("; {note}"),
        };
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "{:26} {limit:>6}  {} ({}, read {}{note})",
            row.name, row.plan, row.source, row.as_of
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(limit: usize, instances: usize, per_instance: usize) -> Question {
        Question {
            limit,
            provider: None,
            instances,
            per_instance,
            shared: 2,
            others: 0,
        }
    }

    #[test]
    fn the_issues_example_does_not_fit_and_a_larger_plan_does() {
        let provider = Provider::find("redis-cloud-30").expect("a row");
        let plan = Plan::new(Question {
            provider: Some(provider),
            ..question(30, 100, 10)
        });
        assert!(!plan.fits() && plan.suggested.is_none());
        let text = plan.to_string();
        assert!(text.contains(
            "100 instances x 10 connections (upstream.max_connections) + 0 others = 1000"
        ));
        assert!(text.contains("1000 of 30: does not fit"));
        assert!(text.contains("at most 30 instances of one connection, 15 if"));
        assert!(text.contains("--provider redis-cloud-256"), "{text}");
        assert_eq!(plan.json()["larger_plan"]["limit"], 256);
    }

    #[test]
    fn what_to_set_fits_during_deploys_if_anything_does() {
        let plan = Plan::new(question(256, 50, 10));
        assert!(!plan.fits());
        assert_eq!(plan.suggested, Some((2, 1)));
        let tight = Plan::new(question(50, 30, 10));
        assert_eq!(tight.suggested, Some((1, 1)));
        assert!(tight.to_string().contains("not while two fleets"));
        let wide = Plan::new(question(10_000, 50, 10));
        assert!(wide.fits() && wide.to_string().contains("nothing: it fits as it is"));
        assert_eq!(wide.suggested, Some((10, 2)), "no more than there is");
    }

    #[test]
    fn others_count_and_deploys_are_warned_of() {
        let plan = Plan::new(Question {
            others: 11,
            ..question(50, 20, 2)
        });
        assert!(!plan.fits(), "51 of 50");
        let plan = Plan::new(Question {
            others: 10,
            ..question(50, 20, 2)
        });
        assert!(plan.fits());
        assert!(
            plan.warnings[0].contains("rolling deploy")
                && plan.warnings[0].contains("90 connections of 50")
        );
        assert!(plan.warnings[1].contains("little room"));
        assert_eq!(plan.json()["rolling_deploy"]["fits"], false);
    }

    #[test]
    fn numbers_beyond_all_measure_do_not_overflow() {
        let plan = Plan::new(question(usize::MAX, 1_000_000, 100_000));
        assert!(plan.fits());
        let plan = Plan::new(question(1, usize::MAX / 4, usize::MAX));
        assert!(!plan.fits() && plan.suggested.is_none());
    }

    #[test]
    fn the_table_is_in_order() {
        for (i, row) in PROVIDERS.iter().enumerate() {
            assert!(PROVIDERS[..i].iter().all(|other| other.name != row.name));
            assert_eq!(Provider::find(row.name), Some(row));
            assert!(!row.source.is_empty() && !row.as_of.is_empty());
            assert!(row.max_clients != Some(0));
        }
        let first = Provider::find("redis-cloud-256").expect("a row");
        let larger = first.larger(2600).expect("a larger one");
        assert_eq!(larger.name, "redis-cloud-5000");
        assert!(Provider::find("redis").expect("a row").larger(1).is_none());
        assert!(Provider::alike("redis-cloud").contains(&"redis-cloud-30"));
        assert!(list().lines().count() == PROVIDERS.len());
    }
}
