//! Panics planted for tests, which must see whom a panic ends. There are none but in builds with the
//! feature `sabotage`.
//!
//! `NEARKEY_PANIC` names a place; what goes by there and holds the word `panic-here` panics.

/// Panics if this place is named and `bytes` say so.
#[cfg(feature = "sabotage")]
pub fn panic_at(place: &str, bytes: &[u8]) {
    use std::sync::LazyLock;
    static NAMED: LazyLock<Option<String>> = LazyLock::new(|| std::env::var("NEARKEY_PANIC").ok());
    let is_here = NAMED.as_deref() == Some(place);
    if is_here && memchr::memmem::find(bytes, b"panic-here").is_some() {
        panic!("planted in {place}");
    }
}

/// Panics if this place is named and `bytes` say so.
#[cfg(not(feature = "sabotage"))]
#[inline(always)]
pub fn panic_at(_place: &str, _bytes: &[u8]) {}
