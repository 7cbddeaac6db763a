//! Words and values, short enough for a line.

use serde_json::Value;

/// The longest an instruction is shown, in characters.
const INSTRUCTION: usize = 80;
/// The longest a value is shown.
const VALUE: usize = 48;

/// An instruction on one line: comments, continuations and repeated blanks do not count.
pub fn normal(text: &str) -> String {
    let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    let lines = lines.map(|line| line.trim().trim_end_matches('\\'));
    let joined = lines.collect::<Vec<_>>().join(" ");
    joined.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// An instruction as a message shows it.
pub(super) fn instruction(text: &str) -> String {
    cut(&normal(text), INSTRUCTION)
}

pub(super) fn cut(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    let mut out: String = text.chars().take(most.saturating_sub(3)).collect();
    out.push_str("...");
    out
}

/// A value as a message shows it: what is hidden stays so.
pub(super) fn value(value: &Value) -> String {
    match value {
        Value::String(text) => format!("{:?}", cut(text, VALUE)),
        Value::Object(_) => "****".into(),
        Value::Null => "nothing".into(),
        other => cut(&other.to_string(), VALUE),
    }
}

/// `NAME: "1" -> "2"`; of values that are hidden only that they changed.
pub(super) fn change(name: &str, old: Option<&Value>, new: Option<&Value>) -> String {
    match (old, new) {
        (None, Some(new)) => format!("{name} is new: {}", value(new)),
        (Some(_), None) => format!("{name} is gone"),
        (Some(Value::Object(_)), _) | (_, Some(Value::Object(_))) => format!("{name} changed"),
        (Some(old), Some(new)) => {
            let (a, b) = (value(old), value(new));
            // What differs may lie behind the cut.
            if a == b { format!("{name} changed") } else { format!("{name}: {a} -> {b}") }
        }
        (None, None) => format!("{name} changed"),
    }
}

/// Whether an instruction refers to a variable.
pub(super) fn refers_to(text: &str, name: &str) -> bool {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.match_indices('$').any(|(at, _)| {
        let rest = &text[at + 1..];
        let rest = rest.strip_prefix('{').unwrap_or(rest);
        rest.strip_prefix(name).is_some_and(|behind| !behind.starts_with(is_word))
    })
}

/// The names that ARG declares in a Dockerfile, with their defaults as written.
pub(super) fn declared(dockerfile: &str) -> Vec<(String, Option<String>)> {
    let (mut all, mut continues) = (Vec::new(), false);
    for line in dockerfile.lines().map(str::trim) {
        if line.starts_with('#') {
            continue;
        }
        let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let words = match continues {
            true => Some(line),
            false => word.eq_ignore_ascii_case("ARG").then_some(rest),
        };
        let Some(words) = words else { continue };
        continues = line.ends_with('\\');
        for word in words.trim_end_matches('\\').split_whitespace() {
            let (name, default) =
                word.split_once('=').map_or((word, None), |(name, value)| (name, Some(value)));
            all.push((name.to_owned(), default.map(str::to_owned)));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_are_compared_without_what_does_not_count() {
        assert_eq!(normal("RUN a \\\n    # why\n    && b\n"), "RUN a && b");
        assert_eq!(cut("abcdefgh", 6), "abc...");
    }

    #[test]
    fn variables_are_found_as_whole_words() {
        for (text, found) in [
            ("COPY $V /", true),
            ("COPY ${V}x /", true),
            ("COPY ${V:-1} /", true),
            ("COPY $VX /", false),
            ("V", false),
        ] {
            assert_eq!(refers_to(text, "V"), found, "{text}");
        }
    }

    #[test]
    fn arguments_are_found_where_they_are_declared() {
        let found = declared("ARG A=1 \\\n  B\n# ARG C\nRUN echo ARG D\narg E=\n");
        let names: Vec<_> = found.iter().map(|(name, value)| (name.as_str(), value.as_deref())).collect();
        assert_eq!(names, [("A", Some("1")), ("B", None), ("E", Some(""))]);
    }

    #[test]
    fn long_values_that_differ_at_their_end_are_not_shown_as_equal() {
        let (a, b) = (Value::String("x".repeat(100) + "a"), Value::String("x".repeat(100) + "b"));
        assert_eq!(change("V", Some(&a), Some(&b)), "V changed");
    }
}
