//! One stage: its instructions in order, each changing the scope, the config, or adding a step.

mod copy;
pub(super) mod mount;
mod run;

use std::sync::Arc;

use crate::dockerfile::{
    ArgDecl, CommandLine, Expander, Instruction, InstructionKind, KeyValue, Source, Span, Word, parse_trigger,
};
use crate::image::{ContainerConfig, ImageConfig, Platform};

use super::config;
use super::error::PlanError;
use super::graph::{
    Base, CopyOrigin, CopyStep, FromStep, StageHistory, StagePlan, Step, StepId, StepKind, WorkdirStep,
};
use super::resolve::{Builder, Origin};
use super::scope::Scope;

/// What Docker takes where an image has no PATH.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A stage after its last instruction.
#[derive(Clone, Debug)]
pub(super) struct Evaluated {
    pub scope: Scope,
    pub declared: Vec<String>,
    pub image: ImageConfig,
    pub history: Vec<StageHistory>,
    pub last: Option<StepId>,
    pub platform: Platform,
}

impl Evaluated {
    pub fn into_plan(self, index: usize, name: Option<&str>) -> StagePlan {
        StagePlan {
            index,
            name: name.map(str::to_owned),
            last: self.last,
            config: self.image,
            history: self.history,
            platform: self.platform,
        }
    }
}

/// The stage being walked.
struct Walk<'b, 'a> {
    builder: &'b mut Builder<'a>,
    index: usize,
    state: Evaluated,
    /// CMD was set by this stage itself.
    cmd_set: bool,
    /// For step names.
    label: String,
    total: usize,
    done: usize,
    triggered: bool,
}

/// Evaluates a stage whose base is known. `false` where a trigger needs an image that is not.
pub(super) fn evaluate(builder: &mut Builder<'_>, index: usize) -> Result<bool, PlanError> {
    let (base, platform) = builder.base_of(index);
    let (state, triggers, start) = match base {
        Origin::Stage(stage) => {
            let mut state = match builder.evaluated.get(stage) {
                Some(state) => state.clone(),
                None => return Ok(false),
            };
            let triggers = std::mem::take(&mut state.image.config.on_build);
            (state, triggers, None)
        }
        Origin::Image(name) => {
            let name = name.clone();
            let platform = platform.unwrap_or_else(|| builder.input.platform.clone());
            let (source, span) =
                (builder.dockerfile.source.clone(), builder.dockerfile.stages[index].from.span);
            let Some(image) = builder.config(&name, &platform, &source, span) else { return Ok(false) };
            let (state, triggers) = from_config(image.clone(), platform);
            let platform = state.platform.clone();
            (state, triggers, Some(StepKind::From(FromStep { base: Base::Image(name), platform })))
        }
        Origin::Scratch => {
            let platform = platform.unwrap_or_else(|| builder.input.platform.clone());
            (
                scratch(platform),
                Vec::new(),
                Some(StepKind::From(FromStep {
                    base: Base::Scratch,
                    platform: builder.input.platform.clone(),
                })),
            )
        }
        Origin::Files(name) => {
            let copy = whole_context(name);
            let platform = platform.unwrap_or_else(|| builder.input.platform.clone());
            (scratch(platform), Vec::new(), Some(StepKind::Copy(copy)))
        }
    };
    let triggers = parse_triggers(builder, index, &triggers)?;
    for (source, instruction) in &triggers {
        if !builder.need_sources(index, instruction, source)? {
            return Ok(false);
        }
    }
    let mut walk = Walk::new(builder, index, state, &triggers, start.is_some());
    walk.start(start);
    walk.triggered = true;
    for (source, instruction) in &triggers {
        walk.instruction(source, instruction)?;
    }
    walk.triggered = false;
    let dockerfile = walk.builder.dockerfile;
    for instruction in &dockerfile.stages[index].instructions {
        walk.instruction(&dockerfile.source, instruction)?;
    }
    let state = walk.state;
    builder.evaluated.insert(index, state);
    Ok(true)
}

fn parse_triggers(
    builder: &Builder<'_>,
    index: usize,
    triggers: &[String],
) -> Result<Vec<(Arc<Source>, Instruction)>, PlanError> {
    let base = &builder.dockerfile.stages[index].from.image.text;
    let name = format!("ONBUILD of {base}");
    triggers
        .iter()
        .map(|trigger| {
            let trigger = parse_trigger(&name, trigger, '\\')?;
            Ok((trigger.source, trigger.instruction))
        })
        .collect()
}

