//! Lists: a table that fits the terminal, JSON, or what `--format` asks for.

use serde_json::{Map, Value};

use rustix::termios::{isatty, tcgetwinsize};

use crate::build::Failure;
use crate::progress::width::{columns, cut};
use crate::visible::{visible_json, visible_line};

use super::template::{self, Template};
use super::{Stop, write_out};

/// The narrowest that a column is cut to.
const NARROW: usize = 12;
/// The widest column where there is no terminal to fit.
pub(super) const WIDEST: usize = 256;

/// A column: its title, the field it shows, and whether it may be cut.
#[derive(Clone, Copy)]
pub(super) struct Column {
    pub title: &'static str,
    pub field: &'static str,
    pub may_be_cut: bool,
}

/// A column that is shown whole.
pub(super) const fn whole(title: &'static str, field: &'static str) -> Column {
    Column { title, field, may_be_cut: false }
}

/// A column that gives way where the terminal is narrow.
pub(super) const fn flexible(title: &'static str, field: &'static str) -> Column {
    Column { title, field, may_be_cut: true }
}

/// How a list is written.
pub(super) enum Form {
    Table,
    Json,
    /// A line for each row.
    Lines(Template),
    /// A table of the template's own columns, divided by tabs.
    Columns(Template),
}

impl Form {
    /// What `--format` says.
    pub fn parse(text: Option<&str>) -> Result<Self, Failure> {
        Ok(match text.unwrap_or_default() {
            "" | "table" => Form::Table,
            "json" => Form::Json,
            text => match text.strip_prefix("table ") {
                Some(columns) => Form::Columns(template::parse(columns)?),
                None => Form::Lines(template::parse(text)?),
            },
        })
    }
}

/// Writes rows; `cuts` as far as they go to a terminal, which has a width.
pub(super) fn write(columns: &[Column], rows: &[Value], form: &Form, cuts: bool) -> Result<(), Stop> {
    let text = match form {
        Form::Json => rows.iter().map(|row| format!("{}\n", visible_json(&row.to_string()))).collect(),
        Form::Table => {
            let cell = |row: &Value, field: &str| match &row[field] {
                Value::String(text) => visible_line(text).into_owned(),
                Value::Null => String::new(),
                other => other.to_string(),
            };
            let head = columns.iter().map(|column| column.title.to_owned()).collect();
            let cells = rows.iter().map(|row| columns.iter().map(|column| cell(row, column.field)).collect());
            let flexible: Vec<bool> = columns.iter().map(|column| column.may_be_cut).collect();
            table(
                &std::iter::once(head).chain(cells).collect::<Vec<_>>(),
                &flexible,
                cuts.then(width).flatten(),
            )
        }
        Form::Lines(template) => {
            let mut out = String::new();
            for row in rows {
                out.push_str(&crate::visible::visible(&template.render(row)?));
                out.push('\n');
            }
            out
        }
        Form::Columns(template) => {
            let cells = |text: String| text.split('\t').map(|cell| visible_line(cell).into_owned()).collect();
            let mut all: Vec<Vec<String>> = vec![cells(template.render(&heads(rows))?)];
            for row in rows {
                all.push(cells(template.render(row)?));
            }
            table(&all, &[], None)
        }
    };
    write_out(&text)
}

/// Titles in the place of values: `CreatedSince` is `CREATED SINCE`.
fn heads(rows: &[Value]) -> Value {
    let mut heads = Map::new();
    for name in rows.iter().filter_map(Value::as_object).flat_map(Map::keys) {
        let mut title = String::new();
        for (at, c) in name.char_indices() {
            let before = name[..at].chars().last();
            if c.is_uppercase() && before.is_some_and(char::is_lowercase) {
                title.push(' ');
            }
            title.extend(c.to_uppercase());
        }
        heads.insert(name.clone(), Value::String(title));
    }
    Value::Object(heads)
}

/// The width of the terminal that standard output is, if it is one.
fn width() -> Option<usize> {
    let out = rustix::stdio::stdout();
    let size = isatty(out).then(|| tcgetwinsize(out).ok()).flatten()?;
    (size.ws_col > 0).then_some(size.ws_col.into())
}

