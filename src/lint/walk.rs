//! The walk through the instructions of stages, with the values their variables have there: the rules that
//! depend on them, and what `outline` tells.

use crate::dockerfile::{
    ArgDecl, CommandLine, Copy, CopySource, Instruction, InstructionKind, KeyValue, Run, Span, Word,
};

use super::finding::{Edit, Findings, Place};
use super::near::near;
use super::rule as rules;
use super::scope::{self, Read, Scope};
use super::stages::{Base, Stages};
use super::{exec_form, legacy, ports};

/// What Docker takes where an image has no PATH.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A stage after its last instruction.
#[derive(Clone, Default)]
pub(super) struct State {
    scope: Scope,
    /// The base's variables are known, or it has none.
    known: bool,
    declared: Vec<String>,
    /// `SHELL` was used here or in a base.
    shell: bool,
    /// Whether an entrypoint is in force; `None` where the base's is not known.
    entrypoint: Option<bool>,
    workdir_set: bool,
    /// Arguments this stage alone declares or takes from the global ones.
    pub(super) args: Vec<StageArg>,
    pub(super) secrets: Vec<MountUse>,
    pub(super) ssh: Vec<MountUse>,
    pub(super) caches: Vec<MountUse>,
}

/// An `ARG` of a stage.
#[derive(Debug, Clone)]
pub(super) struct StageArg {
    pub(super) name: String,
    /// `None` where the global argument of this name gives it its value.
    pub(super) value: Option<String>,
    pub(super) span: Span,
    pub(super) comments: Vec<String>,
}

/// A secret, agent or cache that a `RUN` mounts.
#[derive(Debug, Clone)]
pub(super) struct MountUse {
    pub(super) id: String,
    pub(super) required: bool,
    pub(super) span: Span,
}

/// Walks the stages that `wanted` flags; a flagged stage's base is flagged too.
pub(super) fn walk(stages: &Stages<'_>, wanted: &[bool], findings: &mut Findings<'_>) -> Vec<State> {
    let mut states: Vec<State> = Vec::new();
    for index in 0..stages.froms.len() {
        let mut state = State::default();
        if wanted.get(index).copied().unwrap_or(false) {
            state = start(stages, index, &states, findings);
            let mut walk =
                Walk { stages, index, state, findings, seen: [None; 3], cmd_and_entrypoint: false };
            walk.run();
            state = walk.state;
        }
        states.push(state);
    }
    states
}

fn start(stages: &Stages<'_>, index: usize, states: &[State], findings: &mut Findings<'_>) -> State {
    let line = &stages.froms[index];
    let fresh = State { known: true, entrypoint: Some(false), ..State::default() };
    let mut state = match &line.base {
        Base::Stage(base) => {
            let base = states.get(*base).cloned().unwrap_or_default();
            State { args: Vec::new(), secrets: Vec::new(), ssh: Vec::new(), caches: Vec::new(), ..base }
        }
        Base::Scratch => fresh,
        Base::Context => State::default(),
        Base::Image(name) => match stages.config(name, line.platform.as_ref()) {
            None => State::default(),
            Some(image) => {
                let place = Place::from(&stages.dockerfile.stages[index].from);
                ports::base_platform(stages, name, line.platform.as_ref(), image, place, findings);
                let mut state = fresh;
                for pair in &image.config.env {
                    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                    state.scope.set(name, value);
                }
                state.shell = image.config.shell.as_ref().is_some_and(|shell| !shell.is_empty());
                state.entrypoint =
                    Some(image.config.entrypoint.as_ref().is_some_and(|argv| !argv.is_empty()));
                state
            }
        },
    };
    if state.scope.value("PATH").is_none() {
        state.scope.set("PATH", DEFAULT_PATH);
    }
    state
}

