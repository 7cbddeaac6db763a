//! The rules of one build: asked before a source is looked up, told what it resolved to.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use crate::digest::Digest;
use crate::event::Events;
use crate::image::Reference;
use crate::remote::{Forbidden, ForbiddenBy, GitUrl, HttpUrl, Resolved, is_commit};

use super::lock::{Lock, LockedGit, LockedImage, git_name};
use super::policy::{Policies, Source};
use super::vendor::Vendor;

/// What a build is asked about its sources.
#[derive(Clone, Debug, Default)]
pub struct SourceOptions {
    /// `--locked`, `--no-lock`.
    pub lock: LockUse,
    /// `--lock-file`, relative to the request's directory; `None` is beside the Dockerfile.
    pub lock_file: Option<PathBuf>,
    /// `--offline`: bases, contexts and sources of ADD are what the store or the vendored layout has.
    pub offline: bool,
    /// `--vendor`: a layout that sources are taken from first, relative to the request's directory.
    pub vendor: Option<PathBuf>,
    /// `--source-policy`, in order: files relative to the request's directory.
    pub source_policies: Vec<PathBuf>,
    /// `--policy=disabled=true`: a Rego policy beside the Dockerfile, which rbuild cannot evaluate, is passed over.
    pub without_rego: bool,
    /// Whether a lock is being made.
    pub locking: Locking,
}

/// How a lock is being made: names are then looked up at their registries, whatever the store has.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Locking {
    /// None is.
    #[default]
    No,
    /// What is locked stays; what is missing is added.
    Keep,
    /// Everything is looked up.
    All,
    /// These sources are looked up, named as for [`Lock::forget`].
    Some(Vec<String>),
}

/// What counts of a lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum LockUse {
    /// Pins what it has, if it is there; other sources are resolved, with a warning.
    #[default]
    IfThere,
    /// Must be there and have every source.
    Required,
    /// Is not looked at.
    Ignored,
}

/// A lock that was read, and what it is called in messages.
#[derive(Clone, Debug)]
pub struct LoadedLock {
    /// As the user would write its path.
    pub name: String,
    /// What it pins.
    pub lock: Lock,
}

/// An image that may be looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedImage {
    /// Its name.
    pub reference: Reference,
    /// What the lock says it is.
    pub pin: Option<LockedImage>,
}

/// A file that may be downloaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedFile {
    /// Its address.
    pub url: HttpUrl,
    /// What it must hash to, as `--checksum` takes it.
    pub checksum: Option<String>,
    /// The SHA-256 that the lock says it has.
    pub pin: Option<Digest>,
}

/// A repository that may be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedGit {
    /// What is asked for, after policies.
    pub named: GitUrl,
    /// The same with what the lock pins.
    pub url: GitUrl,
}

/// The rules, shared by everything that fetches for one build.
pub struct Rules {
    options: SourceOptions,
    events: Events,
    /// Empty until it is known which Dockerfile is built.
    lock: OnceLock<LoadedLock>,
    vendor: OnceLock<Vendor>,
    policies: OnceLock<Policies>,
    told: Mutex<BTreeSet<String>>,
    seen: Mutex<Lock>,
}

/// Forbids what `--offline` does not find; `what` begins the sentence.
pub fn offline(what: &str) -> Forbidden {
    Forbidden::new(ForbiddenBy::Offline, format!("{what} would be fetched, and --offline forbids it")).help(
        "build once without --offline, or gather all sources with `rbuild vendor DIR` and add --vendor DIR",
    )
}

/// A conversion that means nothing here.
fn cannot_convert(from: &str, to: &Source) -> Forbidden {
    let message = format!("a source policy converts {from} to {}, which is not supported", to.identifier);
    Forbidden::new(ForbiddenBy::Policy, message)
        .help("an image becomes an image, a URL a URL, a git repository a git repository")
}

impl Rules {
    /// The rules of a build; `events` gets the warnings.
    pub fn new(options: SourceOptions, events: &Events) -> Self {
        Rules {
            options,
            events: events.clone(),
            lock: OnceLock::new(),
            vendor: OnceLock::new(),
            policies: OnceLock::new(),
            told: Mutex::default(),
            seen: Mutex::default(),
        }
    }

    /// No rules: everything is allowed and nothing pinned.
    pub fn none() -> Self {
        Self::new(SourceOptions { lock: LockUse::Ignored, ..SourceOptions::default() }, &Events::none())
    }

    /// What was asked for.
    pub fn options(&self) -> &SourceOptions {
        &self.options
    }

    /// Whether nothing may come from outside.
    pub fn is_offline(&self) -> bool {
        self.options.offline
    }

