//! What services for continuous integration understand in a log: groups that fold, and annotations. Pure.
//!
//! They read commands from the very lines that steps print. So nothing but what is written here may look like one:
//! [`Ci::harmless`] goes over everything else.

use std::borrow::Cow;

/// A service whose log rbuild writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ci {
    /// GitHub Actions, and what runs its workflows (Gitea, Forgejo, act).
    GitHub,
    /// GitLab CI.
    GitLab,
    /// TeamCity.
    TeamCity,
    /// Azure Pipelines.
    Azure,
}

/// How bad an annotation is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Level {
    /// The build goes on.
    Warning,
    /// The build has failed.
    Error,
}

/// What an annotation says, and of which place.
#[derive(Clone, Copy, Debug)]
pub struct Annotation<'a> {
    /// How bad it is.
    pub level: Level,
    /// What is wrong.
    pub message: &'a str,
    /// The rule, or the kind of message.
    pub title: Option<&'a str>,
    /// A path below the root of the repository, and a line from 1.
    pub place: Option<(&'a str, usize)>,
}

/// The beginnings of commands that may stand anywhere in a line.
const ANYWHERE: [&str; 3] = ["##[", "##vso[", "##teamcity["];

impl Ci {
    /// Text of steps or of rbuild in which nothing is a command.
    pub fn harmless<'t>(self, text: &'t str) -> Cow<'t, str> {
        let is_command = |line: &str| line.trim_start().starts_with("::");
        let evil = text.split('\n').any(is_command) || ANYWHERE.iter().any(|start| contains(text, start));
        if !evil {
            return Cow::Borrowed(text);
        }
        let lines = text.split('\n').map(|line| {
            let line = if is_command(line) { line.replacen("::", ": :", 1) } else { line.to_owned() };
            // Whatever their case: the readers differ.
            if ANYWHERE.iter().any(|start| contains(&line, start)) { line.replace("##", "# #") } else { line }
        });
        Cow::Owned(lines.collect::<Vec<_>>().join("\n"))
    }

    /// The line that begins a group, with its title. `seconds` since 1970; `name` is made of letters, digits and `_`.
    pub(super) fn open(self, name: &str, title: &str, seconds: u64) -> String {
        match self {
            Ci::GitHub => format!("::group::{}", github_data(title).replace("##", "# #")),
            Ci::GitLab => {
                format!("\x1b[0Ksection_start:{seconds}:{name}\r\x1b[0K{}", self.harmless(&one_line(title)))
            }
            Ci::TeamCity => format!("##teamcity[blockOpened name='{}']", teamcity(title)),
            Ci::Azure => format!("##[group]{}", one_line(title).replace("##", "# #")),
        }
    }

    /// The line that ends the group.
    pub(super) fn close(self, name: &str, title: &str, seconds: u64) -> String {
        match self {
            Ci::GitHub => "::endgroup::".to_owned(),
            Ci::GitLab => format!("\x1b[0Ksection_end:{seconds}:{name}\r\x1b[0K"),
            Ci::TeamCity => format!("##teamcity[blockClosed name='{}']", teamcity(title)),
            Ci::Azure => "##[endgroup]".to_owned(),
        }
    }

    /// The line that annotates a place in the code, where the service supports that. The log shows it as well.
    pub fn annotation(self, annotation: &Annotation<'_>) -> Option<String> {
        let Annotation { level, message, title, place } = *annotation;
        match self {
            Ci::GitHub => {
                let command = if level == Level::Error { "error" } else { "warning" };
                let mut fields: Vec<String> = Vec::new();
                if let Some((file, line)) = place {
                    fields.push(format!("file={}", github_property(file)));
                    fields.push(format!("line={line}"));
                }
                fields.extend(title.map(|title| format!("title={}", github_property(title))));
                let blank = if fields.is_empty() { "" } else { " " };
                Some(format!("::{command}{blank}{}::{}", fields.join(","), github_data(message)))
            }
            Ci::Azure => {
                let kind = if level == Level::Error { "error" } else { "warning" };
                let mut fields = format!("type={kind};");
                if let Some((file, line)) = place {
                    fields.push_str(&format!("sourcepath={};linenumber={line};", azure(file)));
                }
                let title = title.map(|title| format!("{title}: ")).unwrap_or_default();
                Some(format!("##vso[task.logissue {fields}]{}", azure(&format!("{title}{message}"))))
            }
            Ci::TeamCity => {
                let place = place.map(|(file, line)| format!("{file}:{line}: ")).unwrap_or_default();
                let title = title.map(|title| format!("{title}: ")).unwrap_or_default();
                let text = teamcity(&format!("{place}{title}{message}"));
                Some(match level {
                    Level::Error => format!("##teamcity[buildProblem description='{text}']"),
                    Level::Warning => format!("##teamcity[message text='{text}' status='WARNING']"),
                })
            }
            Ci::GitLab => None,
        }
    }
}

