//! Words that renderers share.

use std::time::Duration;

use crate::event::Summary;

/// `0.1s`, `12.3s`, `2m05s`.
pub(super) fn elapsed(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    if seconds < 60.0 {
        return format!("{seconds:.1}s");
    }
    let whole = time.as_secs();
    format!("{}m{:02}s", whole / 60, whole % 60)
}

pub(super) use crate::fs::shown_size as size;

/// Text that others may have written (registries, archives, files), with blanks for everything that drives a
/// terminal or turns the direction of writing. Lines and tabs stay.
pub fn visible(text: &str) -> String {
    let drives = |c: char| {
        let turns = matches!(c, '\u{61c}' | '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        turns || (c.is_control() && !matches!(c, '\n' | '\t'))
    };
    text.chars().map(|c| if drives(c) { ' ' } else { c }).collect()
}

/// A warning on one line.
pub(super) fn warning(message: &str, location: Option<&str>, rule: Option<&str>, colour: bool) -> String {
    let (yellow, off) = if colour { ("\x1b[33m", "\x1b[0m") } else { ("", "") };
    let rule = rule.map_or_else(String::new, |rule| format!("{rule}: "));
    let location = location.map_or_else(String::new, |location| format!(" ({location})"));
    format!("{yellow}warning{off}: {rule}{}{location}", visible(message))
}

/// The last line of a good build.
pub(super) fn summary(summary: &Summary, colour: bool) -> String {
    let (bold, green, off) = if colour { ("\x1b[1m", "\x1b[32m", "\x1b[0m") } else { ("", "", "") };
    let steps = format!("{} of {} steps cached, {}", summary.cached, summary.steps, precise(summary.elapsed));
    let Some(manifest) = summary.manifest else { return format!("{green}built{off}  {steps}") };
    let name = match summary.names.as_slice() {
        [] => "image".to_owned(),
        names => names.join(", "),
    };
    let layers =
        if summary.layers == 1 { "1 layer".to_owned() } else { format!("{} layers", summary.layers) };
    let (digest, size) = (manifest.short(), size(summary.size));
    format!("{green}built{off} {bold}{name}{off} sha256:{digest}  {size}, {layers}, {steps}")
}

/// As [`elapsed`], with milliseconds below a second: fast builds deserve it.
fn precise(time: Duration) -> String {
    if time < Duration::from_secs(1) { format!("{} ms", time.as_millis()) } else { elapsed(time) }
}

/// Text of a program without what would move the cursor; colours stay.
pub(super) fn harmless(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    // A progress bar redraws its line: what it shows last is what counts.
    let text = text.rsplit('\r').find(|part| !part.is_empty()).unwrap_or("");
    let mut out = String::with_capacity(text.len());
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '\x1b' if rest.peek() == Some(&'[') => {
                rest.next();
                let mut sequence = String::new();
                for c in rest.by_ref() {
                    sequence.push(c);
                    if ('@'..='~').contains(&c) {
                        break;
                    }
                }
                if sequence.ends_with('m') {
                    out.push_str("\x1b[");
                    out.push_str(&sequence);
                }
            }
            '\t' => out.push('\t'),
            c if c.is_control() => {}
            c => out.push(c),
        }
    }
    if out.contains('\x1b') {
        out.push_str("\x1b[0m");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_cannot_move_the_cursor() {
        assert_eq!(harmless(b"a\x1b[2Jb\x07c"), "abc");
        assert_eq!(harmless(b"\x1b[31mred"), "\x1b[31mred\x1b[0m");
        assert_eq!(harmless(b"10%\r50%\r100%"), "100%");
        assert_eq!(harmless(b"\x1b]0;title\x07x"), "]0;titlex");
    }

    #[test]
    fn words_of_others_cannot_drive_the_terminal() {
        assert_eq!(visible("é\ta\n\x1b[2J\u{9b}1m\u{202e}b\x07\r"), "é\ta\n [2J 1m b  ");
        assert_eq!(warning("\x1b[31m", None, None, false), "warning:  [31m");
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