/// A named context of files in place of a base image.
fn whole_context(name: &str) -> CopyStep {
    CopyStep {
        origin: CopyOrigin::Context(name.to_owned()),
        sources: vec!["/".into()],
        inline: Vec::new(),
        dest: "/".into(),
        dest_is_dir: true,
        chown: None,
        chmod: None,
        remote: Vec::new(),
        extract: false,
        extract_remote: false,
        exclude: Vec::new(),
        parents: false,
        link: false,
    }
}

fn scratch(platform: Platform) -> Evaluated {
    let config = ContainerConfig {
        env: vec![format!("PATH={DEFAULT_PATH}")],
        working_dir: "/".into(),
        ..ContainerConfig::default()
    };
    let image = ImageConfig { config, ..ImageConfig::default() };
    with_platform(image, platform)
}

fn from_config(mut image: ImageConfig, platform: Platform) -> (Evaluated, Vec<String>) {
    let triggers = std::mem::take(&mut image.config.on_build);
    image.created = None;
    if !image.config.env.iter().any(|pair| pair.starts_with("PATH=")) {
        image.config.env.push(format!("PATH={DEFAULT_PATH}"));
    }
    // An image of one platform only may be of another than was asked for; it stays what it is.
    let platform = match (image.os.as_str(), image.architecture.as_str()) {
        ("", _) | (_, "") => platform,
        (os, architecture) => Platform::new(os, architecture, &image.variant),
    };
    (with_platform(image, platform), triggers)
}

fn with_platform(mut image: ImageConfig, platform: Platform) -> Evaluated {
    image.os.clone_from(&platform.os);
    image.architecture.clone_from(&platform.architecture);
    image.variant.clone_from(&platform.variant);
    let mut scope = Scope::default();
    for pair in &image.config.env {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        scope.set(name, value);
    }
    Evaluated { scope, declared: Vec::new(), image, history: Vec::new(), last: None, platform }
}

fn is_step(kind: &InstructionKind) -> bool {
    matches!(
        kind,
        InstructionKind::Run(_)
            | InstructionKind::Copy(_)
            | InstructionKind::Add(_)
            | InstructionKind::Workdir(_)
    )
}

impl<'b, 'a> Walk<'b, 'a> {
    fn new(
        builder: &'b mut Builder<'a>,
        index: usize,
        state: Evaluated,
        triggers: &[(Arc<Source>, Instruction)],
        has_base: bool,
    ) -> Self {
        let stages = &builder.dockerfile.stages;
        let own =
            stages[index].instructions.iter().chain(triggers.iter().map(|(_, instruction)| instruction));
        let total = own.filter(|instruction| is_step(&instruction.kind)).count() + usize::from(has_base);
        let mut label = match (stages[index].name(), stages.len()) {
            (_, 1) => String::new(),
            (Some(name), _) => format!("{name} "),
            (None, _) => format!("stage-{index} "),
        };
        if builder.input.several_platforms {
            label.insert_str(0, &format!("{} ", state.platform));
        }
        Walk { builder, index, state, cmd_set: false, label, total, done: 0, triggered: false }
    }

    /// The step for the base itself. A directory in its place is a layer, and so has its line of
    /// history.
    fn start(&mut self, kind: Option<StepKind>) {
        let Some(kind) = kind else { return };
        let from = &self.builder.dockerfile.stages[self.index].from;
        let (text, span) = (upper_keyword(&from.original), from.span);
        let source = self.builder.dockerfile.source.clone();
        let copied = matches!(kind, StepKind::Copy(_));
        let id = self.step(&source, span, &text, kind);
        self.state.last = Some(id);
        if copied {
            self.history(text, Some(id));
        }
    }

    fn step(&mut self, source: &Arc<Source>, span: Span, text: &str, kind: StepKind) -> StepId {
        self.done += 1;
        let width = self.total.to_string().len();
        let trigger = if self.triggered { "ONBUILD " } else { "" };
        let name =
            format!("[{}{:>width$}/{}] {trigger}{text}", self.label, self.done, self.total, width = width);
        let id = self.builder.next_id();
        self.builder.push(Step {
            id,
            stage: self.index,
            stage_name: self.builder.dockerfile.stages[self.index].name().map(str::to_owned),
            parent: self.state.last,
            name,
            source: source.clone(),
            span,
            kind,
        })
    }

    fn history(&mut self, created_by: impl Into<String>, step: Option<StepId>) {
        self.state.history.push(StageHistory { created_by: created_by.into(), step });
    }

    fn config(&mut self) -> &mut ContainerConfig {
        &mut self.state.image.config
    }

    fn expander(&self) -> Expander {
        // Triggers were stored by another build, whose escape character is unknown: the default.
        Expander::new(if self.triggered { '\\' } else { self.builder.dockerfile.directives.escape })
    }

