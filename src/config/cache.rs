//! What the settings of L1 need of each other.

use super::problem::{Origin, Problem};
use super::resolve::Resolver;
use super::rules::{self, Written};
use super::value::{show_duration, show_size};
use crate::l1::config::{Config, Mode, Rule, Scripts, Verb};
use crate::l1::rules::matches;

/// Puts the settings of L1 together, and collects what is wrong or doubtful.
pub(super) fn resolve(resolver: &mut Resolver) {
    let written = &resolver.draft.cache;
    let scripts = match written.scripts {
        "declared" => Scripts::Declared,
        _ => Scripts::Any,
    };
    let (mode, default) = (rules::mode(written.mode), rules::verb(written.default));
    let rules = written.rules.iter().map(|written| written.rule.clone());
    let rules = rules.collect();
    let cache = &mut resolver.draft.config.cache;
    (cache.mode, cache.default, cache.scripts, cache.rules) = (mode, default, scripts, rules);
    bound(resolver);
    // Whatever the rules say, an operator may turn L1 off without being warned of it.
    let doubts = mode != Mode::Off;
    let written = std::mem::take(&mut resolver.draft.cache.rules);
    for (index, rule) in written.iter().enumerate() {
        errors(resolver, rule);
        if doubts {
            let doubts = doubts_of_rule(resolver, rule, &written[..index]);
            resolver.warnings.extend(doubts);
        }
    }
    resolver.draft.cache.rules = written;
    let idle = doubts.then(|| idle(resolver)).flatten();
    resolver.warnings.extend(idle);
}

impl Resolver {
    /// Where a rule was written.
    pub(super) fn rule_origin(&self, written: &Written) -> Origin {
        let origin = written.origin.clone();
        origin.unwrap_or_else(|| self.origin("cache.rules"))
    }
}

/// The built-in size of a value gives way to a low bound on all; a written one must fit.
fn bound(resolver: &mut Resolver) {
    let cache = &resolver.draft.config.cache;
    let (value, all) = (cache.max_value, cache.max_bytes);
    if value <= all {
        return;
    }
    if resolver.is_set("cache.max_value") {
        let what = above_bound(resolver, value);
        resolver.problem("cache.max_value", what);
    } else {
        resolver.draft.config.cache.max_value = all;
        resolver.note("cache.max_value", "limited by cache.max_bytes");
    }
}

fn above_bound(resolver: &Resolver, value: usize) -> String {
    format!(
        "{} is above cache.max_bytes, which is {} ({})",
        show_size(value),
        show_size(resolver.draft.config.cache.max_bytes),
        resolver.origin("cache.max_bytes")
    )
}

/// What L1 may take of a limit on the process: a third. Of a low one it is less, else entries alone would
/// bring the process near the limit, where they are thrown out: about 14 MiB are needed in any case, and
/// memory is well below the limit at 65% of it.
fn share_of(limit: usize) -> usize {
    let free = (limit / 100 * 65).saturating_sub(14 << 20);
    let share = (limit / 3).min(free / 3 * 2);
    share >> 20 << 20
}

/// L1 leaves room for what clients need, whatever was asked for.
pub(super) fn leave_room(resolver: &mut Resolver) {
    let limit = resolver.draft.config.process.memory_limit;
    let wanted = resolver.draft.config.cache.max_bytes;
    let share = share_of(limit);
    if limit == 0 || wanted <= share {
        return;
    }
    let origin = resolver.origin("cache.max_bytes");
    resolver.draft.config.cache.max_bytes = share;
    resolver.note("cache.max_bytes", "limited by process.memory_limit");
    if !resolver.draft.config.cache.is_inert() {
        resolver.warnings.push(format!(
            "cache.max_bytes: L1 gets {} instead of {} ({origin}): of process.memory_limit, which is {}mb, it may \
             take a third, and less below 96mb; give the container more memory if that is too little",
            show_size(share),
            show_size(wanted),
            limit >> 20,
        ));
    }
}

fn errors(resolver: &mut Resolver, written: &Written) {
    let rule = &written.rule;
    let mut wrong = Vec::new();
    if rule.verb == Verb::Cache && rule.mode == Some(Mode::Ttl) && rule.ttl.is_none() {
        wrong.push("mode: \"ttl\" needs a ttl, such as ttl = \"5s\"".to_owned());
    }
    let max_bytes = resolver.draft.config.cache.max_bytes;
    if let Some(value) = rule.max_value.filter(|value| *value > max_bytes) {
        wrong.push(format!("max_value: {}", above_bound(resolver, value)));
    }
    let origin = resolver.rule_origin(written);
    let problems = wrong.into_iter().map(|what| {
        let what = format!("{}: {what}", written.name());
        Problem::of(&origin, "cache.rules", what)
    });
    resolver.problems.extend(problems);
}

