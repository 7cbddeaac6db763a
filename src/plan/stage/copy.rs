//! `COPY` and `ADD`: flags, sources, destination, and what history says of them.

use std::sync::Arc;

use crate::dockerfile::{Copy, CopySource, Heredoc, Instruction, Source, Word};
use crate::plan::chmod::Chmod;
use crate::plan::error::PlanError;
use crate::plan::graph::{CopyOrigin, CopyStep, InlineFile, RemoteSource, StepKind};
use crate::plan::resolve::Origin;
use crate::remote::{self, Checksum, SourceKind};

use super::{Walk, join_clean, upper_keyword};

impl Walk<'_, '_> {
    pub(super) fn copy(
        &mut self,
        source: &Arc<Source>,
        instruction: &Instruction,
        copy: &Copy,
        add: bool,
    ) -> Result<(), PlanError> {
        let keyword = if add { "ADD" } else { "COPY" };
        let origin = self.copy_origin(source, copy)?;
        let (mut sources, mut inline, mut shown) = (Vec::new(), Vec::new(), String::from(keyword));
        let (mut remote, mut remote_after) = (Vec::new(), Vec::new());
        let mut value = |word: &Option<Word>| {
            let text = word.as_ref().map(|word| self.expand(source, word)).transpose()?;
            Ok::<_, PlanError>(text.filter(|text| !text.is_empty()))
        };
        let (chown, chmod) = (value(&copy.flags.chown)?, value(&copy.flags.chmod)?);
        let checksum = value(&copy.flags.checksum)?;
        if let (Some(_), Some(word)) = (&checksum, &copy.flags.checksum)
            && copy.sources.len() != 1
        {
            let message = "checksum can't be specified for multiple sources";
            return Err(PlanError::at(source, word.span, message));
        }
        if copy.flags.parents {
            shown.push_str(" --parents");
        }
        for (flag, value) in [("chown", &chown), ("chmod", &chmod)] {
            if let Some(value) = value {
                shown.push_str(&format!(" --{flag}={value}"));
            }
        }
        let mut heredocs = String::new();
        for item in &copy.sources {
            match item {
                CopySource::Path(word) => {
                    let path = self.expand(source, word)?;
                    shown.push_str(&format!(" {path}"));
                    match self.remote_source(source, word, &path, copy, checksum.as_deref(), add)? {
                        Some(found) => {
                            remote.push(found);
                            remote_after.push(sources.len());
                        }
                        None => sources.push(path),
                    }
                }
                CopySource::Heredoc(heredoc) => {
                    heredocs.push_str(&format!(" <<{}", heredoc.name));
                    inline.push(self.inline(source, heredoc)?);
                }
            }
        }
        let dest = self.expand(source, &copy.dest)?;
        let dest_is_dir = dest.is_empty() || dest == "." || dest.ends_with('/') || dest.ends_with("/.");
        shown.push_str(&format!("{heredocs} {dest} # buildkit"));
        let chmod = match (&copy.flags.chmod, chmod) {
            (Some(word), Some(text)) => {
                Some(Chmod::parse(&text).map_err(|message| PlanError::at(source, word.span, message))?)
            }
            _ => None,
        };
        let dest = join_clean(self.cwd(), &dest);
        if let (Some(_), Some(word), true) = (&checksum, &copy.flags.checksum, remote.is_empty()) {
            return Err(PlanError::at(source, word.span, "checksum requires an HTTP(S) or Git source"));
        }
        let flags = &copy.flags;
        // A linked copy cannot know the modes of what lies below; BuildKit makes an ordinary one, too.
        let link = flags.link && chmod.is_none();
        let step = CopyStep {
            origin,
            sources,
            inline,
            dest,
            dest_is_dir,
            chown,
            chmod,
            remote,
            remote_after,
            extract: flags.unpack.unwrap_or(add),
            extract_remote: flags.unpack.unwrap_or(false),
            exclude: flags.exclude.iter().map(|word| word.text.clone()).collect(),
            parents: flags.parents,
            link,
        };
        let text = upper_keyword(&instruction.original);
        let id = self.step(source, instruction.span, &text, StepKind::Copy(step));
        self.state.last = Some(id);
        self.history(shown, Some(id));
        Ok(())
    }

    /// A source that lies elsewhere, if it is one; its address and checksum are checked.
    fn remote_source(
        &mut self,
        source: &Arc<Source>,
        word: &Word,
        path: &str,
        copy: &Copy,
        checksum: Option<&str>,
        add: bool,
    ) -> Result<Option<RemoteSource>, PlanError> {
        let fail = |message: String| PlanError::at(source, word.span, message);
        let kind = remote::add_source(path).map_err(|error| fail(error.to_string()))?;
        if matches!(kind, SourceKind::None) {
            return Ok(None);
        }
        if !add {
            return Err(fail("source can't be a URL or git ref for COPY".into()).help("use ADD"));
        }
        if let (SourceKind::Http(_), Some(text), Some(word)) = (&kind, checksum, &copy.flags.checksum) {
            Checksum::parse(text).map_err(|error| PlanError::at(source, word.span, error.to_string()))?;
        }
        let (url, checksum) = (path.to_owned(), checksum.map(str::to_owned));
        Ok(Some(RemoteSource { url, checksum, keep_git_dir: copy.flags.keep_git_dir }))
    }

    fn copy_origin(&mut self, source: &Arc<Source>, copy: &Copy) -> Result<CopyOrigin, PlanError> {
        let Some(from) = &copy.flags.from else { return Ok(CopyOrigin::Context(String::new())) };
        match self.builder.copy_origin(self.index, from, source)? {
            Origin::Stage(stage) => {
                let last = self.builder.evaluated.get(&stage).and_then(|state| state.last);
                match last {
                    Some(id) => Ok(CopyOrigin::Step(id, format!("stage {:?}", from.text))),
                    None => Err(PlanError::at(source, from.span, format!("stage {:?} is empty", from.text))),
                }
            }
            Origin::Files(name) => Ok(CopyOrigin::Context(name)),
            Origin::Image(name) => {
                let id = self.builder.image_step(&name, source, from.span)?;
                Ok(CopyOrigin::Step(id, format!("image {name:?}")))
            }
            Origin::Scratch { .. } => {
                let id = self.builder.scratch_step(source, from.span);
                Ok(CopyOrigin::Step(id, "scratch".into()))
            }
        }
    }

    fn inline(&mut self, source: &Arc<Source>, heredoc: &Heredoc) -> Result<InlineFile, PlanError> {
        let mut content = heredoc.body.clone();
        if heredoc.expand {
            let expanded = self
                .expander()
                .heredoc(&heredoc.body, &self.state.scope)
                .map_err(|error| PlanError::at(source, heredoc.span, error.message))?;
            content = expanded.text;
        }
        Ok(InlineFile { name: heredoc.name.clone(), content })
    }
}
