//! Values that must not reach a log.

use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Longest secret file that is read; a larger one is surely the wrong file.
const MAX_SECRET: u64 = 64 * 1024;

/// A value that must never be printed: `Debug` hides it and there is no `Display`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Secret(Box<[u8]>);

impl Secret {
    /// Wraps a secret.
    pub fn new(value: impl Into<Vec<u8>>) -> Self {
        Self(value.into().into())
    }

    /// The secret that a file holds, without the end of its line.
    ///
    /// # Errors
    /// What is wrong with the file, in words that name it.
    pub fn read(path: &Path) -> Result<Self, String> {
        let fail = |error: std::io::Error| format!("cannot read {}: {error}", path.display());
        let mut text = String::new();
        let file = File::open(path).map_err(fail)?;
        file.take(MAX_SECRET + 1)
            .read_to_string(&mut text)
            .map_err(fail)?;
        let secret = text.trim_end_matches(['\n', '\r']);
        if secret.is_empty() {
            return Err(format!("{} is empty", path.display()));
        }
        if text.len() as u64 > MAX_SECRET {
            return Err(format!("{} is longer than 64kb", path.display()));
        }
        Ok(Self::new(secret))
    }

    /// The secret itself, for the one place that sends or compares it. What is no text, as only a
    /// client's password can be, is empty here.
    pub fn expose(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// The bytes of the secret itself, whatever they are.
    pub fn expose_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("<hidden>")
    }
}

impl Secret {
    /// Compares in a time that depends on the candidate's length alone: neither where the two differ nor
    /// how long the secret is can be told from it.
    pub fn matches(&self, candidate: &[u8]) -> bool {
        let endless = self.0.iter().chain(&[0]).cycle();
        let pairs = endless.zip(candidate);
        let difference = pairs.fold(0, |difference, (a, b)| difference | (a ^ b));
        let same_length = self.0.len() == candidate.len();
        std::hint::black_box(difference) == 0 && same_length
    }
}

#[cfg(test)]
mod tests {
    use super::Secret;

    #[test]
    fn only_the_secret_itself_matches() {
        let secret = Secret::new("pass");
        assert!(secret.matches(b"pass"));
        let wrong: [&[u8]; 9] = [
            b"",
            b"p",
            b"pas",
            b"past",
            b"Pass",
            b"pass\0",
            b"pass\0pass",
            b"passpass",
            b"passs",
        ];
        for candidate in wrong {
            assert!(!secret.matches(candidate), "{candidate:?}");
        }
        assert!(Secret::new("").matches(b"") && !Secret::new("").matches(b"\0"));
    }

    #[test]
    fn every_byte_counts() {
        let text: Vec<u8> = (0..=255).collect();
        let secret = Secret::new(text.clone());
        for at in 0..text.len() {
            let mut other = text.clone();
            other[at] ^= 0x80;
            assert!(!secret.matches(&other), "byte {at}");
        }
    }
}
