//! Numbers as people read them, in few columns.

/// All digits up to five, then three of them and a unit.
pub(super) fn count(n: f64) -> String {
    let size = n.abs();
    let units = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")];
    match units.into_iter().find(|(unit, _)| size >= *unit) {
        Some((unit, name)) if size >= 1e5 => format!("{} {name}", digits(n / unit)),
        _ => grouped(n),
    }
}

/// Slow rates with a digit after the point.
pub(super) fn rate(n: f64) -> String {
    if n > 0.0 && n < 9.95 {
        format!("{n:.1}")
    } else {
        count(n.round())
    }
}

pub(super) fn bytes(n: f64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    if n.abs() < 1024.0 {
        return format!("{n:.0} B");
    }
    let (mut n, mut unit) = (n / 1024.0, 0);
    while n.abs() >= 1024.0 && unit + 1 < units.len() {
        n /= 1024.0;
        unit += 1;
    }
    format!("{} {}", digits(n), units[unit])
}

pub(super) fn latency(us: f64) -> String {
    match us {
        us if us < 1e3 => format!("{us:.0} µs"),
        us if us < 1e4 => format!("{:.1} ms", us / 1e3),
        us if us < 1e6 => format!("{:.0} ms", us / 1e3),
        us => format!("{:.1} s", us / 1e6),
    }
}

pub(super) fn span(seconds: f64) -> String {
    match seconds {
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7_200.0 => format!("{:.0} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.0} h", s / 3_600.0),
        s => format!("{:.0} days", s / 86_400.0),
    }
}

pub(super) fn percent(part: f64, whole: f64) -> Option<f64> {
    (whole > 0.0).then(|| 100.0 * part / whole)
}

/// 99.9 is not 100.
pub(super) fn percents(value: f64) -> String {
    if value > 99.0 && value < 100.0 {
        format!("{:.1} %", (value * 10.0).floor() / 10.0)
    } else {
        format!("{value:.0} %")
    }
}

/// Three digits, or all before the point.
fn digits(n: f64) -> String {
    match n.abs() {
        size if size < 9.995 => format!("{n:.2}"),
        size if size < 99.95 => format!("{n:.1}"),
        _ => grouped(n),
    }
}

fn grouped(n: f64) -> String {
    let text = format!("{:.0}", n.abs());
    let mut out = String::new();
    for (i, digit) in text.chars().enumerate() {
        if i > 0 && (text.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    if n <= -0.5 { format!("-{out}") } else { out }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let counts = [
            0.0,
            999.0,
            12_345.0,
            99_999.0,
            123_456.0,
            1_234_567.0,
            -1_500.0,
        ];
        let shown = ["0", "999", "12,345", "99,999", "123 k", "1.23 M", "-1,500"];
        assert_eq!(counts.map(count), shown);
        assert_eq!([0.0, 0.26, 9.96, 12.4].map(rate), ["0", "0.3", "10", "12"]);
        assert_eq!(
            [0.0, 1023.0, 1536.0, 5e9].map(bytes),
            ["0 B", "1023 B", "1.50 KiB", "4.66 GiB"]
        );
        assert_eq!(
            [83.0, 1_250.0, 83_000.0, 2.5e6].map(latency),
            ["83 µs", "1.2 ms", "83 ms", "2.5 s"]
        );
        assert_eq!(
            [7.0, 600.0, 7_200.0, 1e6].map(span),
            ["7 s", "10 min", "2 h", "12 days"]
        );
        assert_eq!(
            [0.0, 62.5, 99.97, 100.0].map(percents),
            ["0 %", "62 %", "99.9 %", "100 %"]
        );
        assert_eq!((percent(1.0, 0.0), percent(1.0, 4.0)), (None, Some(25.0)));
    }
}