/// Columns as wide as what is in them. Where that is too wide, those that may be cut give way, the widest first.
fn table(rows: &[Vec<String>], flexible: &[bool], width: Option<usize>) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or_default();
    let mut widths: Vec<usize> = (0..count)
        .map(|at| {
            rows.iter().filter_map(|row| row.get(at)).map(|cell| columns(cell)).max().unwrap_or_default()
        })
        .collect();
    // What comes from registries and images may be of any length; it is shown, but does not widen all rows.
    if width.is_none() {
        widths.iter_mut().for_each(|width| *width = (*width).min(WIDEST));
    }
    let gaps = 3 * count.saturating_sub(1);
    while let Some(limit) = width
        && widths.iter().sum::<usize>() + gaps > limit
    {
        let over = widths.iter().sum::<usize>() + gaps - limit;
        let candidates = (0..count).filter(|at| flexible.get(*at) == Some(&true) && widths[*at] > NARROW);
        let Some(at) = candidates.max_by_key(|at| widths[*at]) else { break };
        widths[at] = widths[at].saturating_sub(over).max(NARROW);
    }
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (at, cell) in row.iter().enumerate() {
            let cell = if width.is_some() { cut(cell, widths[at]) } else { cell.clone() };
            line.push_str(&cell);
            line.push_str(&" ".repeat(widths[at].saturating_sub(columns(&cell)) + 3));
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// `2 minutes ago`, as docker says it; `N/A` for no time.
pub(super) fn ago(created: &str, now: i64) -> String {
    let Ok(time) = created.parse::<jiff::Timestamp>() else { return "N/A".into() };
    let seconds = u64::try_from(now - time.as_second()).unwrap_or(0);
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let text = match seconds {
        0 => "Less than a second".to_owned(),
        1 => "1 second".into(),
        2..60 => format!("{seconds} seconds"),
        60..120 => "About a minute".into(),
        120..3600 => format!("{minutes} minutes"),
        3600..7200 => "About an hour".into(),
        _ if hours < 48 => format!("{hours} hours"),
        _ if hours < 24 * 14 => format!("{} days", hours / 24),
        _ if hours < 24 * 60 => format!("{} weeks", hours / 24 / 7),
        _ if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", hours / 24 / 365),
    };
    format!("{text} ago")
}

/// Seconds since 1970.
pub(super) fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

/// `2026-11-29 15:46:27 +0000 UTC`, as docker writes it.
pub(super) fn date(created: &str) -> String {
    match created.parse::<jiff::Timestamp>() {
        Ok(time) => {
            let text = crate::time::rfc3339(time.as_second(), 0);
            format!("{} +0000 UTC", text.trim_end_matches('Z').replace('T', " "))
        }
        Err(_) => "N/A".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(cells: &[&str]) -> Vec<String> {
        cells.iter().map(|cell| (*cell).to_owned()).collect()
    }

    #[test]
    fn tables_fit_the_terminal_by_cutting_what_may_be_cut() {
        let rows = [row(&["NAME", "ID", "NOTE"]), row(&["日本/app", "0123456789ab", &"x".repeat(80)])];
        let flexible = [true, false, true];
        let whole = table(&rows, &flexible, None);
        assert_eq!(whole.lines().next(), Some("NAME       ID             NOTE"));
        assert_eq!(whole.lines().nth(1).map(columns), Some(8 + 3 + 12 + 3 + 80));
        let cut = table(&rows, &flexible, Some(60));
        assert!(
            cut.lines().all(|line| columns(line) <= 60) && cut.contains("日本/app   0123456789ab   xxx"),
            "{cut}"
        );
        let narrow = table(&rows, &flexible, Some(10));
        assert!(narrow.contains("0123456789ab"), "{narrow}");
    }

    #[test]
    fn times_are_relative_as_in_docker() {
        let now = 1_700_000_000;
        for (seconds, wanted) in [
            (0, "Less than a second ago"),
            (30, "30 seconds ago"),
            (90, "About a minute ago"),
            (600, "10 minutes ago"),
            (5_000, "About an hour ago"),
            (90_000, "25 hours ago"),
            (86_400 * 5, "5 days ago"),
            (86_400 * 21, "3 weeks ago"),
            (86_400 * 100, "3 months ago"),
            (86_400 * 1_000, "2 years ago"),
        ] {
            assert_eq!(ago(&crate::time::rfc3339(now - seconds, 5), now), wanted);
        }
        assert_eq!(ago("", now), "N/A");
        assert_eq!(date("2026-11-29T15:46:27.5Z"), "2026-11-29 15:46:27 +0000 UTC");
    }

    #[test]
    fn columns_of_a_template_have_titles() {
        let rows = [serde_json::json!({ "ID": "ab", "CreatedSince": "now" })];
        assert_eq!(heads(&rows), serde_json::json!({ "ID": "ID", "CreatedSince": "CREATED SINCE" }));
    }
}
