//! `COPY` and `ADD`: flags, sources, destination, and what history says of them.

use std::sync::Arc;

use crate::dockerfile::{Copy, CopySource, Heredoc, Instruction, Source, Word};
use crate::plan::chmod::Chmod;
use crate::plan::error::PlanError;
use crate::plan::graph::{CopyOrigin, CopyStep, InlineFile, StepKind};
use crate::plan::resolve::Origin;

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
        refuse_copy_flags(source, instruction, copy, keyword)?;
        let origin = self.copy_origin(source, copy)?;
        let (mut sources, mut inline, mut shown) = (Vec::new(), Vec::new(), String::from(keyword));
        let chown = copy.flags.chown.as_ref().map(|word| self.expand(source, word)).transpose()?;
        let chmod = copy.flags.chmod.as_ref().map(|word| self.expand(source, word)).transpose()?;
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
                    refuse_remote(source, word, &path, add)?;
                    shown.push_str(&format!(" {path}"));
                    sources.push(path);
                }
                CopySource::Heredoc(heredoc) => {
                    heredocs.push_str(&format!(" <<{}", heredoc.name));
                    inline.push(self.inline(source, heredoc)?);
                }
            }
        }
        let dest = self.expand(source, &copy.dest)?;
        let dest_is_dir = dest.is_empty() || dest == "." || dest.ends_with('/');
        shown.push_str(&format!("{heredocs} {dest} # buildkit"));
        let chmod = match (&copy.flags.chmod, chmod) {
            (Some(word), Some(text)) => {
                Some(Chmod::parse(&text).map_err(|message| PlanError::at(source, word.span, message))?)
            }
            _ => None,
        };
        let dest = join_clean(self.cwd(), &dest);
        let step = CopyStep { origin, sources, inline, dest, dest_is_dir, chown, chmod, extract: add };
        let text = upper_keyword(&instruction.original);
        let id = self.step(source, instruction.span, &text, StepKind::Copy(step));
        self.state.last = Some(id);
        self.history(shown, Some(id));
        Ok(())
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
                let id = self.builder.image_step(&name, source, from.span);
                Ok(CopyOrigin::Step(id, format!("image {name:?}")))
            }
            Origin::Scratch => Err(PlanError::at(source, from.span, "there is nothing to copy from scratch")),
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

fn refuse_copy_flags(
    source: &Arc<Source>,
    instruction: &Instruction,
    copy: &Copy,
    keyword: &str,
) -> Result<(), PlanError> {
    let flags = &copy.flags;
    let used = [
        ("link", flags.link),
        ("parents", flags.parents),
        ("exclude", !flags.exclude.is_empty()),
        ("checksum", flags.checksum.is_some()),
        ("keep-git-dir", flags.keep_git_dir.is_some()),
        ("unpack", flags.unpack.is_some()),
    ];
    if let Some((name, _)) = used.iter().find(|(_, used)| *used) {
        let span =
            flags.spans.iter().find(|(known, _)| known == name).map_or(instruction.span, |(_, span)| *span);
        return Err(PlanError::unsupported(source, span, &format!("{keyword} --{name}")));
    }
    Ok(())
}

fn refuse_remote(source: &Arc<Source>, word: &Word, path: &str, add: bool) -> Result<(), PlanError> {
    let lower = path.to_ascii_lowercase();
    let http = lower.starts_with("http://") || lower.starts_with("https://");
    let git = lower.starts_with("git@") || lower.starts_with("git://") || lower.starts_with("ssh://");
    match (http || git, add) {
        (false, _) => Ok(()),
        (true, true) => Err(PlanError::unsupported(source, word.span, "ADD from a URL or git repository")),
        (true, false) => {
            Err(PlanError::at(source, word.span, "source can't be a URL for COPY").help("use ADD"))
        }
    }
}