fn contains(text: &str, start: &str) -> bool {
    text.as_bytes().windows(start.len()).any(|window| window.eq_ignore_ascii_case(start.as_bytes()))
}

fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

/// As the runner reads the message of a command.
fn github_data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

/// As it reads the fields of one.
fn github_property(text: &str) -> String {
    github_data(text).replace(':', "%3A").replace(',', "%2C")
}

fn azure(text: &str) -> String {
    let text = text.replace('%', "%AZP25").replace('\r', "%0D").replace('\n', "%0A");
    text.replace(';', "%3B").replace(']', "%5D")
}

fn teamcity(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '|' | '\'' | '[' | ']' => out.extend(['|', c]),
            '\n' => out.push_str("|n"),
            '\r' => out.push_str("|r"),
            c if c.is_ascii() => out.push(c),
            c => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    out.push_str(&format!("|0x{unit:04X}"));
                }
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Ci; 4] = [Ci::GitHub, Ci::GitLab, Ci::TeamCity, Ci::Azure];

    /// Whether a runner would take a line for a command of its own.
    fn obeyed(line: &str) -> bool {
        line.trim_start().starts_with("::") || ANYWHERE.iter().any(|start| contains(line, start))
    }

    #[test]
    fn nothing_that_a_step_prints_is_a_command() {
        for ci in ALL {
            for evil in [
                "::error::x",
                "  \t::stop-commands::x",
                "fine\n::add-path::/x",
                "text ##[error]x",
                "text ##vso[task.setvariable variable=x]y",
                "##TeamCity[buildStop]",
                "####[group]",
            ] {
                let harmless = ci.harmless(evil);
                assert!(!harmless.split('\n').any(obeyed), "{ci:?}: {harmless}");
            }
            assert_eq!(ci.harmless("a::b ## c # d"), "a::b ## c # d");
        }
    }

    #[test]
    fn commands_keep_to_one_line_and_one_field() {
        let annotation = Annotation {
            level: Level::Error,
            message: "100% wrong\n::warning::x ##[error] ']|",
            title: Some("a,b:c"),
            place: Some(("dir/Dockerfile", 3)),
        };
        let line = |ci: Ci| ci.annotation(&annotation);
        assert_eq!(
            line(Ci::GitHub).as_deref(),
            Some(
                "::error file=dir/Dockerfile,line=3,title=a%2Cb%3Ac::100%25 wrong%0A::warning::x ##[error] ']|"
            )
        );
        assert_eq!(line(Ci::GitLab), None);
        for ci in ALL {
            for text in [line(ci).unwrap_or_default(), ci.open("x", "a\nb", 7), ci.close("x", "a\nb", 7)] {
                assert!(!text.contains('\n'), "{ci:?}: {text}");
            }
        }
        let teamcity = line(Ci::TeamCity).unwrap_or_default();
        assert!(teamcity.ends_with("##|[error|] |'|]||']"), "{teamcity}");
        assert_eq!(Ci::GitLab.open("rbuild_1", "RUN x", 7), "\x1b[0Ksection_start:7:rbuild_1\r\x1b[0KRUN x");
    }
}
