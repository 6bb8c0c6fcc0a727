//! Names of keys as they may be shown: cut, escaped, or as hashes.

use std::fmt::Write as _;

use super::hot::HotKey;

/// Longest name that is shown, in characters.
const MAX_NAME: usize = 128;

/// The name of a hot key as it may be shown.
pub fn name_of(key: &HotKey) -> String {
    match key.key.is_empty() && key.key_hash != 0 {
        true => hashed(key.key_hash),
        false => shown(&key.key),
    }
}

/// A key's name where names are not to be seen.
pub fn hashed(hash: u64) -> String {
    format!("#{hash:016x}")
}

/// A key's name, cut and harmless on a terminal.
pub fn shown(name: &[u8]) -> String {
    let mut text = String::new();
    let mut room = MAX_NAME;
    for chunk in name.utf8_chunks() {
        for c in chunk.valid().chars() {
            if room == 0 {
                return text + "...";
            }
            room -= 1;
            match c {
                '"' | '\'' => text.push(c),
                c => text.extend(c.escape_debug()),
            }
        }
        for byte in chunk.invalid() {
            if room == 0 {
                return text + "...";
            }
            room -= 1;
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_cut_and_harmless() {
        assert_eq!(shown(b"user:\"1\""), "user:\"1\"");
        assert_eq!(shown("k\u{e9}y".as_bytes()), "k\u{e9}y");
        assert_eq!(shown(b"a\r\n\x1b[31m\\\xff"), "a\\r\\n\\u{1b}[31m\\\\\\xff");
        assert_eq!(shown("\u{202e}x".as_bytes()), "\\u{202e}x");
        let long = shown(&[b'x'; 1000]);
        assert_eq!(long, "x".repeat(MAX_NAME) + "...");
    }
}
