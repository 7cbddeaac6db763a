//! One step: its key, its record, or its execution.

use std::sync::Arc;

use crate::cache::{Input, Records};
use crate::context::ignore::PatternSet;
use crate::context::{ContextError, FileInfo, FileSource, StatCache, file_digests};
use crate::digest::{Digest, Hasher};
use crate::event::{Event, VertexId};
use crate::layer::{self, NoContent};
use crate::plan::{CopyOrigin, CopyStep, RunMount, RunMountKind, RunStep, Step, StepKind, WorkdirStep};
use crate::snapshot::{Chain, LayerCell};
use crate::steps::accounts;
use crate::steps::add::unpack_archives;
use crate::steps::copy::{self, CopyError, Inline, Selected};
use crate::steps::identity::{Accounts, numeric_owner};
use crate::steps::mount::{MountInput, plain_destination};
use crate::steps::place::{Destination, effective_owner};
use crate::steps::remote::Found;
use crate::steps::run::Report;
use crate::steps::tree_source::TreeSource;
use crate::steps::workdir;

use super::answers::Question;
use super::error::StepError;
use super::known::{Taken, mount_input};
use super::record::{Unwritten, refuse_reserved};
use super::{Run, StepState};

/// What `--exclude` takes out.
fn excluded(copy: &CopyStep) -> Result<Option<PatternSet>, StepError> {
    // The reference compares with relative paths: a pattern with a leading slash matches nothing.
    let patterns = copy.exclude.iter().filter(|pattern| !pattern.trim_start_matches('!').starts_with('/'));
    let excluded = PatternSet::new(patterns).map_err(CopyError::from)?;
    Ok((!excluded.is_empty()).then_some(excluded))
}

/// What each source word of a copy selects.
fn select(copy: &CopyStep, source: &Arc<dyn FileSource>) -> Result<Vec<Selected>, StepError> {
    let origin = copy.origin.to_string();
    let excluded = excluded(copy)?;
    let excluded = excluded.as_ref();
    let select = |pattern: &String| {
        Ok(match copy.parents {
            true => copy::select_parents(pattern, &origin, source.clone(), excluded)?,
            false => copy::select(pattern, &origin, source.clone(), excluded)?,
        })
    };
    copy.sources.iter().map(select).collect()
}

/// The sources of a copy in the order in which they are written, and whether archives among them are unpacked.
fn as_written(copy: &CopyStep, local: Vec<Selected>, remote: Vec<Selected>) -> Vec<(Selected, bool)> {
    let mut all: Vec<(usize, bool, Selected)> = Vec::with_capacity(local.len() + remote.len());
    all.extend(copy.remote_after.iter().zip(remote).map(|(after, source)| (*after, false, source)));
    all.extend(local.into_iter().enumerate().map(|(number, source)| (number, true, source)));
    // What is written before the local source of a number has it too, and comes first.
    all.sort_by_key(|(number, is_local, _)| (*number, *is_local));
    let is_unpacked = |is_local| if is_local { copy.extract } else { copy.extract_remote };
    all.into_iter().map(|(_, is_local, source)| (source, is_unpacked(is_local))).collect()
}

type ReadDigests<'r> = &'r dyn Fn(&[FileInfo]) -> Result<Vec<Option<Digest>>, ContextError>;
type DigestFiles<'s> = Box<dyn Fn(&[FileInfo]) -> Result<Vec<Option<Digest>>, ContextError> + 's>;

/// Whether files that a step saw in place are no longer those its key refers to.
fn changed(mount: &MountInput) -> bool {
    let MountInput::Files { selected, .. } = mount else { return false };
    let Some(selection) = selected.selections.first() else { return false };
    let now = match selection.is_dir {
        true => selected.source.list(&selected.place, None).ok(),
        false => selected.source.stat(&selected.place).ok().flatten().map(|file| vec![file]),
    };
    now.as_ref() != Some(&selection.files)
}

/// The digest of what a directory holds, with the mode and owner that a mount of it shows.
fn with_top(selected: &Selected, dest: &Destination, digest: Digest) -> Result<Digest, StepError> {
    if !selected.selections.first().is_some_and(|selection| selection.is_dir) {
        return Ok(digest);
    }
    let Some(top) = selected.source.stat(&selected.place).map_err(CopyError::from)? else {
        return Ok(digest);
    };
    let (uid, gid) = effective_owner(dest, &top);
    let mut hasher = Hasher::new();
    hasher.field(b"mounted directory");
    hasher.field(digest.raw());
    hasher.field(format!("{:o} {uid}:{gid}", top.mode).as_bytes());
    Ok(hasher.finish())
}

