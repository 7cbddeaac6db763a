//! Builds in a service for continuous integration: which one it is, where its annotations point, its summary page.

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::OnceLock;

use crate::build::{Failure, FailureKind};
use crate::event::Outcome;
use crate::progress::{self, Annotation, Ci, Ledger, Level, Row};
use crate::visible::{visible, visible_line};

use super::environment::Environment;
use super::values::human;

/// Rows of the summary page: a service shows no more than 1 MiB of it.
const MOST_ROWS: usize = 300;

/// What was found out about the service, once a build begins.
#[derive(Debug)]
pub(super) struct Job {
    pub ci: Ci,
    /// Where the repository is.
    root: PathBuf,
}

static JOB: OnceLock<Option<Job>> = OnceLock::new();

/// Which service a build reports to: what `--ci` says, or else what the environment does.
pub(super) fn choose(flag: Option<&str>, env: &Environment) -> Result<Option<Ci>, Failure> {
    Ok(match flag.unwrap_or("auto") {
        "" | "auto" | "true" => env.ci,
        "none" | "false" => None,
        "github" => Some(Ci::GitHub),
        "gitlab" => Some(Ci::GitLab),
        "teamcity" => Some(Ci::TeamCity),
        "azure" => Some(Ci::Azure),
        other => {
            let message = format!("there is no --ci {other:?}");
            let names = ["auto", "none", "github", "gitlab", "teamcity", "azure"];
            return Err(Failure::new(FailureKind::Usage, message).help(format!("it is {}", names.join(", "))));
        }
    })
}

/// Remembers the choice for failures, which are reported last of all.
pub(super) fn begin(ci: Option<Ci>, env: &Environment) -> Option<&'static Job> {
    let job = || {
        let root = env.ci_root.clone().or_else(|| std::env::current_dir().ok()).unwrap_or_default();
        Some(Job { ci: ci?, root: std::fs::canonicalize(&root).unwrap_or(root) })
    };
    JOB.get_or_init(job).as_ref()
}

/// The path of a file below the root of the repository, where annotations look for it. What is elsewhere stays as it is.
pub(super) fn below_root(file: &str) -> String {
    let found = || {
        let job = JOB.get()?.as_ref()?;
        let path = std::fs::canonicalize(file).ok()?;
        Some(path.strip_prefix(&job.root).ok()?.to_str()?.to_owned())
    };
    found().unwrap_or_else(|| file.to_owned())
}

/// A failure for the log of a service: what it marks, and the text in which nothing is a command.
pub(super) fn failure(failure: &Failure, text: String, env: &Environment) -> String {
    let job = JOB.get();
    let ci = match job {
        Some(job) => job.as_ref().map(|job| job.ci),
        None => env.ci,
    };
    let Some(ci) = ci else { return text };
    let text = ci.harmless(&text).into_owned();
    if failure.kind == FailureKind::Interrupted {
        return text;
    }
    let message = visible(&failure.message);
    let place = failure.place.as_ref();
    let place = place.map(|(source, span)| (below_root(source.name()), source.location(span.start).line));
    let place = place.as_ref().map(|(file, line)| (file.as_str(), *line));
    let annotation = Annotation { level: Level::Error, message: &message, title: Some("rbuild"), place };
    match ci.annotation(&annotation) {
        Some(line) => format!("{line}\n{text}"),
        None => text,
    }
}

/// Adds a build to the job's summary page, where the service has one. A page that cannot be written is no failure
/// of the build.
pub(super) fn summarize(env: &Environment, ledger: &Ledger, failure: Option<&Failure>) {
    let (Some(Some(Job { ci: Ci::GitHub, .. })), Some(path)) = (JOB.get(), &env.step_summary) else { return };
    if let Err(error) = append(path, &page(ledger, failure)) {
        super::tell(&format!("rbuild: cannot write the summary of the job to {}: {error}", path.display()));
    }
}