    fn expand(&mut self, source: &Arc<Source>, word: &Word) -> Result<String, PlanError> {
        let expanded = self
            .expander()
            .word(&word.text, &self.state.scope)
            .map_err(|error| PlanError::at(source, word.span_at(source, error.offset), error.message))?;
        Ok(expanded.text)
    }

    fn instruction(&mut self, source: &Arc<Source>, instruction: &Instruction) -> Result<(), PlanError> {
        let span = instruction.span;
        match &instruction.kind {
            InstructionKind::Arg(declarations) => self.arg(source, declarations),
            InstructionKind::Env(pairs) => self.env(source, pairs),
            InstructionKind::Label(pairs) => self.label(source, pairs),
            InstructionKind::Maintainer(word) => {
                self.state.image.author.clone_from(&word.text);
                self.history(format!("MAINTAINER {}", word.text), None);
                Ok(())
            }
            InstructionKind::Run(run) => self.run(source, instruction, run),
            InstructionKind::Copy(copy) => self.copy(source, instruction, copy, false),
            InstructionKind::Add(copy) => self.copy(source, instruction, copy, true),
            InstructionKind::Workdir(word) => self.workdir(source, instruction, word),
            InstructionKind::User(word) => {
                let user = self.expand(source, word)?;
                if user.is_empty() {
                    return Err(PlanError::at(
                        source,
                        word.span,
                        "USER needs a name or number; it expands to nothing",
                    ));
                }
                self.history(format!("USER {user}"), None);
                self.config().user = user;
                Ok(())
            }
            InstructionKind::Cmd(command) => {
                let argv = self.with_shell(command);
                self.history(format!("CMD {}", config::quoted(&argv)), None);
                self.config().cmd = Some(argv).filter(|argv| !argv.is_empty());
                self.config().args_escaped = true;
                self.cmd_set = true;
                Ok(())
            }
            InstructionKind::Entrypoint(command) => {
                let argv = self.with_shell(command);
                self.history(format!("ENTRYPOINT {}", config::quoted(&argv)), None);
                self.config().entrypoint = Some(argv).filter(|argv| !argv.is_empty());
                if !self.cmd_set {
                    self.config().cmd = None;
                }
                Ok(())
            }
            InstructionKind::Shell(shell) => {
                self.history(format!("SHELL [{}]", shell.join(" ")), None);
                self.config().shell = Some(shell.clone());
                Ok(())
            }
            InstructionKind::Expose(words) => self.expose(source, words),
            InstructionKind::Volume(words) => self.volume(source, words),
            InstructionKind::StopSignal(word) => {
                let signal = self.expand(source, word)?;
                if !config::is_signal(&signal) {
                    return Err(PlanError::at(source, word.span, format!("invalid signal: {signal}")));
                }
                self.history(format!("STOPSIGNAL {signal}"), None);
                self.config().stop_signal = signal;
                Ok(())
            }
            InstructionKind::Healthcheck(check) => {
                let check = config::healthcheck(check);
                self.history(config::healthcheck_history(&check), None);
                self.config().healthcheck = Some(check);
                Ok(())
            }
            InstructionKind::Onbuild(onbuild) => {
                self.config().on_build.push(onbuild.trigger.clone());
                let _ = span;
                Ok(())
            }
        }
    }

    fn arg(&mut self, source: &Arc<Source>, declarations: &[ArgDecl]) -> Result<(), PlanError> {
        let mut shown = Vec::new();
        for declaration in declarations {
            // A name is taken as it stands, quotes and dollar signs included (BuildKit's dispatchArg).
            let name = declaration.name.text.clone();
            let value = match (self.builder.build_arg(&name), &declaration.default) {
                (Some(value), _) => Some(value.to_owned()),
                (None, Some(default)) => Some(self.expand(source, default)?),
                (None, None) => self.builder.globals.value(&name).map(str::to_owned),
            };
            if let Some(value) = &value {
                self.state.scope.set(&name, value);
            }
            if !self.state.declared.contains(&name) {
                self.state.declared.push(name.clone());
            }
            shown.push(value.map_or(name.clone(), |value| format!("{name}={value}")));
        }
        self.history(format!("ARG {}", shown.join(" ")), None);
        Ok(())
    }

    /// All words of one instruction see the environment as it was before it.
    fn pairs(
        &mut self,
        source: &Arc<Source>,
        pairs: &[KeyValue],
    ) -> Result<Vec<(String, String)>, PlanError> {
        pairs
            .iter()
            .map(|pair| Ok((self.expand(source, &pair.key)?, self.expand(source, &pair.value)?)))
            .collect()
    }

