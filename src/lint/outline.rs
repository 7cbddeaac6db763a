//! `--call=outline`: what a build of one target can be given.

use serde_json::{Map, Value, json};

use crate::dockerfile::{Dockerfile, Source, Span};

use super::LintInput;
use super::finding::Findings;
use super::options::CheckOptions;
use super::report::{bytes, location};
use super::stages::{Base, Stages};
use super::table::table;
use super::targets::description;
use super::walk::{self, MountUse, State};

/// Parameters of a target and of all it is made from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outline {
    /// The target's name; empty where it has none.
    pub name: String,
    /// What the comment above the target says.
    pub description: String,
    /// Build arguments in the order of the source.
    pub args: Vec<OutlineArg>,
    /// Secrets.
    pub secrets: Vec<OutlineMount>,
    /// Agents.
    pub ssh: Vec<OutlineMount>,
    /// Cache mounts.
    pub caches: Vec<OutlineMount>,
}

/// A build argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutlineArg {
    /// Its name.
    pub name: String,
    /// What the comment above its `ARG` says.
    pub description: String,
    /// What it is worth in this build: as given, or its default after expansion.
    pub value: String,
    /// The `ARG`.
    pub span: Span,
}

/// Something a `RUN` mounts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutlineMount {
    /// Its identifier.
    pub id: String,
    /// The build fails without it.
    pub required: bool,
    /// The first `RUN` that mounts it.
    pub span: Span,
}

/// Finds out what a target can be given.
pub fn outline(dockerfile: &Dockerfile, input: &LintInput<'_>) -> Outline {
    let stages = Stages::new(dockerfile, input);
    let target = stages.target();
    let mut findings = Findings::new(dockerfile, CheckOptions::default(), false);
    let states = walk::walk(&stages, &stages.reachable(target), &mut findings);
    let mut gather =
        Gather { stages: &stages, states: &states, seen: vec![false; states.len()], out: Outline::default() };
    gather.stage(target);
    let mut out = gather.out;
    let from = &dockerfile.stages[target].from;
    out.name = dockerfile.stages[target].name().unwrap_or_default().to_owned();
    out.description = description(&from.comments, &out.name);
    out.args.sort_by_key(|arg| arg.span.start);
    for list in [&mut out.secrets, &mut out.ssh, &mut out.caches] {
        list.sort_by_key(|mount| mount.span.start);
    }
    out
}

/// The way from the target down; what is met first under a name is what counts.
struct Gather<'g, 'a> {
    stages: &'g Stages<'a>,
    states: &'g [State],
    seen: Vec<bool>,
    out: Outline,
}

impl Gather<'_, '_> {
    fn stage(&mut self, index: usize) {
        let Some(seen) = self.seen.get_mut(index) else { return };
        if std::mem::replace(seen, true) {
            return;
        }
        let state = &self.states[index];
        for arg in &state.args {
            match &arg.value {
                Some(value) => self.add(OutlineArg {
                    name: arg.name.clone(),
                    description: description(&arg.comments, &arg.name),
                    value: value.clone(),
                    span: arg.span,
                }),
                None => self.global(&arg.name),
            }
        }
        // What the stages below were found with counts before what they declare.
        for below in self.stages.chain(index) {
            let line = &self.stages.froms[below];
            for name in line.name.matched.iter().chain(line.flag.iter().flat_map(|flag| &flag.matched)) {
                self.global(name);
            }
        }
        add_mounts(&mut self.out.secrets, &state.secrets);
        add_mounts(&mut self.out.ssh, &state.ssh);
        add_mounts(&mut self.out.caches, &state.caches);
        if let Base::Stage(base) = self.stages.froms[index].base {
            self.stage(base);
        }
        for used in self.stages.uses(index) {
            self.stage(used);
        }
    }

    /// A global argument and those its default is made of.
    fn global(&mut self, name: &str) {
        let Some(arg) = self.stages.args.iter().find(|arg| arg.name == name) else { return };
        if self.out.args.iter().any(|known| known.name == name) {
            return;
        }
        self.add(OutlineArg {
            name: arg.name.clone(),
            description: description(&arg.comments, &arg.name),
            value: arg.value.clone(),
            span: arg.span,
        });
        for needed in &arg.needs {
            self.global(needed);
        }
    }

    fn add(&mut self, arg: OutlineArg) {
        if !self.out.args.iter().any(|known| known.name == arg.name) {
            self.out.args.push(arg);
        }
    }
}

fn add_mounts(list: &mut Vec<OutlineMount>, found: &[MountUse]) {
    for mount in found {
        if !list.iter().any(|known| known.id == mount.id) {
            list.push(OutlineMount { id: mount.id.clone(), required: mount.required, span: mount.span });
        }
    }
}

impl Outline {
    /// The text form.
    pub fn text(&self) -> String {
        let mut out = String::new();
        if !self.name.is_empty() || !self.description.is_empty() {
            let mut rows = vec![vec!["TARGET:", &self.name]];
            if !self.description.is_empty() {
                rows.push(vec!["DESCRIPTION:", &self.description]);
            }
            out.push_str(&table(&rows, 1));
            out.push('\n');
        }
        let mut section = |rows: Vec<Vec<&str>>| {
            if rows.len() > 1 {
                out.push_str(&table(&rows, 3));
                out.push('\n');
            }
        };
        let args = self.args.iter().map(|arg| vec![arg.name.as_str(), &arg.value, &arg.description]);
        section(std::iter::once(vec!["BUILD ARG", "VALUE", "DESCRIPTION"]).chain(args).collect());
        for (title, list) in [("SECRET", &self.secrets), ("SSH", &self.ssh)] {
            let required = |mount: &OutlineMount| if mount.required { "true" } else { "" };
            let rows = list.iter().map(|mount| vec![mount.id.as_str(), required(mount)]);
            section(std::iter::once(vec![title, "REQUIRED"]).chain(rows).collect());
        }
        section(
            std::iter::once(vec!["CACHE MOUNT"])
                .chain(self.caches.iter().map(|mount| vec![mount.id.as_str()]))
                .collect(),
        );
        out
    }

    /// The JSON form; what is empty is left out.
    pub fn json(&self, source: &Source) -> Value {
        let mut out = Map::new();
        for (key, value) in [("name", &self.name), ("description", &self.description)] {
            if !value.is_empty() {
                out.insert(key.to_owned(), json!(value));
            }
        }
        let mut list = |key: &str, entries: Vec<Value>| {
            if !entries.is_empty() {
                out.insert(key.to_owned(), Value::Array(entries));
            }
        };
        list("args", self.args.iter().map(|arg| arg_json(arg, source)).collect());
        list("secrets", self.secrets.iter().map(|mount| mount_json("name", mount, source)).collect());
        list("ssh", self.ssh.iter().map(|mount| mount_json("name", mount, source)).collect());
        list("cache", self.caches.iter().map(|mount| mount_json("ID", mount, source)).collect());
        out.insert("sources".to_owned(), json!([bytes(source)]));
        Value::Object(out)
    }
}

fn arg_json(arg: &OutlineArg, source: &Source) -> Value {
    let mut entry = json!({ "name": arg.name, "location": location(source, arg.span) });
    for (key, value) in [("description", &arg.description), ("value", &arg.value)] {
        if !value.is_empty() {
            entry[key] = json!(value);
        }
    }
    entry
}

fn mount_json(key: &str, mount: &OutlineMount, source: &Source) -> Value {
    let mut entry = json!({ key: mount.id, "location": location(source, mount.span) });
    if mount.required {
        entry["required"] = json!(true);
    }
    entry
}
