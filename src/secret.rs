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
    /// Compares in a time that does not depend on where the two differ.
    pub fn matches(&self, candidate: &[u8]) -> bool {
        let secret = &self.0;
        let pairs = secret.iter().zip(candidate);
        let difference = pairs.fold(0, |difference, (a, b)| difference | (a ^ b));
        std::hint::black_box(difference) == 0 && secret.len() == candidate.len()
    }
}
