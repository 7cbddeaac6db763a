//! Build arguments and global variables.

use crate::dockerfile::{Expander, InstructionKind, Word};
use crate::image::Platform;
use crate::suggest::suggest;

use super::super::error::{PlanError, PlanWarning};
use super::super::scope::{is_control, is_proxy};
use super::Builder;

impl<'a> Builder<'a> {
    pub fn build_arg(&self, name: &str) -> Option<&'a str> {
        let given = self.input.build_args.iter().rev().find(|(known, _)| known == name);
        given.map(|(_, value)| value.as_str())
    }

    pub(super) fn set_globals(&mut self) -> Result<(), PlanError> {
        let (target, build) = (&self.input.platform, &self.input.build_platform);
        let stage = self.dockerfile.target_name(self.input.target.as_deref());
        for (name, value) in Platform::arguments(target, build, stage) {
            let value = self.build_arg(name).map_or(value, str::to_owned);
            self.globals.set(name, &value);
        }
        let dockerfile = self.dockerfile;
        for instruction in &dockerfile.global_args {
            let InstructionKind::Arg(declarations) = &instruction.kind else { continue };
            for declaration in declarations {
                let name = &declaration.name.text;
                let epoch = self.input.epoch.as_deref().filter(|_| name == "SOURCE_DATE_EPOCH");
                if let Some(value) = self.build_arg(name).or(epoch) {
                    self.globals.set(name, value);
                } else if let Some(default) = &declaration.default {
                    let value = self.expand_global(default)?;
                    self.globals.set(name, &value);
                }
            }
        }
        Ok(())
    }

    pub(super) fn expand_global(&self, word: &Word) -> Result<String, PlanError> {
        let expander = Expander::new(self.dockerfile.directives.escape);
        let expanded = expander
            .word(&word.text, &self.globals)
            .map_err(|error| PlanError::at(&self.dockerfile.source, word.span, error.message))?;
        Ok(expanded.text)
    }

    pub(super) fn warn_unused_arguments(&mut self) {
        let declared: Vec<&str> = self
            .dockerfile
            .global_args
            .iter()
            .chain(self.dockerfile.stages.iter().flat_map(|stage| &stage.instructions))
            .filter_map(|instruction| match &instruction.kind {
                InstructionKind::Arg(declarations) => Some(declarations),
                _ => None,
            })
            .flatten()
            .map(|declaration| declaration.name.text.as_str())
            .collect();
        let platform_names: Vec<String> = self.globals.iter().map(|(name, _)| name.clone()).collect();
        for (name, _) in &self.input.build_args {
            let known = declared.contains(&name.as_str())
                || is_proxy(name)
                || is_control(name)
                || platform_names.contains(name);
            if known {
                continue;
            }
            let hint = suggest(name, declared.iter().copied());
            let hint = hint.map_or_else(String::new, |name| format!(" (did you mean {name:?}?)"));
            self.warnings.push(PlanWarning {
                message: format!("build argument {name:?} is not used: no ARG declares it{hint}"),
                place: None,
            });
        }
    }
}
