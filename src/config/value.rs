//! The written forms of single values: durations, sizes, addresses, modes.
//!
//! Each form has a parser and, where `nearkey config` prints it, the inverse. Parsers return what
//! is wrong as the end of a sentence that began with the setting's name.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

/// Largest first, so that printing finds the shortest exact form.
const DURATION_UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// As in redis.conf: `kb` is 1024 bytes.
const SIZE_UNITS: [(&str, usize); 3] = [("gb", 1 << 30), ("mb", 1 << 20), ("kb", 1 << 10)];

const MILLION: u64 = 1_000_000;

/// What no price reaches, so that sums of it stay far from overflow.
const MAX_AMOUNT: u64 = 1_000_000 * MILLION;

/// Parses `5s`, `100ms`, `1m`, `2h`; only zero needs no unit.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let (digits, unit) = number_and_unit(text);
    let number: u64 = digits.parse().map_err(|_| not_a_duration(text))?;
    if unit.is_empty() {
        return match number {
            0 => Ok(Duration::ZERO),
            _ => Err(format!(
                "\"{text}\" needs a unit, such as \"{text}s\" or \"{text}ms\""
            )),
        };
    }
    let scale = DURATION_UNITS.iter().find(|(name, _)| *name == unit);
    let (_, scale) = scale.ok_or_else(|| not_a_duration(text))?;
    let millis = number
        .checked_mul(*scale)
        .ok_or_else(|| not_a_duration(text))?;
    Ok(Duration::from_millis(millis))
}

/// The shortest exact form that [`duration`] reads.
pub(super) fn show_duration(duration: Duration) -> String {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if millis == 0 {
        return "0s".to_owned();
    }
    let exact = DURATION_UNITS
        .iter()
        .find(|(_, s)| millis.is_multiple_of(*s));
    let (unit, scale) = exact.unwrap_or(&("ms", 1));
    format!("{}{unit}", millis / scale)
}

/// Parses `1mb`, `64kb`, `2gb`, `1024` (bytes); `b` and `kib` forms too, in any case.
pub(super) fn size(text: &str) -> Result<usize, String> {
    let wrong = || {
        format!(
            "{} is not a size such as \"64kb\", \"1mb\" or 65536",
            quoted(text)
        )
    };
    let (digits, unit) = number_and_unit(text);
    let number: usize = digits.parse().map_err(|_| wrong())?;
    let unit = unit.to_ascii_lowercase().replace("ib", "b");
    let scale = match unit.as_str() {
        "" | "b" => 1,
        unit => SIZE_UNITS
            .iter()
            .find(|(name, _)| *name == unit)
            .map(|(_, scale)| *scale)
            .ok_or_else(wrong)?,
    };
    number.checked_mul(scale).ok_or_else(wrong)
}

/// The shortest exact form that [`size`] reads.
pub(super) fn show_size(bytes: usize) -> String {
    let exact = SIZE_UNITS
        .iter()
        .find(|(_, s)| bytes > 0 && bytes.is_multiple_of(*s));
    match exact {
        Some((unit, scale)) => format!("{}{unit}", bytes / scale),
        None => bytes.to_string(),
    }
}

/// Parses an amount of money, `0.20` or `3`, into millionths.
pub(super) fn amount(text: &str) -> Result<u64, String> {
    let wrong = || {
        format!(
            "{} is not an amount such as 0.20, with up to six decimals and below {}",
            quoted(text),
            MAX_AMOUNT / MILLION
        )
    };
    let text = text.trim();
    let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(decimals) || decimals.len() > 6 {
        return Err(wrong());
    }
    let whole: u64 = whole.parse().map_err(|_| wrong())?;
    let decimals: u64 = format!("{decimals:0<6}").parse().map_err(|_| wrong())?;
    let millionths = whole.checked_mul(MILLION).map(|whole| whole + decimals);
    millionths
        .filter(|millionths| *millionths < MAX_AMOUNT)
        .ok_or_else(wrong)
}

/// The form that [`amount`] reads, with two decimals or as many as it takes.
pub(super) fn show_amount(millionths: u64) -> String {
    let text = format!("{}.{:06}", millionths / MILLION, millionths % MILLION);
    let spare = text.bytes().rev().take_while(|byte| *byte == b'0').count();
    text[..text.len() - spare.min(4)].to_owned()
}

/// Parses the words that environments use for yes and no.
pub(super) fn boolean(text: &str) -> Result<bool, String> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Ok(true),
        "false" | "no" | "off" | "0" => Ok(false),
        _ => Err(format!("{} is neither true nor false", quoted(text))),
    }
}

/// Parses where to listen: `host:port`, `:port`, `port`, or `off`.
///
/// Without a host it is loopback, never every interface: a proxy that holds credentials must be
/// opened to the network on purpose.
pub(super) fn listen_address(text: &str) -> Result<Option<SocketAddr>, String> {
    let text = text.trim();
    if text.eq_ignore_ascii_case("off") {
        return Ok(None);
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(Some(address));
    }
    let (host, port) = text.rsplit_once(':').unwrap_or(("", text));
    let ip = match host {
        "" | "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
        "*" => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        _ => return Err(not_an_address(text)),
    };
    let port = port.parse().map_err(|_| not_an_address(text))?;
    Ok(Some(SocketAddr::new(ip, port)))
}