struct Walk<'w, 'a, 'f> {
    stages: &'w Stages<'a>,
    index: usize,
    state: State,
    findings: &'w mut Findings<'f>,
    /// The last CMD, ENTRYPOINT and HEALTHCHECK of this stage.
    seen: [Option<usize>; 3],
    /// This stage has both CMD and ENTRYPOINT, which then depend on each other's form.
    cmd_and_entrypoint: bool,
}

impl Walk<'_, '_, '_> {
    fn run(&mut self) {
        let dockerfile = self.stages.dockerfile;
        let instructions = &dockerfile.stages[self.index].instructions;
        let has = |is: fn(&InstructionKind) -> bool| instructions.iter().any(|one| is(&one.kind));
        self.cmd_and_entrypoint = has(|kind| matches!(kind, InstructionKind::Cmd(_)))
            && has(|kind| matches!(kind, InstructionKind::Entrypoint(_)));
        for (position, instruction) in instructions.iter().enumerate() {
            self.instruction(position, instruction);
        }
    }

    fn instruction(&mut self, position: usize, instruction: &Instruction) {
        let place = Place::of(instruction);
        match &instruction.kind {
            InstructionKind::Arg(declarations) => self.arg(instruction, declarations),
            InstructionKind::Env(pairs) => self.env(instruction, pairs),
            InstructionKind::Label(pairs) => {
                self.pairs(place, pairs);
                legacy::pairs(self.stages.dockerfile, instruction, pairs, self.findings);
            }
            InstructionKind::Copy(copy) => self.copy(place, copy, "Copy"),
            InstructionKind::Add(copy) => self.copy(place, copy, "Add"),
            InstructionKind::Workdir(word) => self.workdir(place, word),
            InstructionKind::User(word) | InstructionKind::StopSignal(word) => {
                self.expand(place, &word.text);
            }
            InstructionKind::Volume(words) => {
                for word in words {
                    self.expand(place, &word.text);
                }
            }
            InstructionKind::Expose(words) => {
                ports::expose(self.stages.expander(), &self.state.scope, place, words, self.findings);
            }
            InstructionKind::Run(run) => self.mounts(place, run),
            InstructionKind::Shell(_) => self.state.shell = true,
            InstructionKind::Cmd(command) => {
                self.once(0, position, instruction);
                self.command(instruction, command);
            }
            InstructionKind::Entrypoint(command) => {
                self.once(1, position, instruction);
                self.command(instruction, command);
                self.state.entrypoint = Some(*command != CommandLine::Exec(Vec::new()));
            }
            InstructionKind::Healthcheck(_) => self.once(2, position, instruction),
            InstructionKind::Maintainer(_) | InstructionKind::Onbuild(_) => {}
        }
    }

    /// Reports what a text asks for in vain. A text that cannot be expanded is the planner's to refuse.
    fn expand(&mut self, place: Place<'_>, text: &str) -> Read {
        let read = scope::read_as_far(self.stages.expander(), text, &self.state.scope);
        self.undefined(place, &read.unmatched);
        read
    }

    fn undefined(&mut self, place: Place<'_>, unmatched: &[String]) {
        for name in unmatched {
            // Which the base defines is anybody's guess where it is not known.
            if self.state.declared.contains(name) || !self.state.known {
                continue;
            }
            let hint = near(name, self.state.scope.names());
            let hint = hint.map_or_else(String::new, |near| format!(" (did you mean ${near}?)"));
            let detail = format!("Usage of undefined variable '${name}'{hint}");
            self.findings.add(&rules::UNDEFINED_VAR, place, detail);
        }
    }

    fn arg(&mut self, instruction: &Instruction, declarations: &[ArgDecl]) {
        let place = Place::of(instruction);
        for declaration in declarations {
            let name = &declaration.name.text;
            self.secret(place, "ARG", name);
            let given = self.stages.input.build_arg(name).map(str::to_owned);
            let inherited = self.stages.globals.value(name).map(str::to_owned);
            let (value, own) = match (given, &declaration.default, inherited) {
                (Some(value), _, _) => (Some(value), true),
                (None, Some(default), _) => (Some(self.expand(place, &default.text).text), true),
                (None, None, Some(value)) => (Some(value), false),
                (None, None, None) => (None, true),
            };
            if let Some(value) = &value {
                self.state.scope.set(name, value);
            }
            self.state.declared.push(name.clone());
            // Taking the global value once more changes nothing about what the stage declared before.
            if !own && self.state.args.iter().any(|arg| arg.name == *name && arg.value.is_some()) {
                continue;
            }
            self.state.args.retain(|arg| arg.name != *name);
            self.state.args.push(StageArg {
                name: name.clone(),
                value: own.then(|| value.unwrap_or_default()),
                span: instruction.span,
                comments: instruction.comments.clone(),
            });
        }
    }

    /// All words of one instruction see the variables as they were before it.
    fn pairs(&mut self, place: Place<'_>, pairs: &[KeyValue]) -> Vec<(String, String)> {
        let mut expanded = Vec::new();
        for pair in pairs {
            expanded
                .push((self.expand(place, &pair.key.text).text, self.expand(place, &pair.value.text).text));
        }
        expanded
    }

    fn env(&mut self, instruction: &Instruction, pairs: &[KeyValue]) {
        let place = Place::of(instruction);
        let expanded = self.pairs(place, pairs);
        legacy::pairs(self.stages.dockerfile, instruction, pairs, self.findings);
        for (name, value) in expanded {
            self.secret(place, "ENV", &name);
            self.state.scope.set(&name, &value);
        }
    }

    fn secret(&mut self, place: Place<'_>, instruction: &str, name: &str) {
        if looks_secret(name) {
            let detail =
                format!("Do not use ARG or ENV instructions for sensitive data ({instruction} {name:?})");
            self.findings.add(&rules::SECRETS_USED_IN_ARG_OR_ENV, place, detail);
        }
    }

    fn workdir(&mut self, place: Place<'_>, word: &Word) {
        let path = self.expand(place, &word.text).text;
        if !self.state.workdir_set && !path.starts_with('/') {
            let detail =
                format!("Relative workdir {path:?} can have unexpected results if the base image changes");
            self.findings.add(&rules::WORKDIR_RELATIVE_PATH, place, detail);
        }
        self.state.workdir_set = true;
    }

    fn copy(&mut self, place: Place<'_>, copy: &Copy, verb: &str) {
        for word in [&copy.flags.chown, &copy.flags.chmod, &copy.flags.checksum].into_iter().flatten() {
            self.expand(place, &word.text);
        }
        if let Some(from) = &copy.flags.from
            && self.stages.copied(self.index, &from.text).is_none()
            && let Some(image) = self.stages.config(&from.text, None)
        {
            ports::base_platform(self.stages, &from.text, None, image, place, self.findings);
        }
        for source in &copy.sources {
            match source {
                CopySource::Path(word) => {
                    let Read { text, unmatched, .. } = self.expand(place, &word.text);
                    // A variable of a base that is not known may make it another path.
                    if copy.flags.from.is_none() && (self.state.known || unmatched.is_empty()) {
                        self.ignored(place, verb, &text);
                    }
                }
                CopySource::Heredoc(heredoc) if heredoc.expand => {
                    let read = scope::read_body(self.stages.expander(), &heredoc.body, &self.state.scope);
                    self.undefined(place, &read.unwrap_or_default().unmatched);
                }
                CopySource::Heredoc(_) => {}
            }
        }
        self.expand(place, &copy.dest.text);
    }

    fn ignored(&mut self, place: Place<'_>, verb: &str, path: &str) {
        let Some(ignored) = self.stages.input.ignored else { return };
        if is_remote(path) {
            return;
        }
        let path = clean(path);
        if ignored(&path) {
            let detail = format!("Attempting to {verb} file {path:?} that is excluded by .dockerignore");
            self.findings.add(&rules::COPY_IGNORED_FILE, place, detail);
        }
    }

    /// Of CMD, ENTRYPOINT and HEALTHCHECK only the last one counts; the report is about the one before.
    fn once(&mut self, slot: usize, position: usize, instruction: &Instruction) {
        let Some(earlier) = self.seen[slot].replace(position) else { return };
        let dockerfile = self.stages.dockerfile;
        let place = Place::of(&dockerfile.stages[self.index].instructions[earlier]);
        let name = &instruction.keyword.text;
        let detail = format!(
            "Multiple {name} instructions should not be used in the same stage because only the last one will be used"
        );
        self.findings.add(&rules::MULTIPLE_INSTRUCTIONS_DISALLOWED, place, detail);
    }

    fn command(&mut self, instruction: &Instruction, command: &CommandLine) {
        let CommandLine::Shell(text) = command else { return };
        if self.state.shell {
            return;
        }
        let name = &instruction.keyword.text;
        let detail = format!(
            "JSON arguments recommended for {name} to prevent unintended behavior related to OS signals"
        );
        // What an entrypoint gets from CMD changes with the form of either.
        let alone = match instruction.kind {
            InstructionKind::Cmd(_) => self.state.entrypoint == Some(false),
            _ => true,
        };
        let edits: Vec<Edit> = if alone && !self.cmd_and_entrypoint {
            exec_form::edit(self.stages.dockerfile, instruction, text).into_iter().collect()
        } else {
            Vec::new()
        };
        self.findings.add_with(&rules::JSON_ARGS_RECOMMENDED, Place::of(instruction), detail, edits);
    }

    fn mounts(&mut self, place: Place<'_>, run: &Run) {
        for mount in &run.mounts {
            self.expand(place, &mount.value.text);
            let option = |names: &[&str]| {
                let found = mount.options.iter().rev().find(|(key, _)| names.contains(&key.as_str()));
                found.map(|(_, value)| value.clone().unwrap_or_default())
            };
            let text = |names: &[&str]| option(names).map(|text| self.value(&text)).filter(|v| !v.is_empty());
            let target = text(&["target", "dst", "destination"]);
            let required = option(&["required"]).is_some_and(|value| value.is_empty() || value == "true");
            let (id, source) = (text(&["id"]), text(&["source", "src"]));
            let list = match option(&["type"]).as_deref() {
                Some("secret") => &mut self.state.secrets,
                Some("ssh") => &mut self.state.ssh,
                Some("cache") => &mut self.state.caches,
                _ => continue,
            };
            let base = target.as_deref().and_then(|target| target.rsplit('/').next()).map(str::to_owned);
            let id = match option(&["type"]).as_deref() {
                Some("secret") => source.or(id).or(base),
                Some("cache") => id.or(target),
                _ => Some(id.unwrap_or_else(|| "default".to_owned())),
            };
            let Some(id) = id else { continue };
            if !list.iter().any(|known| known.id == id) {
                list.push(MountUse { id, required, span: place.span });
            }
        }
    }

    fn value(&self, text: &str) -> String {
        scope::read(self.stages.expander(), text, &self.state.scope).unwrap_or_default().text
    }
}

/// Whether a word between underscores is one that names of secrets have, and none that says otherwise.
pub fn looks_secret(name: &str) -> bool {
    const DENY: [&str; 10] = [
        "apikey",
        "auth",
        "credential",
        "credentials",
        "key",
        "password",
        "pword",
        "passwd",
        "secret",
        "token",
    ];
    const ALLOW: [&str; 3] = ["public", "file", "version"];
    let lower = name.to_ascii_lowercase();
    let has = |list: &[&str]| lower.split('_').any(|part| list.contains(&part));
    has(&DENY) && !has(&ALLOW)
}

/// Whether a source of ADD is no path.
pub(super) fn is_remote(path: &str) -> bool {
    path.contains("://") || path.starts_with("git@")
}

/// A path without `.`, `..` and needless slashes, relative to the context.
fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    if parts.is_empty() { ".".to_owned() } else { parts.join("/") }
}
