//! `RUN`: its flags, its command with here-documents, and what history says of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::dockerfile::{CommandLine, Heredoc, Instruction, Run, Source};
use crate::plan::RunNetwork;
use crate::plan::error::PlanError;
use crate::plan::graph::{Device, RunStep, Script, StepKind};
use crate::plan::scope::is_proxy;

use super::{Walk, upper_keyword};

/// Where inline scripts appear.
const SCRIPTS: &str = "/dev/pipes";

impl Walk<'_, '_> {
    pub(super) fn run(
        &mut self,
        source: &Arc<Source>,
        instruction: &Instruction,
        run: &Run,
    ) -> Result<(), PlanError> {
        let insecure = self.run_security(source, run)?;
        let devices = self.run_devices(source, run)?;
        let mounts = self.mounts(source, &run.mounts)?;
        let network = self.run_network(source, run)?;
        let (argv, scripts) = self.run_command(run);
        // Both cases are set, of two that are given the lower one; one that is declared comes with the
        // others.
        let mut given: Vec<_> =
            self.builder.input.build_args.iter().filter(|(name, _)| is_proxy(name)).collect();
        given.sort_by(|(a, _), (b, _)| a.cmp(b));
        let proxies: BTreeMap<_, _> =
            given.into_iter().map(|(name, value)| (name.to_uppercase(), value)).collect();
        let proxy_env = proxies
            .into_iter()
            .flat_map(|(name, value)| {
                let lower = name.to_lowercase();
                [(name, value.clone()), (lower, value.clone())]
            })
            .filter(|(name, _)| self.state.scope.value(name).is_none())
            .collect();
        let created_by = format!("RUN {}{} # buildkit", self.arguments_shown(), argv.join(" "));
        let step = RunStep {
            argv,
            env: self.state.scope.iter().cloned().collect(),
            proxy_env,
            cwd: self.cwd().to_owned(),
            user: self.state.image.config.user.clone(),
            network,
            scripts,
            mounts,
            insecure,
            devices,
            platform: self.state.platform.clone(),
        };
        let text = upper_keyword(&instruction.original);
        let id = self.step(source, instruction.span, &text, StepKind::Run(step));
        self.state.last = Some(id);
        self.history(created_by, Some(id));
        Ok(())
    }

    fn run_security(&mut self, source: &Arc<Source>, run: &Run) -> Result<bool, PlanError> {
        let Some(security) = &run.security else { return Ok(false) };
        match self.expand(source, security)?.as_str() {
            "sandbox" => Ok(false),
            "insecure" if self.builder.input.allow.insecure => Ok(true),
            "insecure" => {
                Err(PlanError::at(source, security.span, "security.insecure is not allowed in this build")
                    .help("build with --allow security.insecure if you trust this Dockerfile"))
            }
            other => Err(PlanError::at(source, security.span, format!("security {other:?} is not valid"))
                .help("it is sandbox or insecure")),
        }
    }

    /// `--device=vendor.com/class=name[,required=false]`
    fn run_devices(&mut self, source: &Arc<Source>, run: &Run) -> Result<Vec<Device>, PlanError> {
        let mut devices = Vec::new();
        for word in &run.devices {
            let text = self.expand(source, word)?;
            let bad = |message: String| {
                PlanError::at(source, word.span, message).help(
                    "write --device=vendor.com/class=name, with ,required=false where it may be missing",
                )
            };
            let (mut name, mut required) = (None, true);
            for field in text.split(',') {
                match field.split_once('=') {
                    Some(("required", value)) => {
                        required = super::mount::boolean(value)
                            .ok_or_else(|| bad(format!("invalid value for required: {value}")))?;
                    }
                    Some(("name", value)) => name = Some(value.to_owned()),
                    _ if field == "required" => required = true,
                    _ if name.is_none() && !field.is_empty() => name = Some(field.to_owned()),
                    _ => return Err(bad(format!("invalid device {text:?}"))),
                }
            }
            let name = name.ok_or_else(|| bad("--device names no device".into()))?;
            if !self.builder.input.allow.device(&name) {
                return Err(PlanError::at(
                    source,
                    word.span,
                    format!("device {name:?} is not allowed in this build"),
                )
                .help(format!("build with --allow device={name}")));
            }
            devices.push(Device { name, required });
        }
        Ok(devices)
    }

    fn run_network(&mut self, source: &Arc<Source>, run: &Run) -> Result<RunNetwork, PlanError> {
        let Some(network) = &run.network else { return Ok(self.builder.input.network) };
        match self.expand(source, network)?.as_str() {
            "default" => Ok(self.builder.input.network),
            "none" => Ok(RunNetwork::None),
            "host"
                if self.builder.input.network == RunNetwork::Host
                    || self.builder.input.allow.network_host =>
            {
                Ok(RunNetwork::Host)
            }
            "host" => Err(PlanError::at(source, network.span, "network.host is not allowed in this build")
                .help("build with --allow network.host, or with --network=host")),
            other => Err(PlanError::at(source, network.span, format!("network {other:?} is not valid"))
                .help("it is default, none or host")),
        }
    }

    fn run_command(&self, run: &Run) -> (Vec<String>, Vec<Script>) {
        let text = match (&run.command, run.heredocs.as_slice()) {
            (CommandLine::Exec(argv), _) => return (argv.clone(), Vec::new()),
            (CommandLine::Shell(text), []) => return (self.in_shell(text), Vec::new()),
            (CommandLine::Shell(text), _) => text,
        };
        if let [only] = run.heredocs.as_slice()
            && is_lone_heredoc(text)
        {
            if only.body.starts_with("#!") {
                let path = format!("{SCRIPTS}/{}", only.name);
                let script = Script { path: path.clone(), content: only.body.clone() };
                return (self.in_shell(&path), vec![script]);
            }
            return (self.in_shell(&only.body), Vec::new());
        }
        let mut whole = text.clone();
        for Heredoc { name, raw, .. } in &run.heredocs {
            whole.push_str(&format!("\n{raw}{name}"));
        }
        (self.in_shell(&whole), Vec::new())
    }

    /// `|2 a=1 b=2 ` as history shows the arguments a RUN sees.
    fn arguments_shown(&self) -> String {
        if self.state.declared.is_empty() {
            return String::new();
        }
        let mut shown = format!("|{} ", self.state.declared.len());
        for name in &self.state.declared {
            shown.push_str(&format!("{name}={} ", self.state.scope.value(name).unwrap_or("")));
        }
        shown
    }
}

/// Whether the command of a RUN is nothing but `<<NAME`.
fn is_lone_heredoc(text: &str) -> bool {
    let text = text.trim().trim_start_matches(|c: char| c.is_ascii_digit());
    text.strip_prefix("<<").is_some_and(|word| {
        let word = word.trim_start_matches('-').trim_start();
        !word.is_empty() && !word.starts_with('<') && !word.contains(char::is_whitespace)
    })
}