    /// Whether the store's own names count for nothing, because a lock is being made.
    pub fn is_locking(&self) -> bool {
        self.options.locking != Locking::No
    }

    /// Makes a lock count from now on. Only the first one does.
    pub fn honour(&self, lock: LoadedLock) {
        let _ = self.lock.set(lock);
    }

    /// The lock that counts.
    pub fn lock(&self) -> Option<&LoadedLock> {
        self.lock.get()
    }

    /// Makes policies count.
    pub fn obey(&self, policies: Policies) {
        let _ = self.policies.set(policies);
    }

    /// Asks the policies about a source; `None` is one that stays as it is.
    fn judged(&self, source: &Source) -> Result<Option<Source>, Forbidden> {
        self.policies.get().map_or(Ok(None), |policies| policies.evaluate(source))
    }

    /// May something of this machine be read, such as `local://context`?
    pub fn local(&self, identifier: &str) -> Result<(), Forbidden> {
        match self.judged(&Source::new(identifier))? {
            Some(other) if other.identifier != identifier => Err(cannot_convert(identifier, &other)),
            _ => Ok(()),
        }
    }

    /// Is the image that a name resolved to allowed too? BuildKit asks with the tag, and again with the digest.
    /// `Some` is another image, which takes its place. A conversion that only drops the digest, as `alpine:*` to
    /// `alpine:3` does, means the same image.
    pub fn image_is(&self, reference: &Reference, digest: Digest) -> Result<Option<Reference>, Forbidden> {
        let found = Reference { digest: Some(digest), ..reference.clone() };
        let source = Source::image(&found);
        let Some(other) = self.judged(&source)? else { return Ok(None) };
        let other = other.to_image().ok_or_else(|| cannot_convert(&source.identifier, &other))?;
        let same = other == found || other == *reference;
        Ok((!same).then_some(other))
    }

    /// Makes a layout the first place where sources are looked for.
    pub fn take_from(&self, vendor: Vendor) {
        let _ = self.vendor.set(vendor);
    }

    /// The layout that sources are taken from first.
    pub fn vendor(&self) -> Option<&Vendor> {
        self.vendor.get()
    }

    /// What sources resolved to so far.
    pub fn seen(&self) -> Lock {
        self.seen_now().clone()
    }

    fn seen_now(&self) -> MutexGuard<'_, Lock> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a lock that has no entry for a source means for it.
    fn not_locked(&self, what: &str) -> Result<(), Forbidden> {
        let required = self.options.lock == LockUse::Required;
        let Some(lock) = self.lock() else {
            return match required {
                false => Ok(()),
                true => Err(Forbidden::new(
                    ForbiddenBy::Lock,
                    format!("{what} is not locked, and --locked forbids it"),
                )
                .help("name a lock of it with --lock-file")),
            };
        };
        if required {
            return Err(Forbidden::new(ForbiddenBy::Lock, format!("{what} is not in {}", lock.name))
                .help("`rbuild lock` adds it"));
        }
        let first = || self.told.lock().unwrap_or_else(PoisonError::into_inner).insert(what.to_owned());
        if !self.is_locking() && first() {
            self.events.warn(format!("{what} is not in {}; `rbuild lock` adds it", lock.name));
        }
        Ok(())
    }

    fn disagrees(&self, what: &str, given: &str, locked: &str) -> Forbidden {
        let name = self.lock().map_or("the lock", |lock| lock.name.as_str());
        Forbidden::new(ForbiddenBy::Lock, format!("{what} is asked for as {given}, but {name} has {locked}"))
            .help(format!("`rbuild lock --update={what}` moves the lock on"))
    }

    /// May this image be looked up, and as what?
    pub fn image(&self, reference: &Reference) -> Result<WantedImage, Forbidden> {
        let source = Source::image(reference);
        let converted = match self.judged(&source)? {
            Some(other) => Some(other.to_image().ok_or_else(|| cannot_convert(&source.identifier, &other))?),
            None => None,
        };
        let reference = converted.as_ref().unwrap_or(reference);
        let name = reference.to_string();
        let pin = self.lock().and_then(|loaded| loaded.lock.images.get(&name)).cloned();
        match (&pin, reference.digest) {
            (None, _) => self.not_locked(&name)?,
            (Some(pin), Some(given)) if given != pin.digest => {
                return Err(self.disagrees(&name, &given.to_string(), &pin.digest.to_string()));
            }
            (Some(_), _) => {}
        }
        Ok(WantedImage { reference: reference.clone(), pin })
    }

    /// An image resolved to this.
    pub fn saw_image(&self, reference: &Reference, image: LockedImage) {
        self.seen_now().images.insert(reference.to_string(), image);
    }

