//! One stage: its instructions in order, each changing the scope, the config, or adding a step.

mod copy;
pub(super) mod mount;
mod run;
mod settings;
mod start;

use std::sync::Arc;

use crate::dockerfile::{CommandLine, Expander, Instruction, InstructionKind, Source, Span, Word};
use crate::image::{ContainerConfig, ImageConfig, Platform};

use super::config;
use super::error::PlanError;
use super::graph::{StageHistory, StagePlan, Step, StepId, StepKind, WorkdirStep};
use super::resolve::Builder;
use super::scope::Scope;

pub(super) use self::start::evaluate;

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
    pub fn into_plan(self, index: usize, name: Option<&str>, globals: &Scope) -> StagePlan {
        let value = |name: &str| self.scope.value(name).or(globals.value(name)).map(str::to_owned);
        StagePlan {
            sbom_stage: value("BUILDKIT_SBOM_SCAN_STAGE"),
            sbom_context: value("BUILDKIT_SBOM_SCAN_CONTEXT"),
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
        // The image names an absolute path as it was written, with its slashes and dots.
        let path = match written.as_str() {
            "" => self.cwd().to_owned(),
            absolute if absolute.starts_with('/') => written,
            relative => join_clean(self.cwd(), relative),
        };
        self.config().working_dir.clone_from(&path);
        let mut made = None;
        if path != "/" {
            let user = self.state.image.config.user.clone();
            let step = WorkdirStep { path: join_clean("/", &path), user };
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
