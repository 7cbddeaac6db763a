//! What a step does, compared with what it did.

use serde_json::Value;

use super::cause::{Cause, CauseKind};
use super::earlier::Sides;
use super::record::{Shown, StepRecord};
use super::text::{self, declared, refers_to};

/// Parts of a definition, and what they are called where the instruction itself is as it was.
const SETTINGS: [(&str, CauseKind, &str); 5] = [
    ("user", CauseKind::Setting, "USER"),
    ("cwd", CauseKind::Setting, "WORKDIR"),
    ("network", CauseKind::Option, "--network"),
    ("security", CauseKind::Option, "--security"),
    ("run", CauseKind::Setting, "SHELL"),
];

/// The step itself and what surrounds it: times that its files get.
fn unwrapped(definition: &Value) -> (&Value, Option<(&str, &Value)>) {
    let Some(step) = definition.get("step") else { return (definition, None) };
    let times = ["times", "clamp"].into_iter().find_map(|name| Some((name, definition.get(name)?)));
    (step, times)
}

/// Whether the files of a step are placed on nothing, so that what is below it does not count.
pub(super) fn links(step: &StepRecord) -> bool {
    unwrapped(&step.definition).0.get("link") == Some(&Value::Bool(true))
}

/// The first difference in what a step does.
pub(super) fn difference(new: &StepRecord, old: &StepRecord, sides: &Sides<'_>) -> Option<Cause> {
    let ((step, times), (was, had_times)) = (unwrapped(&new.definition), unwrapped(&old.definition));
    let differs = |name: &str| !sides.is_same(step.get(name), was.get(name));
    if !sides.is_same(Some(step), Some(was)) {
        let own = |name: &&String| !matches!(name.as_str(), "env" | "user" | "cwd");
        let names = step.as_object().into_iter().chain(was.as_object()).flat_map(|all| all.keys());
        let is_instruction = names.filter(own).any(|name| differs(name));
        if is_instruction && !sides.has_same_text(new, old) {
            return Some(instruction(new, old));
        }
        if let Some(cause) = variable(new, old, sides) {
            return Some(cause);
        }
        if differs("env") {
            return Some(environment(step, was, sides));
        }
        if differs("scripts") {
            return Some(Cause::new(CauseKind::Instruction, "the text of its here-document changed"));
        }
        if let Some((name, kind, title)) = SETTINGS.iter().find(|(name, ..)| differs(name)) {
            let (old, new) = (step_part(was, name), step_part(step, name));
            return Some(Cause::new(*kind, text::change(title, old.as_ref(), new.as_ref())));
        }
        if differs("copy") || differs("workdir") {
            let name = if differs("copy") { "copy" } else { "workdir" };
            let words = text::change("the destination", was.get(name), step.get(name));
            return Some(Cause::new(CauseKind::Setting, words));
        }
        return Some(Cause::new(CauseKind::Instruction, "what the instruction means changed"));
    }
    if times == had_times {
        return None;
    }
    let (a, b) = (had_times.map(|(_, value)| value), times.map(|(_, value)| value));
    let words = match a == b {
        true => "--reproducible is given or not".to_owned(),
        false => text::change("SOURCE_DATE_EPOCH", a, b),
    };
    Some(Cause::new(CauseKind::Option, words))
}

/// A part of a definition as its users write it.
fn step_part(step: &Value, name: &str) -> Option<Value> {
    let value = step.get(name).filter(|value| value.as_str() != Some(""))?;
    Some(match (name, value) {
        ("network", Value::String(mode)) => Value::String(mode.to_lowercase()),
        // The shell stands before the command.
        ("run", Value::Array(words)) => {
            Value::Array(words.split_last().map_or(&[][..], |(_, shell)| shell).to_vec())
        }
        (_, value) => value.clone(),
    })
}

/// The instruction is another one.
pub(super) fn instruction(new: &StepRecord, old: &StepRecord) -> Cause {
    let (was, is) = (text::instruction(&old.text), text::instruction(&new.text));
    let words = match was == is {
        // They differ behind the cut.
        true => format!("the instruction changed: {is}"),
        false => format!("the instruction changed: {was} -> {is}"),
    };
    Cause::new(CauseKind::Instruction, words)
}

/// A build argument that the instruction refers to and that has another value.
pub(super) fn variable(new: &StepRecord, old: &StepRecord, sides: &Sides<'_>) -> Option<Cause> {
    let mentioned = |name: &str| refers_to(&new.text, name) && refers_to(&old.text, name);
    let name = sides.changed_arguments().into_iter().find(|name| mentioned(name))?;
    Some(argument(&name, sides))
}

