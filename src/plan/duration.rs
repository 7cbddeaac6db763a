//! Durations as Go prints them, which is how history shows them.

/// `90s` in nanoseconds becomes `1m30s`.
pub(super) fn go(nanos: i64) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let total = nanos.unsigned_abs();
    if total == 0 {
        return "0s".into();
    }
    let fraction = |value: u64, unit: u64, name: &str| {
        let (whole, rest) = (value / unit, value % unit);
        let digits = unit.to_string().len() - 1;
        let text = format!("{rest:0digits$}");
        let text = text.trim_end_matches('0');
        if text.is_empty() { format!("{sign}{whole}{name}") } else { format!("{sign}{whole}.{text}{name}") }
    };
    match total {
        0..1_000 => format!("{sign}{total}ns"),
        1_000..1_000_000 => fraction(total, 1_000, "\u{b5}s"),
        1_000_000..1_000_000_000 => fraction(total, 1_000_000, "ms"),
        _ => {
            let minutes = total / 60_000_000_000;
            let seconds = fraction(total % 60_000_000_000, 1_000_000_000, "s");
            let seconds = seconds.trim_start_matches('-');
            match (minutes / 60, minutes % 60) {
                (0, 0) => format!("{sign}{seconds}"),
                (0, minutes) => format!("{sign}{minutes}m{seconds}"),
                (hours, minutes) => format!("{sign}{hours}h{minutes}m{seconds}"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn durations_look_as_in_go() {
        let second = 1_000_000_000;
        for (nanos, text) in [
            (0, "0s"),
            (1, "1ns"),
            (1_500, "1.5\u{b5}s"),
            (1_000_000, "1ms"),
            (30 * second, "30s"),
            (90 * second, "1m30s"),
            (300 * second, "5m0s"),
            (3_600 * second, "1h0m0s"),
            (second * 3 / 2, "1.5s"),
        ] {
            assert_eq!(super::go(nanos), text);
        }
    }
}
