//! BuildKit's source policies: rules in JSON that allow, deny and convert sources.

use std::collections::BTreeMap;
use std::path::Path;

use regex::Regex;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use crate::remote::{Forbidden, ForbiddenBy};
use crate::sources::lock;

use super::Source;

/// Bytes of an identifier in a policy, and of what it makes of a source's: groups that are referred to several times
/// would let it grow with each conversion.
const MAX_TEXT: usize = 4096;
const MAX_IDENTIFIER: usize = 8192;

/// A policy: its rules in order. Of ALLOW and DENY rules the last that matches counts; a CONVERT that changes
/// something ends the policy's turn.
pub struct SourcePolicy {
    name: String,
    rules: Vec<Rule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    #[serde(default)]
    version: i64,
    #[serde(default)]
    rules: Vec<RawRule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRule {
    #[serde(default)]
    action: Action,
    selector: RawSelector,
    #[serde(default)]
    updates: Option<Updates>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSelector {
    #[serde(default)]
    identifier: String,
    #[serde(default)]
    match_type: MatchType,
    #[serde(default)]
    constraints: Vec<RawConstraint>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawConstraint {
    #[serde(default)]
    key: String,
    #[serde(default)]
    value: String,
    #[serde(default)]
    condition: Condition,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Updates {
    #[serde(default)]
    identifier: String,
    #[serde(default)]
    attrs: BTreeMap<String, String>,
}

/// An enumeration by name or number, as BuildKit reads both.
macro_rules! enumeration {
    ($name:ident { $first:ident = $first_name:literal, $($variant:ident = $text:literal),* }) => {
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
        enum $name {
            #[default]
            $first,
            $($variant,)*
        }

        impl $name {
            const ALL: &[($name, &str)] = &[($name::$first, $first_name), $(($name::$variant, $text)),*];
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let value = serde_json::Value::deserialize(deserializer)?;
                let found = match (&value, value.as_u64().and_then(|at| usize::try_from(at).ok())) {
                    (serde_json::Value::String(name), _) => Self::ALL.iter().find(|(_, text)| text == name),
                    (_, Some(at)) => Self::ALL.get(at),
                    _ => None,
                };
                let names: Vec<&str> = Self::ALL.iter().map(|(_, text)| *text).collect();
                found
                    .map(|(one, _)| *one)
                    .ok_or_else(|| D::Error::custom(format!("{value} is none of {}", names.join(", "))))
            }
        }
    };
}

enumeration!(Action { Allow = "ALLOW", Deny = "DENY", Convert = "CONVERT" });
enumeration!(MatchType { Wildcard = "WILDCARD", Exact = "EXACT", Regex = "REGEX" });
enumeration!(Condition { Equal = "EQUAL", NotEqual = "NOTEQUAL", Matches = "MATCHES" });

impl MatchType {
    fn name(self) -> &'static str {
        match self {
            MatchType::Wildcard => "WILDCARD",
            MatchType::Exact => "EXACT",
            MatchType::Regex => "REGEX",
        }
    }
}

struct Rule {
    /// From 1.
    number: usize,
    action: Action,
    identifier: String,
    match_type: MatchType,
    /// What a wildcard or regular expression matches.
    pattern: Option<Regex>,
    constraints: Vec<Constraint>,
    updates: Updates,
}

struct Constraint {
    key: String,
    value: String,
    condition: Condition,
    pattern: Option<Regex>,
}

impl SourcePolicy {
    /// Reads a policy. `name` is for messages.
    ///
    /// # Errors
    /// What is wrong, beginning with the file's name.
    pub fn read(name: &str, path: &Path) -> Result<Self, String> {
        let whole = |error: lock::LockError| format!("{name} {}", error.message);
        let bytes = lock::read(path).map_err(whole)?.ok_or_else(|| format!("there is no policy {name}"))?;
        Self::parse(name, &lock::text(bytes).map_err(whole)?)
    }

    /// Reads the text of a policy.
    ///
    /// # Errors
    /// What is wrong, beginning with the file's name and the place in it.
    pub fn parse(name: &str, text: &str) -> Result<Self, String> {
        let raw: Raw = serde_json::from_str(text)
            .map_err(|error| format!("{name}:{}:{}: {error}", error.line(), error.column()))?;
        if !matches!(raw.version, 0 | 1) {
            return Err(format!("{name}: version {} is not supported; it is 1", raw.version));
        }
        let rules = raw.rules.into_iter().enumerate().map(|(at, rule)| {
            Rule::new(at + 1, rule).map_err(|message| format!("{name}: rule {}: {message}", at + 1))
        });
        Ok(SourcePolicy { name: name.to_owned(), rules: rules.collect::<Result<_, _>>()? })
    }

    /// Whether the source was converted, which begins a new round. Fails where it is denied.
    pub(super) fn evaluate(&self, source: &mut Source) -> Result<bool, Forbidden> {
        let mut denied = None;
        for rule in &self.rules {
            if !rule.matches(source) {
                continue;
            }
            match rule.action {
                Action::Allow => denied = None,
                Action::Deny => denied = Some(rule),
                Action::Convert => {
                    if rule.convert(source) {
                        return match source.identifier.len() > MAX_IDENTIFIER {
                            true => Err(self.too_long(rule)),
                            false => Ok(true),
                        };
                    }
                }
            }
        }
        let Some(rule) = denied else { return Ok(false) };
        let message = format!(
            "source {} is denied by policy {}: rule {}, DENY {} {}",
            source.identifier,
            self.name,
            rule.number,
            rule.match_type.name(),
            rule.identifier
        );
        Err(Forbidden::new(ForbiddenBy::Policy, message).help(
            "an ALLOW rule behind it allows the source again; of both kinds the last that matches counts",
        ))
    }
}

impl SourcePolicy {
    fn too_long(&self, rule: &Rule) -> Forbidden {
        let message = format!(
            "policy {}: rule {} converts a source to an identifier of more than {MAX_IDENTIFIER} bytes",
            self.name, rule.number
        );
        Forbidden::new(ForbiddenBy::Policy, message).help("refer to each group once in `updates`")
    }
}

impl Rule {
    fn new(number: usize, raw: RawRule) -> Result<Self, String> {
        let RawSelector { identifier, match_type, constraints } = raw.selector;
        let update = raw.updates.as_ref().map_or("", |updates| &updates.identifier);
        if identifier.len().max(update.len()) > MAX_TEXT {
            return Err(format!("an identifier has more than {MAX_TEXT} bytes"));
        }
        let pattern = match match_type {
            MatchType::Exact => None,
            MatchType::Wildcard => Some(wildcard(&identifier)?),
            MatchType::Regex => Some(regex(&identifier)?),
        };
        let constraints = constraints.into_iter().map(|raw| {
            let RawConstraint { key, value, condition } = raw;
            let pattern = (condition == Condition::Matches).then(|| regex(&value)).transpose()?;
            Ok::<_, String>(Constraint { key, value, condition, pattern })
        });
        let constraints = constraints.collect::<Result<_, _>>()?;
        if raw.action == Action::Convert && raw.updates.is_none() {
            return Err("CONVERT needs updates".to_owned());
        }
        let updates = raw.updates.unwrap_or_default();
        Ok(Rule { number, action: raw.action, identifier, match_type, pattern, constraints, updates })
    }

    fn matches(&self, source: &Source) -> bool {
        let holds = |constraint: &Constraint| {
            let value = source.attrs.get(&constraint.key).map(String::as_str).unwrap_or_default();
            match (constraint.condition, &constraint.pattern) {
                (Condition::Equal, _) => value == constraint.value,
                (Condition::NotEqual, _) => value != constraint.value,
                (Condition::Matches, pattern) => {
                    pattern.as_ref().is_some_and(|pattern| pattern.is_match(value))
                }
            }
        };
        let is_it = self.identifier == source.identifier
            || self.pattern.as_ref().is_some_and(|pattern| pattern.is_match(&source.identifier));
        is_it && self.constraints.iter().all(holds)
    }

    /// Whether something changed.
    fn convert(&self, source: &mut Source) -> bool {
        let wanted = match self.updates.identifier.as_str() {
            "" => self.identifier.as_str(),
            given => given,
        };
        let dest = match (self.match_type, &self.pattern) {
            (MatchType::Regex, Some(pattern)) => pattern.replace_all(&source.identifier, wanted).into_owned(),
            (MatchType::Wildcard, Some(pattern)) => match pattern.captures(&source.identifier) {
                Some(found) => {
                    let mut dest = String::new();
                    found.expand(wanted, &mut dest);
                    dest
                }
                None => source.identifier.clone(),
            },
            _ => wanted.to_owned(),
        };
        let before = source.clone();
        if !dest.is_empty() {
            source.identifier = dest;
        }
        source.attrs.extend(self.updates.attrs.clone());
        *source != before
    }
}

fn regex(text: &str) -> Result<Regex, String> {
    Regex::new(text).map_err(|error| format!("{text:?} is not a regular expression: {error}"))
}

/// `*` stands for anything, and is a group that updates can refer to.
fn wildcard(text: &str) -> Result<Regex, String> {
    if text.contains("**") {
        return Err(format!("invalid wildcard {text:?}: it contains \"**\""));
    }
    regex(&format!("^{}$", regex::escape(text).replace(r"\*", "(.*)")))
}