fn append(path: &PathBuf, text: &str) -> std::io::Result<()> {
    use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
    // A pipe that nobody reads would keep a finished build for ever.
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let mut file = std::fs::OpenOptions::new().append(true).create(true).custom_flags(flags).open(path)?;
    if file.metadata()?.file_type().is_fifo() {
        return Err(std::io::Error::other("it is a pipe"));
    }
    file.write_all(text.as_bytes())
}

fn page(ledger: &Ledger, failure: Option<&Failure>) -> String {
    let mut out = String::new();
    match (ledger.summary(), failure) {
        (_, Some(failure)) => {
            out.push_str(&format!("### ❌ Build failed\n\n{}\n\n", code(&failure.message)));
        }
        (Some(summary), None) => {
            let name = match summary.names.as_slice() {
                [] => "an image".to_owned(),
                names => names.iter().map(|name| code(name)).collect::<Vec<_>>().join(", "),
            };
            let time = progress::elapsed(summary.elapsed);
            let Some(id) = summary.id else {
                out.push_str(&format!("### Build without an image in {time}\n\n"));
                return out + &details(&summary.details) + &table(&ledger.rows());
            };
            out.push_str(&format!("### Built {name} in {time}\n\n"));
            out.push_str(&format!(
                "Image ID {}, {}, {} layers, {} of {} steps cached\n\n",
                code(&id.to_string()),
                human(summary.size),
                summary.layers,
                summary.cached,
                summary.steps
            ));
            out.push_str(&details(&summary.details));
        }
        (None, None) => return out,
    }
    out + &table(&ledger.rows())
}

fn details(lines: &[String]) -> String {
    let lines: String = lines.iter().map(|line| format!("- {}\n", code(line))).collect();
    if lines.is_empty() { lines } else { lines + "\n" }
}

fn table(rows: &[Row]) -> String {
    let mut out = "| Step | Result | Time |\n| --- | --- | ---: |\n".to_owned();
    for row in rows.iter().take(MOST_ROWS) {
        let (result, time) = match &row.outcome {
            Some(Outcome::Done) => ("done", progress::elapsed(row.elapsed)),
            Some(Outcome::Cached) => ("cached", String::new()),
            Some(Outcome::Failed(_)) => ("❌ failed", progress::elapsed(row.elapsed)),
            Some(Outcome::Canceled) | None => ("not finished", String::new()),
        };
        out.push_str(&format!("| {} | {result} | {time} |\n", code(&row.name)));
    }
    if rows.len() > MOST_ROWS {
        out.push_str(&format!("| and {} more | | |\n", rows.len() - MOST_ROWS));
    }
    out + "\n"
}

/// Text in which nothing is Markdown or HTML, on one line.
fn code(text: &str) -> String {
    const MOST: usize = 300;
    let line = visible_line(text);
    let mut out: String = String::new();
    for (at, c) in line.chars().enumerate() {
        if at == MOST {
            out.push('…');
            break;
        }
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\n' | '\r' => out.push(' '),
            c if c.is_ascii_punctuation() => out.push_str(&format!("&#{};", u32::from(c))),
            c => out.push(c),
        }
    }
    format!("<code>{out}</code>")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_neither_markdown_nor_html() {
        let shown = code("a|b`c*[x](y)\n<img>&");
        let inner = shown.trim_start_matches("<code>").trim_end_matches("</code>");
        assert!(!inner.contains(['|', '`', '*', '[', '<', '\n']), "{shown}");
        assert!(inner.contains("&lt;img&gt;&amp;"), "{shown}");
        assert!(code(&"x".repeat(400)).chars().count() < 400);
    }

    #[test]
    fn the_service_is_chosen_by_flag_and_environment() {
        let mut env = Environment::default();
        env.ci = Some(Ci::GitHub);
        for (flag, wanted) in [
            (None, Some(Ci::GitHub)),
            (Some("auto"), Some(Ci::GitHub)),
            (Some("none"), None),
            (Some("gitlab"), Some(Ci::GitLab)),
        ] {
            assert_eq!(choose(flag, &env).ok(), Some(wanted), "{flag:?}");
        }
        assert!(choose(Some("jenkins"), &env).is_err());
    }
}