fn doubts_of_rule(resolver: &Resolver, written: &Written, before: &[Written]) -> Vec<String> {
    let config = &resolver.draft.config.cache;
    let doubts = [
        covered(&written.rule, before),
        useless_terms(&written.rule),
        useless_ttl(&written.rule, config),
        no_ttl(&written.rule, config),
    ];
    let place = format!(
        "cache.rules: {} ({})",
        written.name(),
        resolver.rule_origin(written)
    );
    let doubts = doubts.into_iter().flatten();
    doubts.map(|doubt| format!("{place}: {doubt}")).collect()
}

fn covered(rule: &Rule, before: &[Written]) -> Option<String> {
    let by = before
        .iter()
        .find(|earlier| covers(&earlier.rule.pattern, &rule.pattern))?;
    Some(format!(
        "is never used, since {} comes first and matches all its keys: put the narrower rule first",
        by.name()
    ))
}

/// Whether a glob matches whatever another does; `false` where that is not plain to see.
fn covers(wide: &[u8], narrow: &[u8]) -> bool {
    let plain = |pattern: &[u8], but: &[u8]| !pattern.iter().any(|byte| but.contains(byte));
    // With nothing but stars and letters on one side, the other's stars and `?` are as letters to it.
    let comparable = plain(wide, b"?[\\") && plain(narrow, b"[\\");
    let all = wide.iter().all(|byte| *byte == b'*') && !wide.is_empty();
    wide == narrow || all || (comparable && matches(wide, narrow))
}

fn useless_terms(rule: &Rule) -> Option<String> {
    let named = rules::pairs(rule);
    let mut names = named.iter().map(|(name, _)| *name);
    let spare = names.find(|name| !["match", "action"].contains(name))?;
    (rule.verb == Verb::Bypass)
        .then(|| format!("{spare} has no effect, since its action is \"bypass\""))
}

fn useless_ttl(rule: &Rule, config: &Config) -> Option<String> {
    let ttl = rule.ttl.filter(|_| rule.verb == Verb::Cache)?;
    if rule.mode.unwrap_or(config.mode) == Mode::Tracking {
        return Some("ttl has no effect in mode \"tracking\"".to_owned());
    }
    let max_age = rule.max_age.unwrap_or(config.max_age);
    (ttl > max_age).then(|| {
        let (ttl, age) = (show_duration(ttl), show_duration(max_age));
        format!("ttl is {ttl}, but max_age ends all after {age}: set max_age in the rule too")
    })
}

/// One rule of several; where none has a ttl, [`idle`] says so once.
fn no_ttl(rule: &Rule, config: &Config) -> Option<String> {
    let without = rule.verb == Verb::Cache && !keeps(rule, config);
    let without = without && config.rules.iter().any(|other| keeps(other, config));
    without.then(|| "keeps nothing: cache.mode is \"ttl\", and it names no ttl".to_owned())
}

/// L1 was asked for, and has nothing to do.
fn idle(resolver: &Resolver) -> Option<String> {
    let config = &resolver.draft.config.cache;
    let origin = resolver.origin("cache.mode");
    let any = config.rules.iter().any(|rule| keeps(rule, config));
    let bypass = config.default == Verb::Bypass;
    let why = match config.mode {
        Mode::Ttl if !any => "no rule names a ttl: nothing will be kept",
        Mode::Ttl if !bypass => {
            return Some(format!(
                "cache.default is \"cache\" ({}), but cache.mode is \"ttl\" ({origin}): what no rule matches has no ttl and is not kept",
                resolver.origin("cache.default")
            ));
        }
        Mode::Tracking if !any && bypass => {
            "no rule names keys, and cache.default is \"bypass\": nothing will be kept"
        }
        _ => return None,
    };
    let mode = resolver.draft.cache.mode;
    Some(format!("cache.mode is \"{mode}\" ({origin}), but {why}"))
}

/// Whether a rule lets anything be kept, or counted, where the server does what its mode needs.
fn keeps(rule: &Rule, config: &Config) -> bool {
    let mode = rule.mode.unwrap_or(config.mode);
    rule.verb == Verb::Cache && (mode != Mode::Ttl || rule.ttl.is_some())
}
