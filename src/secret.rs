//! Values that must not reach a log.

/// A value that must never be printed: `Debug` hides it and there is no `Display`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Secret(Box<[u8]>);

impl Secret {
    /// Wraps a secret.
    pub fn new(value: impl Into<Vec<u8>>) -> Self {
        Self(value.into().into())
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
