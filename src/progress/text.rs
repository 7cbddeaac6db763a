//! Words that renderers share.

use std::time::Duration;

use crate::event::Summary;
use crate::visible::{visible, visible_line};

/// `0.1s`, `12.3s`, `2m05s`.
pub fn elapsed(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    if seconds < 60.0 {
        return format!("{seconds:.1}s");
    }
    let whole = time.as_secs();
    format!("{}m{:02}s", whole / 60, whole % 60)
}

/// `9s`, `2m05s`, `3h20m`.
pub fn whole_seconds(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h{:02}m", seconds / 3600, seconds % 3600 / 60),
    }
}

pub(super) use crate::fs::shown_size as size;

/// A warning on one line.
pub(super) fn warning(message: &str, location: Option<&str>, rule: Option<&str>, colour: bool) -> String {
    let (yellow, off) = if colour { ("\x1b[33m", "\x1b[0m") } else { ("", "") };
    let rule = rule.map_or_else(String::new, |rule| format!("{rule}: "));
    let location = location.map_or_else(String::new, |location| format!(" ({location})"));
    format!("{yellow}warning{off}: {rule}{}{}", visible(message), visible_line(&location))
}

/// The end of a good build: where its results went and what took the time, if there is something to say about
/// that, and its last line.
pub(super) fn summary(summary: &Summary, colour: bool) -> String {
    let mut out = String::new();
    for line in &summary.details {
        out.push_str(&visible_line(line));
        out.push('\n');
    }
    out + &last_line(summary, colour)
}

fn last_line(summary: &Summary, colour: bool) -> String {
    let (bold, green, off) = if colour { ("\x1b[1m", "\x1b[32m", "\x1b[0m") } else { ("", "", "") };
    let steps = format!("{} of {} steps cached, {}", summary.cached, summary.steps, precise(summary.elapsed));
    let Some(id) = summary.id else { return format!("{green}built{off} {bold}no image{off}  {steps}") };
    let name = match summary.names.as_slice() {
        [] => "image".to_owned(),
        names => visible_line(&names.join(", ")).into_owned(),
    };
    let layers =
        if summary.layers == 1 { "1 layer".to_owned() } else { format!("{} layers", summary.layers) };
    let (digest, size) = (id.short(), size(summary.size));
    format!("{green}built{off} {bold}{name}{off} sha256:{digest}  {size}, {layers}, {steps}")
}

/// As [`elapsed`], with milliseconds below a second: fast builds deserve it.
fn precise(time: Duration) -> String {
    if time < Duration::from_secs(1) { format!("{} ms", time.as_millis()) } else { elapsed(time) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_cannot_drive_the_terminal() {
        let line = warning("\x1b[31m", Some("a\x07:1"), None, false);
        assert_eq!(line, "warning: \\u{1b}[31m (a\\u{7}:1)");
    }

    #[test]
    fn times_and_sizes_are_for_people() {
        assert_eq!(elapsed(Duration::from_millis(1_250)), "1.2s");
        assert_eq!(elapsed(Duration::from_secs(125)), "2m05s");
        assert_eq!(
            (size(12), size(1_500), size(2_500_000)),
            ("12 B".into(), "1.5 kB".into(), "2.5 MB".into())
        );
    }
}