/// Parses permission bits written in octal: `0700`, `770`, `0o700`.
pub(super) fn mode(text: &str) -> Result<u32, String> {
    let digits = text.trim().trim_start_matches("0o");
    match u32::from_str_radix(digits, 8) {
        Ok(bits) if bits <= 0o777 => Ok(bits),
        _ => Err(format!("{} is not a mode such as \"0700\"", quoted(text))),
    }
}

/// A value in quotes, for a message. What may hold a credential, or is long, is not repeated.
pub(super) fn quoted(text: &str) -> String {
    if text.contains('@') || text.contains("://") || text.chars().count() > 60 {
        return "the value".to_owned();
    }
    format!("\"{}\"", text.escape_debug())
}

fn number_and_unit(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit());
    text.split_at(end.unwrap_or(text.len()))
}

fn not_a_duration(text: &str) -> String {
    format!(
        "{} is not a duration such as \"5s\", \"100ms\" or \"1m\"",
        quoted(text)
    )
}

fn not_an_address(text: &str) -> String {
    if text.starts_with("unix:") || text.starts_with('/') {
        return "is a TCP address; a unix socket belongs in listen.unix".to_owned();
    }
    if text.parse::<IpAddr>().is_ok() {
        return format!("{} needs a port, such as {text}:6379", quoted(text));
    }
    format!(
        "{} is not an IP address and port such as \"127.0.0.1:6379\", \"[::1]:6379\", \":6379\", nor \"off\"",
        quoted(text)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_print_as_they_are_read() {
        for text in ["5s", "100ms", "1m", "2h", "1500ms", "0s", "90s"] {
            assert_eq!(show_duration(duration(text).unwrap()), text);
        }
        assert_eq!(duration("0").unwrap(), Duration::ZERO);
        assert_eq!(duration("120s").unwrap(), duration("2m").unwrap());
    }

    #[test]
    fn a_duration_without_unit_is_taught() {
        let error = duration("5").unwrap_err();
        assert_eq!(error, "\"5\" needs a unit, such as \"5s\" or \"5ms\"");
        for text in [
            "",
            "s",
            "5 s",
            "-1s",
            "5sec",
            "1.5s",
            "99999999999999999999s",
        ] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_print_as_they_are_read() {
        for text in ["1mb", "64kb", "128mb", "2gb", "1000", "0"] {
            assert_eq!(show_size(size(text).unwrap()), text);
        }
        assert_eq!(size("1MiB").unwrap(), 1 << 20);
        assert_eq!(size("10b").unwrap(), 10);
        for text in ["", "mb", "1tb", "1 mb", "99999999999gb", "-1"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_address_without_host_is_loopback() {
        for text in ["6380", ":6380", "localhost:6380", "127.0.0.1:6380"] {
            let address = listen_address(text).unwrap().unwrap();
            assert_eq!(address.to_string(), "127.0.0.1:6380", "{text}");
        }
        let any = listen_address("*:1").unwrap().unwrap();
        assert_eq!(any.to_string(), "0.0.0.0:1");
        let six = listen_address("[::1]:6380").unwrap().unwrap();
        assert_eq!(six.to_string(), "[::1]:6380");
        assert_eq!(listen_address("off").unwrap(), None);
    }

    #[test]
    fn a_wrong_address_says_what_is_missing() {
        assert!(listen_address("10.0.0.5").unwrap_err().contains("port"));
        let unix = listen_address("unix:/run/a").unwrap_err();
        assert!(unix.contains("listen.unix"));
        for text in ["example.com:6379", "127.0.0.1:99999", "", "::1:6379x"] {
            assert!(listen_address(text).is_err(), "{text}");
        }
    }

    #[test]
    fn amounts_are_exact() {
        for text in ["0.20", "0.03", "0.00", "12.50", "0.0034", "0.000001"] {
            assert_eq!(show_amount(amount(text).unwrap()), text);
        }
        assert_eq!(amount("0.2").unwrap(), 200_000);
        assert_eq!(amount("3").unwrap(), 3_000_000);
        for text in [
            "",
            ".",
            ".5",
            "1.",
            "-1",
            "+1",
            "1e3",
            "inf",
            "nan",
            "0,20",
            "$1",
            "0.0000001",
            "1000000",
            "99999999999999999999",
        ] {
            assert!(amount(text).is_err(), "{text}");
        }
    }

    #[test]
    fn modes_are_octal() {
        assert_eq!(mode("0700").unwrap(), 0o700);
        assert_eq!(mode("660").unwrap(), 0o660);
        assert_eq!(mode("0o777").unwrap(), 0o777);
        assert!(mode("0888").is_err() && mode("1777").is_err() && mode("").is_err());
    }

    #[test]
    fn a_message_never_repeats_what_may_be_a_url() {
        assert_eq!(quoted("redis://:canary@host"), "the value");
        assert_eq!(quoted("a:canary@host"), "the value");
        assert_eq!(quoted("fool"), "\"fool\"");
    }
}
