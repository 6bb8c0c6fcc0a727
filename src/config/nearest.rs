//! "Did you mean": the nearest valid name to one that is not valid.

/// The candidate that `name` is most likely a misspelling of, if one is near enough.
pub(super) fn nearest<'a>(
    name: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| (score(name, candidate), candidate))
        .filter(|(score, candidate)| *score <= tolerance(name, candidate))
        .min_by_key(|(score, _)| *score)
        .map(|(_, candidate)| candidate)
}

/// The nearest name as the end of a message: `; did you mean x?`, or nothing.
pub(super) fn did_you_mean<'a>(
    name: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> String {
    match nearest(name, candidates) {
        Some(candidate) => format!("; did you mean {candidate}?"),
        None => String::new(),
    }
}

/// The distance of the whole names, or of their last parts: a setting under the wrong section is
/// nearer to its namesake than to its neighbours.
fn score(name: &str, candidate: &str) -> usize {
    let last = |name: &str| name.rsplit('.').next().unwrap_or(name).to_owned();
    let whole = distance(name, candidate);
    if candidate.contains('.') {
        whole.min(distance(&last(name), &last(candidate)) + 1)
    } else {
        whole
    }
}

fn tolerance(name: &str, candidate: &str) -> usize {
    let last = |name: &str| name.rsplit('.').next().map_or(0, str::len);
    (last(name).min(last(candidate)) / 3).clamp(1, 4)
}

/// Edits between two names, a swap of neighbours counting as one.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    rows[0] = (0..=b.len()).collect();
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelling_finds_its_name() {
        let names = [
            "upstream.max_connections",
            "upstream.connections",
            "log.level",
        ];
        let find = |name| nearest(name, names);
        assert_eq!(find("upstream.max_conections"), Some(names[0]));
        assert_eq!(find("upstream.maxconnections"), Some(names[0]));
        assert_eq!(find("listen.max_connections"), Some(names[0]));
        assert_eq!(find("max_connections"), Some(names[0]));
        assert_eq!(find("log.lvel"), Some(names[2]));
        assert_eq!(find("upstream.colour"), None);
    }

    #[test]
    fn a_swap_is_one_edit() {
        assert_eq!(distance("lsiten", "listen"), 1);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("same", "same"), 0);
    }
}