    /// May this repository be asked, and for what? What is locked is fetched by its commit.
    pub fn git(&self, mut url: GitUrl) -> Result<WantedGit, Forbidden> {
        let source = Source::git(&url);
        if let Some(other) = self.judged(&source)? {
            url = other.to_git(&url, &source).ok_or_else(|| cannot_convert(&source.identifier, &other))?;
        }
        let reference = url.reference.clone().unwrap_or_default();
        let what = git_name(&url.to_string(), &reference);
        let key = (url.to_string(), reference);
        let Some(pin) = self.lock().and_then(|loaded| loaded.lock.git.get(&key)) else {
            // Without a lock, as for the context that holds it, a commit is as good as one.
            let fixed = url.reference.as_deref().or(url.checksum.as_deref()).is_some_and(is_commit);
            if self.lock().is_some() || !fixed {
                self.not_locked(&what)?;
            }
            return Ok(WantedGit { named: url.clone(), url });
        };
        let named = url.clone();
        if let Some(given) = url.checksum.as_ref().filter(|given| !pin.commit.starts_with(given.as_str())) {
            return Err(self.disagrees(&what, given, &pin.commit));
        }
        if let Some(given) = url.reference.as_ref().filter(|given| is_commit(given) && **given != pin.commit)
        {
            return Err(self.disagrees(&what, given, &pin.commit));
        }
        url.checksum = Some(pin.commit.clone());
        url.fetch_by_commit = true;
        if let Some(full) = &pin.reference {
            url.reference = Some(full.clone());
        }
        Ok(WantedGit { named, url })
    }

    /// A ref of a repository, as it was written, resolved to this.
    pub fn saw_git(&self, url: &GitUrl, resolved: &Resolved) {
        let key = (url.to_string(), url.reference.clone().unwrap_or_default());
        let known = self.lock().and_then(|loaded| loaded.lock.git.get(&key));
        let reference = resolved.reference.clone().or_else(|| known?.reference.clone());
        self.seen_now().git.insert(key, LockedGit { commit: resolved.commit.clone(), reference });
    }

    /// May this file be downloaded, and what must it be?
    pub fn file(&self, url: &HttpUrl, checksum: Option<&str>) -> Result<WantedFile, Forbidden> {
        let source = Source::file(url, checksum);
        let converted = match self.judged(&source)? {
            Some(other) => Some(other.to_file().ok_or_else(|| cannot_convert(&source.identifier, &other))?),
            None => None,
        };
        let (url, checksum) = match &converted {
            Some((url, checksum)) => (url, checksum.as_deref()),
            None => (url, checksum),
        };
        let what = url.to_string();
        let pin = self.lock().and_then(|loaded| loaded.lock.files.get(&what)).copied();
        let wanted = |checksum| WantedFile { url: url.clone(), checksum, pin };
        match (pin, checksum) {
            (None, given) => {
                self.not_locked(&what)?;
                Ok(wanted(given.map(str::to_owned)))
            }
            (Some(pin), Some(given)) if given.starts_with("sha256:") && given != pin.to_string() => {
                Err(self.disagrees(&what, given, &pin.to_string()))
            }
            // One of another algorithm counts beside the lock's.
            (Some(_), Some(given)) => Ok(wanted(Some(given.to_owned()))),
            (Some(pin), None) => Ok(wanted(Some(pin.to_string()))),
        }
    }

    /// A download has this content. Fails where the lock has another.
    pub fn saw_file(&self, wanted: &WantedFile, digest: Digest) -> Result<(), Forbidden> {
        if wanted.pin.is_some_and(|pin| pin != digest) {
            return Err(self.has_changed(wanted, &digest.to_string()));
        }
        self.seen_now().files.insert(wanted.url.to_string(), digest);
        Ok(())
    }

    /// Forbids a download that is not what was locked.
    pub fn has_changed(&self, wanted: &WantedFile, actual: &str) -> Forbidden {
        let name = self.lock().map_or("the lock", |lock| lock.name.as_str());
        let (url, pin) = (&wanted.url, wanted.pin.map(|pin| pin.to_string()).unwrap_or_default());
        let message = format!("{url} has changed: it is {actual} now, and {name} has {pin}");
        Forbidden::new(ForbiddenBy::Lock, message)
            .help(format!("`rbuild lock --update={url}` moves the lock on, if that is what you want"))
    }

    /// A `# syntax` image resolved to this.
    pub fn saw_syntax(&self, reference: &Reference, digest: Digest) {
        self.seen_now().syntax.insert(reference.to_string(), digest);
    }
}
