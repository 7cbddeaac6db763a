//! Assignments on one line.

use super::tokens::is_placeholder;

/// `NAME=VALUE`, `NAME: VALUE`, `export NAME="VALUE"`; comments are none.
pub(super) fn assignment<'a>(line: &'a str, separators: &[char]) -> Option<(&'a str, &'a str)> {
    let line = line.trim();
    if line.starts_with(['#', ';']) {
        return None;
    }
    let line = line.strip_prefix("export ").unwrap_or(line);
    let (name, value) = line.split_once(separators)?;
    let value = value.trim();
    let value = match value.chars().next() {
        Some(quote @ ('"' | '\'')) => value[1..].split(quote).next().unwrap_or_default(),
        _ => value.split(" #").next().unwrap_or_default().trim(),
    };
    Some((name.trim().trim_matches(['"', '\'']), value))
}

/// Whether a variable of this name holds a secret.
pub(super) fn is_secret_name(name: &str) -> bool {
    let folded = name.to_uppercase();
    let parts: Vec<&str> = folded.split(['_', '-', '.']).collect();
    let last = parts.last().copied().unwrap_or_default();
    // MAX_TOKENS, TOKEN_URL and the like say something about one.
    let ends = ["SECRET", "TOKEN", "PASSWORD", "PASSWD", "PASS", "PWD", "APIKEY", "CREDENTIALS"];
    let whole =
        ["API_KEY", "SECRET_KEY", "PRIVATE_KEY", "ACCESS_KEY", "ENCRYPTION_KEY", "SIGNING_KEY", "AUTH_KEY"];
    (ends.contains(&last) && folded != "PWD" && folded != "OLDPWD")
        || whole.iter().any(|known| folded.ends_with(known))
}

/// Whether a value may be a secret: long enough, and no placeholder, switch or number.
pub(super) fn is_secret_value(value: &str) -> bool {
    let plain =
        ["true", "false", "none", "null", "password", "secret", "postgres", "localhost", "development"];
    value.len() >= 8
        && !value.contains(' ')
        && !plain.contains(&value.to_lowercase().as_str())
        && !value.bytes().all(|byte| byte.is_ascii_digit())
        && !is_placeholder(value)
}

/// A password in an address: `scheme://user:password@host`.
pub(super) fn password_in_address(line: &str) -> bool {
    line.match_indices("://").any(|(at, _)| {
        let rest = &line[at + 3..];
        let authority =
            rest.split(|c: char| c.is_whitespace() || "/\"'`<>".contains(c)).next().unwrap_or_default();
        let Some((user, _)) = authority.rsplit_once('@') else { return false };
        user.split_once(':').is_some_and(|(_, password)| is_secret_value(password))
    })
}