fn argument(name: &str, sides: &Sides<'_>) -> Cause {
    let (old, new) = (sides.argument(sides.old, name), sides.argument(sides.new, name));
    Cause::new(CauseKind::BuildArg, text::change(&format!("build arg {name}"), old.as_ref(), new.as_ref()))
}

/// A variable that a RUN sees and that has another value: an argument of the build before one of ENV.
fn environment(step: &Value, was: &Value, sides: &Sides<'_>) -> Cause {
    let pairs = |step: &Value| -> Vec<(String, Value)> {
        let all = step.get("env").and_then(Value::as_array).cloned().unwrap_or_default();
        let pair = |pair: &Value| Some((pair.get(0)?.as_str()?.to_owned(), pair.get(1)?.clone()));
        all.iter().filter_map(pair).collect()
    };
    let (old, new) = (pairs(was), pairs(step));
    let value = |list: &[(String, Value)], name: &str| {
        list.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value.clone())
    };
    let mut names: Vec<&String> = Vec::new();
    for (name, _) in new.iter().chain(&old) {
        let is_same = sides.is_same(value(&old, name).as_ref(), value(&new, name).as_ref());
        if !is_same && !names.contains(&name) {
            names.push(name);
        }
    }
    let is_argument = |name: &&&String| sides.is_argument(name);
    let Some(name) = names.iter().find(is_argument).or(names.first()) else {
        return Cause::new(CauseKind::Env, "the order of its variables changed");
    };
    let (kind, title) = match sides.is_argument(name) {
        true => (CauseKind::BuildArg, format!("build arg {name}")),
        false => (CauseKind::Env, format!("ENV {name}")),
    };
    Cause::new(kind, text::change(&title, value(&old, name).as_ref(), value(&new, name).as_ref()))
}

impl Sides<'_> {
    /// Whether two values are the same, whether or not one of them is shown.
    fn is_same(&self, a: Option<&Value>, b: Option<&Value>) -> bool {
        match (a, b) {
            (Some(Value::String(shown)), Some(Value::Object(other)))
            | (Some(Value::Object(other)), Some(Value::String(shown))) => {
                other.get("hidden").and_then(Value::as_str) == Some((self.keyed)(shown).as_str())
            }
            (Some(Value::Object(a)), Some(Value::Object(b))) => {
                a.len() == b.len() && a.iter().all(|(name, value)| self.is_same(Some(value), b.get(name)))
            }
            (Some(Value::Array(a)), Some(Value::Array(b))) => {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| self.is_same(Some(a), Some(b)))
            }
            (a, b) => a == b,
        }
    }

    /// Whether an instruction is written as it was.
    pub(super) fn has_same_text(&self, new: &StepRecord, old: &StepRecord) -> bool {
        let shown = |step: &StepRecord| text::normal(&step.text);
        match (&new.hidden_text, &old.hidden_text) {
            (None, None) => shown(new) == shown(old),
            (Some(new), Some(old)) => new == old,
            (Some(hidden), None) => *hidden == (self.keyed)(&shown(old)),
            (None, Some(hidden)) => *hidden == (self.keyed)(&shown(new)),
        }
    }

    /// The value of a build argument: as given, or the default that the Dockerfile has.
    fn argument(&self, build: &super::record::BuildRecord, name: &str) -> Option<Value> {
        let given =
            build.build_args.iter().find(|given| given.name == name).map(|given| match &given.value {
                Shown::Plain(text) => Value::String(text.clone()),
                Shown::Hidden { hidden } => serde_json::json!({"hidden": hidden}),
            });
        let default = || declared(&build.text).into_iter().rev().find(|(declared, _)| declared == name)?.1;
        given.or_else(|| default().map(|text| Value::String(text.trim_matches(['"', '\'']).to_owned())))
    }

    /// Names of build arguments whose values are not what they were.
    fn changed_arguments(&self) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for build in [self.new, self.old] {
            let given = build.build_args.iter().map(|given| given.name.clone());
            for name in given.chain(declared(&build.text).into_iter().map(|(name, _)| name)) {
                let values = [self.old, self.new].map(|build| self.argument(build, &name));
                if !names.contains(&name) && !self.is_same(values[0].as_ref(), values[1].as_ref()) {
                    names.push(name);
                }
            }
        }
        names
    }

    fn is_argument(&self, name: &str) -> bool {
        [self.new, self.old].iter().any(|build| {
            build.build_args.iter().any(|given| given.name == name)
                || declared(&build.text).iter().any(|(declared, _)| declared == name)
        })
    }
}