    fn env(&mut self, source: &Arc<Source>, pairs: &[KeyValue]) -> Result<(), PlanError> {
        let expanded = self.pairs(source, pairs)?;
        let mut shown = String::from("ENV");
        for ((name, value), pair) in expanded.iter().zip(pairs) {
            if name.is_empty() {
                return Err(PlanError::at(source, pair.key.span, "ENV names can not be blank"));
            }
            self.state.scope.set(name, value);
            config::set_env(&mut self.config().env, name, value);
            shown.push_str(&format!(" {name}={value}"));
        }
        self.history(shown, None);
        Ok(())
    }

    fn label(&mut self, source: &Arc<Source>, pairs: &[KeyValue]) -> Result<(), PlanError> {
        let mut shown = String::from("LABEL");
        for ((name, value), pair) in self.pairs(source, pairs)?.into_iter().zip(pairs) {
            if name.is_empty() {
                return Err(PlanError::at(source, pair.key.span, "LABEL names can not be blank"));
            }
            shown.push_str(&format!(" {name}={value}"));
            self.config().labels.insert(name, value);
        }
        self.history(shown, None);
        Ok(())
    }

    fn with_shell(&self, command: &CommandLine) -> Vec<String> {
        match command {
            CommandLine::Exec(argv) => argv.clone(),
            CommandLine::Shell(text) => self.in_shell(text),
        }
    }

    fn in_shell(&self, text: &str) -> Vec<String> {
        let shell = self.state.image.config.shell.clone().filter(|shell| !shell.is_empty());
        let mut argv = shell.unwrap_or_else(|| vec!["/bin/sh".into(), "-c".into()]);
        argv.push(text.to_owned());
        argv
    }

    fn cwd(&self) -> &str {
        match self.state.image.config.working_dir.as_str() {
            "" => "/",
            dir => dir,
        }
    }

    fn workdir(
        &mut self,
        source: &Arc<Source>,
        instruction: &Instruction,
        word: &Word,
    ) -> Result<(), PlanError> {
        let written = self.expand(source, word)?;
        if written.is_empty() {
            return Err(PlanError::at(source, word.span, "WORKDIR needs a path; it expands to nothing"));
        }
        let path = join_clean(self.cwd(), &written);
        self.config().working_dir.clone_from(&path);
        let mut made = None;
        if path != "/" {
            let user = self.state.image.config.user.clone();
            let step = WorkdirStep { path: path.clone(), user };
            let id = self.step(
                source,
                instruction.span,
                &upper_keyword(&instruction.original),
                StepKind::Workdir(step),
            );
            self.state.last = Some(id);
            made = Some(id);
        } else {
            self.done += 1;
        }
        self.history(format!("WORKDIR {path}"), made);
        Ok(())
    }

    fn expose(&mut self, source: &Arc<Source>, words: &[Word]) -> Result<(), PlanError> {
        let mut ports = Vec::new();
        // The reference sorts the words as written; what they expand to keeps that order.
        let mut words: Vec<&Word> = words.iter().collect();
        words.sort_by(|a, b| a.text.cmp(&b.text));
        for word in words {
            let expanded = self.expander().words(&word.text, &self.state.scope);
            for text in expanded.map_err(|error| PlanError::at(source, word.span, error.message))? {
                let parsed =
                    config::ports(&text).map_err(|message| PlanError::at(source, word.span, message))?;
                ports.extend(parsed);
            }
        }
        self.history(format!("EXPOSE [{}]", ports.join(" ")), None);
        let empty = || serde_json::Value::Object(serde_json::Map::new());
        self.config().exposed_ports.extend(ports.into_iter().map(|port| (port, empty())));
        Ok(())
    }

    fn volume(&mut self, source: &Arc<Source>, words: &[Word]) -> Result<(), PlanError> {
        let mut volumes = Vec::new();
        for word in words {
            let volume = self.expand(source, word)?;
            if volume.is_empty() {
                return Err(PlanError::at(source, word.span, "VOLUME specified can not be an empty string"));
            }
            volumes.push(volume);
        }
        self.history(format!("VOLUME [{}]", volumes.join(" ")), None);
        let empty = || serde_json::Value::Object(serde_json::Map::new());
        self.config().volumes.extend(volumes.into_iter().map(|volume| (volume, empty())));
        Ok(())
    }
}

/// `run make` becomes `RUN make`; the text goes on one line.
fn upper_keyword(original: &str) -> String {
    let (keyword, rest) = original.split_once(char::is_whitespace).unwrap_or((original, ""));
    format!("{} {}", keyword.to_uppercase(), rest.trim()).trim_end().to_owned()
}

/// A path made absolute and clean.
fn join_clean(dir: &str, path: &str) -> String {
    let whole = if path.starts_with('/') { path.to_owned() } else { format!("{dir}/{path}") };
    let mut parts: Vec<&str> = Vec::new();
    for part in whole.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}
