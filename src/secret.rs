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
