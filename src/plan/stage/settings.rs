//! Instructions that change variables and the config and add no step.

use std::sync::Arc;

use crate::dockerfile::{ArgDecl, KeyValue, Source, Word};

use super::super::config;
use super::super::error::PlanError;
use super::Walk;

impl Walk<'_, '_> {
    pub(super) fn arg(&mut self, source: &Arc<Source>, declarations: &[ArgDecl]) -> Result<(), PlanError> {
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

    pub(super) fn env(&mut self, source: &Arc<Source>, pairs: &[KeyValue]) -> Result<(), PlanError> {
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

    pub(super) fn label(&mut self, source: &Arc<Source>, pairs: &[KeyValue]) -> Result<(), PlanError> {
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

    pub(super) fn expose(&mut self, source: &Arc<Source>, words: &[Word]) -> Result<(), PlanError> {
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

    pub(super) fn volume(&mut self, source: &Arc<Source>, words: &[Word]) -> Result<(), PlanError> {
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