impl Run<'_> {
    pub(super) fn do_step(&self, step: &Step, vertex: VertexId) -> Result<StepState, StepError> {
        let parent = self.parent(step);
        match &step.kind {
            StepKind::From(_) => {
                let chain = (self.solver.bases)(step)?;
                Ok(StepState { chain, cached: false, created: self.solver.now })
            }
            StepKind::Run(run) => self.run(step, run, &parent, vertex),
            StepKind::Copy(copy) => self.copy(step, copy, &parent, vertex),
            StepKind::Workdir(workdir) => self.workdir(step, workdir, &parent),
        }
    }

    fn run(
        &self,
        step: &Step,
        run: &RunStep,
        parent: &Chain,
        vertex: VertexId,
    ) -> Result<StepState, StepError> {
        if let Some(mut inputs) = self.known_mounts(run)? {
            self.keep_known_mounts(run, &inputs);
            inputs.extend(self.solver.run.inputs());
            let key = self.key(step, parent, inputs)?;
            if let Some(state) = self.look_early(step, parent, &key)? {
                return Ok(state);
            }
        } else if let Some(state) = self.run_by_answers(step, run, parent)? {
            return Ok(state);
        }
        let (mounts, mut inputs) = self.mount_inputs(run)?;
        inputs.extend(self.solver.run.inputs());
        let mut key = self.key(step, parent, inputs)?;
        if let Some(state) = self.look_up(step, parent, &key)? {
            return Ok(state);
        }
        let cancel = self.solver.cancel.clone();
        let store = self.solver.snapshots.store();
        let report = Report::new(self.solver.events.clone(), vertex, cancel, store.clone());
        let ran = self.solver.executor.run(run, &mounts, parent, &self.solver.run, &report)?;
        if mounts.iter().any(changed) {
            key.keep = false;
            self.forget_key(step.id);
            self.solver.events.warn(format!(
                "files of the build context changed while {} was using them; its result is not kept in the cache",
                step.name
            ));
        }
        refuse_reserved(&ran.entries.entries)?;
        let entries = Arc::new(ran.entries);
        let cell = LayerCell::pending(entries.clone(), Some(ran.snapshot));
        let layer = Unwritten { cell, entries: entries.entries.clone(), content: ran.content, recipe: None };
        self.write(step, parent, layer, key)
    }

    /// What the mounts of a RUN show, and the digests of it. What a cache mount begins with counts as
    /// well: another beginning is another cache, which the step has not seen.
    fn mount_inputs(&self, run: &RunStep) -> Result<(Vec<MountInput>, Vec<Input>), StepError> {
        let (mut mounts, mut inputs) = (Vec::new(), Vec::new());
        for mount in &run.mounts {
            inputs.extend(self.secret_input(mount));
            let Some((origin, source)) = mount.origin() else {
                mounts.push(MountInput::Nothing);
                continue;
            };
            let (files, read) = self.files_of(origin)?;
            let mut selected = copy::select_path(source, &origin.to_string(), files, None)?;
            let keep_owner = matches!(origin, CopyOrigin::Step(..));
            let digest = self.input_digest(origin, &mut selected, &plain_destination(keep_owner), &*read)?;
            let shown = match mount.kind {
                RunMountKind::Bind { .. } => with_top(&selected, &plain_destination(keep_owner), digest)?,
                _ => digest,
            };
            if shown != digest {
                self.keep_listing(&format!("{origin}: {source}"), &shown, Records::alias(&digest));
            }
            self.keep_files(origin, &Question::of_mount(mount, source), &shown);
            self.remember(origin, Taken::by_mount(source, &mount.kind), shown)?;
            inputs.push(mount_input(mount, origin, source, shown));
            mounts.push(match origin {
                CopyOrigin::Context(_) => MountInput::Files { selected, digest },
                CopyOrigin::Step(id, _) => {
                    let Some(state) = self.wait(*id) else { return Err(StepError::Canceled) };
                    let place = selected.source.stat(&selected.place).map_err(CopyError::from)?;
                    let Some(place) = place else { return Err(StepError::Canceled) };
                    MountInput::Layers { chain: state.chain, place, digest }
                }
            });
        }
        Ok((mounts, inputs))
    }

    /// The digest of a secret whose change executes the steps that mount it.
    pub(super) fn secret_input(&self, mount: &RunMount) -> Option<Input> {
        let RunMountKind::Secret { id, .. } = &mount.kind else { return None };
        let digest = self.solver.deciding_secrets.get(id)?;
        Some(Input { name: format!("secret {id}"), digest: *digest })
    }

    fn workdir(&self, step: &Step, workdir: &WorkdirStep, parent: &Chain) -> Result<StepState, StepError> {
        let key = self.key(step, parent, Vec::new())?;
        if let Some(state) = self.look_up(step, parent, &key)? {
            return Ok(state);
        }
        let snapshots = &self.solver.snapshots;
        let tree = snapshots.tree(parent)?;
        let owner = match workdir.user.as_str() {
            "" => None,
            "root" | "0" => Some((0, 0)),
            // Where nothing is built yet there is nothing to look a name up in.
            user if parent.cells().is_empty() => Some(Accounts::default().owner(user)?),
            user => Some(accounts(snapshots, parent, &tree)?.workdir_owner(user)),
        };
        let index = workdir::entries(&tree, workdir.path.as_bytes(), owner, self.solver.now)?;
        self.write_entries(step, parent, index.entries, NoContent, key)
    }

    /// With `--link` the files are placed on nothing: the layer, its key and its record are the same
    /// whatever lies below.
    fn copy(
        &self,
        step: &Step,
        copy: &CopyStep,
        parent: &Chain,
        vertex: VertexId,
    ) -> Result<StepState, StepError> {
        let snapshots = &self.solver.snapshots;
        let nothing = Chain::scratch();
        let base = if copy.link { &nothing } else { parent };
        let owner = match &copy.chown {
            None => None,
            Some(chown) if numeric_owner(chown).is_some() => numeric_owner(chown),
            Some(chown) => Some(self.owner(base, chown)?),
        };
        let dest = Destination {
            path: copy.dest.clone().into_bytes(),
            directory: copy.dest_is_dir,
            owner,
            keep_owner: !matches!(copy.origin, CopyOrigin::Context(_)),
            chmod: copy.chmod.clone(),
            made_up_time: self.solver.now,
        };
        if let Some(inputs) = self.known_copy(copy, &dest)? {
            self.keep_known_copy(copy, &dest, &inputs);
            let key = self.key(step, base, inputs)?;
            if let Some(state) = self.look_early(step, parent, &key)? {
                return Ok(state);
            }
        } else if let Some(state) = self.copy_by_answers(step, copy, parent, base, &dest)? {
            return Ok(state);
        }
        let (source, read) = self.files_of(&copy.origin)?;
        let mut selected = select(copy, &source)?;
        let mut inputs = Vec::new();
        for source in &mut selected {
            let digest = self.input_digest(&copy.origin, source, &dest, &*read)?;
            self.keep_files(&copy.origin, &Question::of_copy(copy, &source.pattern, &dest), &digest);
            self.remember(&copy.origin, Taken::by_copy(copy, &source.pattern, &dest), digest)?;
            inputs.push(Input { name: format!("{}: {}", copy.origin, source.pattern), digest });
        }
        let remote = self.find_remote(copy, vertex)?;
        inputs.extend(
            remote.iter().map(|found| Input { name: found.url().to_owned(), digest: found.digest() }),
        );
        let inline = inline_files(copy);
        for file in &inline {
            let name = format!("heredoc: {}", String::from_utf8_lossy(&file.name));
            let mut hasher = Hasher::new();
            hasher.field(&file.name);
            hasher.field(&file.content);
            inputs.push(Input { name, digest: hasher.finish() });
        }
        let key = self.key(step, base, inputs)?;
        if let Some(state) = self.look_up(step, parent, &key)? {
            return Ok(state);
        }
        let main = matches!(&copy.origin, CopyOrigin::Context(name) if name.is_empty());
        for source in &mut selected {
            source.read(&*read).map_err(CopyError::from)?;
            source.settled = self.solver.stat_cache.clone().filter(|_| main);
        }
        if self.solver.same_times && matches!(copy.origin, CopyOrigin::Context(_)) {
            let files = selected.iter_mut().flat_map(|one| &mut one.selections).flat_map(|s| &mut s.files);
            files.for_each(|file| file.mtime = (self.solver.now, 0));
            let selections = selected.iter_mut().flat_map(|one| &mut one.selections);
            selections.for_each(|selection| selection.dir_mtime = None);
        }
        let scratch = Arc::new(snapshots.store().temp_dir()?);
        let excluded = excluded(copy)?;
        let mut downloaded = Vec::new();
        for (number, found) in remote.iter().enumerate() {
            let dir = scratch.path().join(format!("remote{number}"));
            std::fs::create_dir(&dir).map_err(|source| layer::LayerError::io("create", &dir, source))?;
            downloaded.push(found.files(
                &self.solver.remotes,
                &dir,
                excluded.as_ref(),
                &self.solver.cancel,
            )?);
        }
        let (mut selected, mut archives, mut before) =
            (as_written(copy, selected, downloaded), Vec::new(), 0);
        for (source, is_unpacked) in &mut selected {
            if *is_unpacked {
                archives.extend(unpack_archives(source, before, scratch.path(), &self.solver.cancel)?);
            }
            before += source.selections.len();
        }
        let selected: Vec<Selected> = selected.into_iter().map(|(source, _)| source).collect();
        let tree = snapshots.tree(base)?;
        let below: Arc<dyn FileSource> =
            Arc::new(TreeSource::new(snapshots.clone(), base.clone(), tree.clone()));
        let layer = copy::layer(&tree, &dest, &selected, &inline, &archives, Some(&below))?;
        self.write_entries(step, parent, layer.entries, layer.content.holding(scratch), key)
    }

    /// Looks the remote sources of an ADD up, showing the progress of downloads.
    fn find_remote(&self, copy: &CopyStep, vertex: VertexId) -> Result<Vec<Found>, StepError> {
        let mut all = Vec::new();
        for wanted in &copy.remote {
            if self.only_looks() {
                let found = self.solver.remotes.find_known(wanted, &self.solver.cancel)?;
                let url = || crate::remote::without_credentials(&wanted.url);
                all.push(found.ok_or_else(|| StepError::NotDownloaded(url()))?);
                continue;
            }
            let item = crate::remote::without_credentials(&wanted.url);
            let progress = |current, total| {
                self.solver.events.send(Event::Progress { vertex, item: item.clone(), current, total });
            };
            all.push(self.solver.remotes.find(wanted, &progress, &self.solver.cancel)?);
        }
        Ok(all)
    }

    /// The digest of what was selected. Where the very same files were digested before, told by their
    /// `stat` alone, nothing is read or looked up file by file.
    fn input_digest(
        &self,
        origin: &CopyOrigin,
        selected: &mut Selected,
        dest: &Destination,
        read: ReadDigests<'_>,
    ) -> Result<Digest, StepError> {
        let cache = match (origin, &self.solver.stat_cache) {
            (CopyOrigin::Context(name), Some(cache)) if name.is_empty() => Some(cache),
            _ => None,
        };
        let memo = cache.map(|_| selected.stat_digest(dest));
        if let Some(digest) = memo.map(|memo| self.solver.records.memo(&memo)).transpose()?.flatten() {
            return Ok(digest);
        }
        selected.read(read).map_err(CopyError::from)?;
        let (digest, listing) = selected.digest(dest);
        self.keep_listing(&format!("{origin}: {}", selected.pattern), &digest, listing);
        let mut files = selected.selections.iter().flat_map(|selection| &selection.files);
        if let (Some(memo), Some(cache)) = (memo, cache)
            && files.all(|file| cache.is_settled(file))
        {
            self.solver.records.put_memo(&memo, &digest)?;
        }
        Ok(digest)
    }

    /// Keeps what a digest was made of. Only explanations read it.
    fn keep_listing(&self, name: &str, digest: &Digest, listing: Vec<u8>) {
        let listing = Arc::new(listing);
        if let Some(witness) = &self.solver.witness {
            witness.listed(digest, &listing);
        }
        if !self.only_looks() {
            let (records, name, digest) = (self.solver.records.clone(), name.to_owned(), *digest);
            self.background.queue(move || drop(records.put_pre_image(&digest, &name, &listing)));
        }
    }

    /// Files of a context or step, and how their content digests are had.
    fn files_of(&self, origin: &CopyOrigin) -> Result<(Arc<dyn FileSource>, DigestFiles<'_>), StepError> {
        match origin {
            CopyOrigin::Context(name) => {
                let source = self.solver.contexts.get(name).cloned();
                let source =
                    source.ok_or_else(|| StepError::Base(format!("no build context named {name:?}")))?;
                let cache = self.solver.stat_cache.as_deref().filter(|_| name.is_empty());
                let files = source.clone();
                let digest = move |infos: &[FileInfo]| {
                    file_digests(&*files, infos, cache.map(|cache| cache as &dyn StatCache))
                };
                Ok((source, Box::new(digest)))
            }
            CopyOrigin::Step(id, _) => {
                let Some(state) = self.wait(*id) else { return Err(StepError::Canceled) };
                let tree = self.solver.snapshots.tree(&state.chain)?;
                let source = Arc::new(TreeSource::new(self.solver.snapshots.clone(), state.chain, tree));
                let files = source.clone();
                Ok((source, Box::new(move |infos: &[FileInfo]| files.digests(infos))))
            }
        }
    }
}

fn inline_files(copy: &CopyStep) -> Vec<Inline> {
    let inline = |file: &crate::plan::InlineFile| Inline {
        name: file.name.clone().into_bytes(),
        content: file.content.clone().into_bytes().into(),
    };
    copy.inline.iter().map(inline).collect()
}
