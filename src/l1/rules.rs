//! What holds for a key.

use std::sync::Arc;
use std::time::Duration;

use super::config::{Config, Mode, Rule, Verb};

/// What holds for the keys of one rule, or for those of none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Which rule says so, from zero; `None` for keys that no rule matches.
    pub rule: Option<usize>,
    /// They may be kept.
    pub cache: bool,
    /// How they are kept coherent.
    pub mode: Mode,
    /// How old an entry may get where no push ends it.
    pub ttl: Option<Duration>,
    /// How old an entry may get at most.
    pub max_age: Duration,
    /// Longer replies are not kept.
    pub max_value: usize,
    /// For how long they are served while the server is unreachable.
    pub stale_if_down: Option<Duration>,
}

/// All rules, in order.
#[derive(Debug)]
pub struct Rules {
    rules: Vec<(Vec<u8>, Arc<Terms>)>,
    default: Arc<Terms>,
}

/// Nothing is kept.
impl Default for Rules {
    fn default() -> Self {
        Self::new(&Config {
            mode: Mode::Off,
            ..Config::default()
        })
    }
}

impl Rules {
    /// The rules of a configuration.
    pub fn new(config: &Config) -> Self {
        let default = Terms {
            rule: None,
            // To observe is harmless: it needs no leave.
            cache: config.default == Verb::Cache || config.mode == Mode::Observe,
            mode: config.mode,
            ttl: None,
            max_age: config.max_age,
            max_value: config.max_value,
            stale_if_down: None,
        };
        let terms = |(index, rule): (usize, &Rule)| {
            let terms = Terms {
                rule: Some(index),
                cache: rule.verb == Verb::Cache,
                mode: rule.mode.unwrap_or(config.mode),
                ttl: rule.ttl,
                max_age: rule.max_age.unwrap_or(config.max_age),
                max_value: rule.max_value.unwrap_or(config.max_value),
                stale_if_down: rule.stale_if_down,
            };
            (rule.pattern.clone(), Arc::new(terms))
        };
        Self {
            rules: config.rules.iter().enumerate().map(terms).collect(),
            default: Arc::new(default),
        }
    }

    /// What holds for a key: the first rule that matches decides.
    pub fn of(&self, key: &[u8]) -> &Arc<Terms> {
        self.rules
            .iter()
            .find(|(pattern, _)| matches(pattern, key))
            .map_or(&self.default, |(_, terms)| terms)
    }
}

/// Whether a glob matches, as Redis's `KEYS` has it.
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where to go on when what follows the last star does not match.
    let mut retry: Option<(usize, usize)> = None;
    loop {
        if pattern.get(p) == Some(&b'*') {
            p += 1;
            retry = Some((p, t));
            continue;
        }
        let matched = match (pattern.get(p), text.get(t)) {
            (None, None) => return true,
            (Some(_), Some(&byte)) => match_one(&pattern[p..], byte),
            _ => None,
        };
        match (matched, retry) {
            (Some(used), _) => {
                p += used;
                t += 1;
            }
            (None, Some((star, from))) if from < text.len() => {
                retry = Some((star, from + 1));
                (p, t) = (star, from + 1);
            }
            _ => return false,
        }
    }
}

/// The length of the pattern's first element, if it matches the byte.
fn match_one(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern {
        [b'?', ..] => Some(1),
        [b'\\', escaped, ..] => (*escaped == byte).then_some(2),
        [b'[', class @ ..] => match_class(class, byte).map(|used| used + 1),
        [literal, ..] => (*literal == byte).then_some(1),
        [] => None,
    }
}

/// The length of a class behind its bracket, if it matches the byte. A class without an end reaches
/// to the end of the pattern.
fn match_class(class: &[u8], byte: u8) -> Option<usize> {
    let negated = class.first() == Some(&b'^');
    let mut at = usize::from(negated);
    let mut found = false;
    loop {
        match class[at.min(class.len())..] {
            [] => break,
            [b']', ..] => {
                at += 1;
                break;
            }
            [b'\\', escaped, ..] => {
                found |= escaped == byte;
                at += 2;
            }
            [low, b'-', high, ..] => {
                found |= (low.min(high)..=low.max(high)).contains(&byte);
                at += 3;
            }
            [literal, ..] => {
                found |= literal == byte;
                at += 1;
            }
        }
    }
    (found != negated).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_match_as_redis_has_them() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("", "a", false),
            ("user:*", "user:1", true),
            ("user:*", "users", false),
            ("h?llo", "hello", true),
            ("h[ae]llo", "hillo", false),
            ("h[^e]llo", "hallo", true),
            ("h[a-c]llo", "hbllo", true),
            ("*:a:*b", "x:a:a:cb", true),
            ("a\\*c", "a*c", true),
            ("a\\*c", "abc", false),
            ("a*b*c", "a__b__b_d", false),
            ("[abc", "b", true),
        ] {
            assert_eq!(
                matches(pattern.as_bytes(), text.as_bytes()),
                expected,
                "{pattern} {text}"
            );
        }
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let rule = |pattern: &str, verb| Rule {
            pattern: pattern.into(),
            verb,
            mode: None,
            ttl: None,
            max_age: Some(Duration::from_secs(3)),
            max_value: None,
            stale_if_down: None,
        };
        let rules = Rules::new(&Config {
            rules: vec![rule("a:x", Verb::Bypass), rule("a:*", Verb::Cache)],
            ..Config::default()
        });
        assert!(!rules.of(b"a:x").cache);
        assert_eq!(rules.of(b"a:y").rule, Some(1));
        assert_eq!(rules.of(b"a:y").max_age, Duration::from_secs(3));
        assert!(!rules.of(b"b").cache);
    }
}
