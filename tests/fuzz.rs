//! The targets of the fuzzer for a short while, with the stable toolchain: the corpus, then mutations of it.
//!
//! `./test fuzz` does the same for long, with libFuzzer. What that finds is added to `fuzz/corpus/`, so that
//! this finds it again. NEARKEY_FUZZ_RUNS says how many mutations each target gets.

#[path = "../fuzz/src/lib.rs"]
mod targets;

use std::fs;
use std::path::Path;
use std::thread;

/// The stack that a target has to do with. One that recurses into its input needs more for hostile input.
const STACK: usize = 1 << 20;

/// Mutations are no longer than this.
const LONGEST: usize = 4096;

fn fuzz(target: &'static str, runs: u64) {
    let runs =
        std::env::var("NEARKEY_FUZZ_RUNS").map_or(runs, |runs| runs.parse().expect("a number"));
    let (_, run) = targets::TARGETS
        .iter()
        .find(|(name, _)| *name == target)
        .expect("a target");
    let fuzzing = thread::Builder::new()
        .name(target.to_owned())
        .stack_size(STACK);
    let fuzzing = fuzzing.spawn(move || {
        let corpus = corpus(target);
        for (name, seed) in &corpus {
            guarded(run, seed, name);
        }
        let tokens = tokens(target);
        let mut rng = Rng(0x6e65_6172 ^ runs);
        for number in 0..runs {
            let input = mutate(&corpus, &tokens, &mut rng);
            guarded(run, &input, &format!("mutation {number}"));
        }
    });
    let done = fuzzing.expect("a thread").join();
    assert!(done.is_ok(), "{target} has failed, see above");
}

/// Says which input it was.
fn guarded(run: &fn(&[u8]), input: &[u8], name: &str) {
    struct Tell<'a>(&'a [u8], &'a str);
    impl Drop for Tell<'_> {
        fn drop(&mut self) {
            if thread::panicking() {
                let shown: String = self.0.iter().map(|byte| format!("\\x{byte:02x}")).collect();
                eprintln!("the input, {}: printf '{shown}'", self.1);
            }
        }
    }
    let tell = Tell(input, name);
    run(input);
    drop(tell);
}

fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz"))
}

fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(folder().join("corpus").join(target)).expect("a corpus");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let mut corpus: Vec<_> = paths
        .map(|path| (path.display().to_string(), fs::read(&path).expect("a seed")))
        .collect();
    corpus.sort();
    assert!(corpus.len() > 5, "a corpus for {target}");
    corpus
}

/// The dictionary of a target, in libFuzzer's form: one quoted token a line.
fn tokens(target: &str) -> Vec<Vec<u8>> {
    let name = match target {
        "config" | "admin" | "glob" => target,
        _ => "resp",
    };
    let text =
        fs::read_to_string(folder().join(format!("dict/{name}.dict"))).expect("a dictionary");
    let quoted = text
        .lines()
        .filter_map(|line| line.strip_prefix('"')?.strip_suffix('"'));
    let tokens: Vec<Vec<u8>> = quoted.map(unquote).collect();
    assert!(tokens.len() > 5, "a dictionary for {target}");
    tokens
}

fn unquote(text: &str) -> Vec<u8> {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((byte, behind)) = rest.split_first() {
        rest = behind;
        match (byte, behind) {
            (b'\\', [b'x', high, low, behind @ ..]) => {
                let digits = [*high, *low];
                let digits = std::str::from_utf8(&digits).expect("two digits");
                bytes.push(u8::from_str_radix(digits, 16).expect("two digits"));
                rest = behind;
            }
            (b'\\', [escaped, behind @ ..]) => {
                bytes.push(*escaped);
                rest = behind;
            }
            _ => bytes.push(*byte),
        }
    }
    bytes
}

fn mutate(corpus: &[(String, Vec<u8>)], tokens: &[Vec<u8>], rng: &mut Rng) -> Vec<u8> {
    let mut input = corpus[rng.below(corpus.len())].1.clone();
    input.truncate(LONGEST);
    for _ in 0..=rng.below(5) {
        let at = rng.below(input.len() + 1);
        let end = at + rng.below(input.len() - at + 1).min(64);
        match rng.below(9) {
            0 | 1 if at < input.len() => input[at] ^= 1 << rng.below(8),
            2 if at < input.len() => input[at] = rng.next() as u8,
            3 => input.insert(at, rng.next() as u8),
            4 | 5 => {
                let token = &tokens[rng.below(tokens.len())];
                let over = if rng.below(2) == 0 { at } else { end };
                input.splice(at..over, token.iter().copied());
            }
            6 => drop(input.drain(at..end)),
            7 => {
                let again = input[at..end].to_vec();
                input.splice(at..at, again);
            }
            _ => {
                let other = &corpus[rng.below(corpus.len())].1;
                let from = rng.below(other.len() + 1);
                let to = (from + rng.below(256)).min(other.len());
                input.splice(at..end, other[from..to].iter().copied());
            }
        }
    }
    input.truncate(LONGEST);
    input
}

/// Numbers without a pattern, the same in every run.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}

macro_rules! short_runs {
    ($($target:ident: $runs:expr;)*) => {
        $(
            #[test]
            #[ignore = "a step of ./test of its own"]
            fn $target() {
                fuzz(stringify!($target), $runs);
            }
        )*

        #[test]
        fn no_target_is_left_out() {
            let named = [$(stringify!($target)),*];
            assert!(targets::TARGETS.iter().map(|(name, _)| *name).eq(named));
        }
    };
}

short_runs! {
    requests: 3_000;
    replies: 3_000;
    session: 3_000;
    pipe: 3_000;
    hub: 3_000;
    tracked: 1_000;
    config: 300;
    admin: 3_000;
    glob: 3_000;
}
