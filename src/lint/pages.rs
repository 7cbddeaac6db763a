//! The documentation of rules, carried along so that it can be read without a network.

use super::rule::{Level, RULES, Rule, kebab, rule};

/// The list of all rules, of which BuildKit's have their lines alone.
const INDEX: &str = include_str!("../../docs/rules/README.md");

macro_rules! pages {
    ($($page:literal)*) => {
        &[$(($page, include_str!(concat!("../../docs/rules/", $page, ".md")))),*]
    };
}

/// Pages by the file's name without its ending.
const PAGES: &[(&str, &str)] = pages![
    "add-instead-of-copy"
    "apk-index-left"
    "apt-assume-yes"
    "apt-cache-left"
    "apt-update-alone"
    "cache-mount-missing"
    "cd-in-run"
    "copy-before-dependencies"
    "empty-command"
    "heredoc-dash-space"
    "heredoc-without-errexit"
    "invalid-check-option"
    "malformed-json-form"
    "pip-without-no-cache-dir"
    "secret-file-copied"
    "stage-reference-casing"
    "sudo-in-run"
    "unlocked-base"
    "unpinned-base"
    "unused-stage"
];

/// What the documentation says about a rule.
///
/// # Errors
/// No rule has this name; the message gives the nearest one.
pub fn explain(name: &str) -> Result<String, String> {
    let Some(rule) = rule(name) else {
        let near = crate::suggest::suggest(name, RULES.iter().map(|rule| rule.name));
        let hint = near.map_or_else(String::new, |near| format!("; did you mean {near}?"));
        return Err(format!("there is no rule {name:?}{hint}"));
    };
    let page = PAGES.iter().find(|(page, _)| *page == kebab(rule.name)).map(|(_, text)| (*text).to_owned());
    Ok(page.unwrap_or_else(|| short(rule)))
}

/// A rule of BuildKit's in a few lines.
fn short(rule: &Rule) -> String {
    debug_assert_eq!(rule.level, Level::Warning);
    let row = INDEX.lines().find_map(|line| {
        let mut cells = line.strip_prefix("| ")?.split(" | ");
        (cells.next() == Some(rule.name)).then(|| (cells.next().unwrap_or(""), cells.next().unwrap_or("")))
    });
    let (fires, fix) = row.unwrap_or_default();
    let fix = fix.trim_end_matches('|').trim();
    let mut out = format!("# {}\n\n{}.\n\n", rule.name, rule.description.trim_end_matches('.'));
    out.push_str(&format!("Reported where: {fires}\n"));
    if !fix.is_empty() {
        out.push_str(&format!("`rbuild check --fix`: {fix}\n"));
    }
    if let Some(url) = rule.url() {
        out.push_str(&format!("Docker's page: {url}\n"));
    }
    let silence = if rule.experimental {
        format!("\nThis rule is experimental: `# check=experimental={}` turns it on.\n", rule.name)
    } else {
        format!(
            "\nWrite `# check=skip={}` at the head of the Dockerfile, or right above the one instruction, to silence it.\n",
            rule.name
        )
    };
    out.push_str(&silence);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_is_explained() {
        for rule in RULES {
            let text = explain(rule.name).unwrap();
            assert!(text.starts_with(&format!("# {}\n", rule.name)), "{text}");
            if rule.level == Level::Warning {
                assert!(!text.contains("where: \n"), "{} is not in the table", rule.name);
            } else {
                assert!(text.contains("## Good"), "{text}");
            }
        }
        let text = explain("StageNameCasing").unwrap();
        assert!(
            text.contains("Reported where: A stage name is not lower case.\n`rbuild check --fix`: yes\n"),
            "{text}"
        );
    }

    #[test]
    fn the_nearest_rule_is_proposed() {
        assert_eq!(explain("CdinRun").unwrap_err(), "there is no rule \"CdinRun\"; did you mean CdInRun?");
        assert_eq!(explain("Nonsense").unwrap_err(), "there is no rule \"Nonsense\"");
    }
}
