//! The format of `Dockerfile.lock`: TOML, sorted, one entry a source (docs/lock.md).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::ops::Range;
use std::path::Path;

use serde::Deserialize;
use toml::Spanned;

use crate::digest::Digest;
use crate::image::manifest::DescriptorPlatform;
use crate::image::{Document, Platform};

/// The version that is written, and the only one that is read.
pub const VERSION: i64 = 1;

/// The largest lock that is read, in bytes. Each of ten thousand entries fits.
pub const MAX_SIZE: u64 = 4 << 20;

/// What the sources of a Dockerfile resolved to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Lock {
    /// File name of the Dockerfile it is for.
    pub dockerfile: String,
    /// By normalised name with tag: bases, images that are copied or mounted from, named contexts.
    pub images: BTreeMap<String, LockedImage>,
    /// By address without credentials, and ref as written (empty is the default branch).
    pub git: BTreeMap<(String, String), LockedGit>,
    /// By address without credentials.
    pub files: BTreeMap<String, Digest>,
    /// `# syntax` images by normalised name. No build of rbuild reads them; other builders do.
    pub syntax: BTreeMap<String, Digest>,
}

/// What an image's name resolved to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LockedImage {
    /// Digest of the index, or of the manifest where there is no index.
    pub digest: Digest,
    /// Digests of the manifests that an index lists, by platform.
    pub platforms: BTreeMap<String, Digest>,
}

/// What a ref of a repository resolved to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LockedGit {
    /// The commit in full, lower-case hex.
    pub commit: String,
    /// The full name of the ref (`refs/tags/v1`); `None` where a commit was named.
    pub reference: Option<String>,
}

impl LockedImage {
    /// What the document with `digest` pins: itself, and the images that it lists if it is an index.
    pub fn of(digest: Digest, document: &[u8]) -> Self {
        let mut platforms = BTreeMap::new();
        if let Ok(Document::Index(index)) = Document::parse(document) {
            for image in index.images() {
                let Some(platform) = image.platform.as_ref().map(DescriptorPlatform::platform) else {
                    continue;
                };
                // The first of a platform is the one that is chosen.
                platforms.entry(platform.to_string()).or_insert(image.digest);
            }
        }
        LockedImage { digest, platforms }
    }

    /// The manifest for a platform, where the lock names it.
    pub fn manifest(&self, platform: &Platform) -> Option<Digest> {
        self.platforms.get(&platform.to_string()).copied()
    }
}

/// Why a file is no lock.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LockError {
    /// What is wrong.
    pub message: String,
    /// Where in the text; `None` where it concerns the file as a whole.
    pub span: Option<Range<usize>>,
}

impl LockError {
    fn whole(message: impl Into<String>) -> Self {
        LockError { message: message.into(), span: None }
    }

    fn at<T>(place: &Spanned<T>, message: impl Into<String>) -> Self {
        LockError { message: message.into(), span: Some(place.span()) }
    }
}

impl From<toml::de::Error> for LockError {
    fn from(error: toml::de::Error) -> Self {
        LockError { message: error.message().to_owned(), span: error.span() }
    }
}

/// Reads the bytes of a lock; `None` where there is no such file. Only regular files are read, and no more of
/// them than [`MAX_SIZE`].
pub fn read(path: &Path) -> Result<Option<Vec<u8>>, LockError> {
    let failed = |error: std::io::Error| LockError::whole(format!("cannot be read: {error}"));
    let meta = match std::fs::metadata(path) {
        Ok(meta) => meta,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    if !meta.is_file() {
        return Err(LockError::whole("is no regular file"));
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(failed)?;
    file.take(MAX_SIZE + 1).read_to_end(&mut bytes).map_err(failed)?;
    let size = meta.len().max(bytes.len() as u64);
    if size > MAX_SIZE {
        return Err(LockError::whole(format!("has {size} bytes; a lock has at most {MAX_SIZE}")));
    }
    Ok(Some(bytes))
}

/// The text of a lock's bytes. An error names line and column of the first byte that is not UTF-8.
pub fn text(bytes: Vec<u8>) -> Result<String, LockError> {
    String::from_utf8(bytes).map_err(|error| {
        let bytes = error.as_bytes();
        let before = bytes.get(..error.utf8_error().valid_up_to()).unwrap_or_default();
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        let start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let column = String::from_utf8_lossy(before.get(start..).unwrap_or_default()).chars().count() + 1;
        LockError::whole(format!("is not UTF-8: line {line}, column {column}"))
    })
}

#[derive(Deserialize)]
struct Head {
    version: Option<Spanned<toml::Value>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    #[allow(dead_code, reason = "checked before")]
    version: i64,
    dockerfile: Spanned<String>,
    #[serde(default)]
    image: Vec<RawImage>,
    #[serde(default)]
    git: Vec<RawGit>,
    #[serde(default)]
    http: Vec<RawFile>,
    #[serde(default)]
    syntax: Vec<RawSyntax>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawImage {
    name: Spanned<String>,
    digest: Spanned<String>,
    #[serde(default)]
    platforms: BTreeMap<String, Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawGit {
    url: Spanned<String>,
    #[serde(default)]
    r#ref: String,
    #[serde(default)]
    resolved: Option<Spanned<String>>,
    commit: Spanned<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    url: Spanned<String>,
    checksum: Spanned<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSyntax {
    name: Spanned<String>,
    digest: Spanned<String>,
}

fn digest(text: &Spanned<String>) -> Result<Digest, LockError> {
    let wrong = || LockError::at(text, "expected sha256: and 64 lower-case hex digits");
    Digest::parse(text.get_ref()).map_err(|_| wrong())
}

/// Adds an entry, of which there may be one for each key.
fn insert<K: Ord, V>(
    map: &mut BTreeMap<K, V>,
    place: &Spanned<String>,
    key: K,
    value: V,
) -> Result<(), LockError> {
    if place.get_ref().is_empty() {
        return Err(LockError::at(place, "an entry needs a name"));
    }
    match map.insert(key, value) {
        None => Ok(()),
        Some(_) => Err(LockError::at(place, format!("there are two entries for {:?}", place.get_ref()))),
    }
}

impl Lock {
    /// Reads a lock.
    ///
    /// # Errors
    /// Text that is no TOML, another version, keys and values that a lock does not have, and two entries for one
    /// source.
    pub fn parse(text: &str) -> Result<Self, LockError> {
        let head: Head = toml::from_str(text)?;
        let Some(version) = head.version else {
            return Err(LockError::whole("has no `version`: it is not a lock of rbuild"));
        };
        if version.get_ref().as_integer() != Some(VERSION) {
            return Err(LockError::at(
                &version,
                format!("this version is not supported; this rbuild reads version {VERSION}"),
            ));
        }
        let raw: Raw = toml::from_str(text)?;
        if raw.dockerfile.get_ref().is_empty() || raw.dockerfile.get_ref().contains('/') {
            return Err(LockError::at(&raw.dockerfile, "expected the file name of a Dockerfile"));
        }
        let mut lock = Lock { dockerfile: raw.dockerfile.into_inner(), ..Lock::default() };
        for image in &raw.image {
            let mut platforms = BTreeMap::new();
            for (platform, manifest) in &image.platforms {
                platforms.insert(platform.clone(), digest(manifest)?);
            }
            let locked = LockedImage { digest: digest(&image.digest)?, platforms };
            insert(&mut lock.images, &image.name, image.name.get_ref().clone(), locked)?;
        }
        for git in raw.git {
            let commit = git.commit.get_ref();
            if !crate::remote::is_commit(commit) {
                return Err(LockError::at(&git.commit, "expected a full commit in lower-case hex"));
            }
            if let Some(name) = git.resolved.as_ref().filter(|name| !name.get_ref().starts_with("refs/")) {
                return Err(LockError::at(name, "expected the full name of a ref, such as refs/heads/main"));
            }
            let locked =
                LockedGit { commit: commit.clone(), reference: git.resolved.map(Spanned::into_inner) };
            insert(&mut lock.git, &git.url, (git.url.get_ref().clone(), git.r#ref), locked)?;
        }
        for file in &raw.http {
            insert(&mut lock.files, &file.url, file.url.get_ref().clone(), digest(&file.checksum)?)?;
        }
        for syntax in &raw.syntax {
            insert(&mut lock.syntax, &syntax.name, syntax.name.get_ref().clone(), digest(&syntax.digest)?)?;
        }
        Ok(lock)
    }

    /// The lock as text: the same for the same content, so that a difference is a difference of sources.
    pub fn render(&self) -> String {
        let mut out = String::from(
            "# Written by `rbuild lock`. Keep it under version control; `rbuild lock --update` moves it on.\n",
        );
        let mut line = |text: String| {
            out.push_str(&text);
            out.push('\n');
        };
        line(format!("version = {VERSION}"));
        line(format!("dockerfile = {}", quoted(&self.dockerfile)));
        for (name, digest) in &self.syntax {
            line("\n[[syntax]]".into());
            line(format!("name = {}", quoted(name)));
            line(format!("digest = \"{digest}\""));
        }
        for (name, image) in &self.images {
            line("\n[[image]]".into());
            line(format!("name = {}", quoted(name)));
            line(format!("digest = \"{}\"", image.digest));
            if !image.platforms.is_empty() {
                line("[image.platforms]".into());
            }
            for (platform, manifest) in &image.platforms {
                line(format!("{} = \"{manifest}\"", quoted(platform)));
            }
        }
        for ((url, reference), git) in &self.git {
            line("\n[[git]]".into());
            line(format!("url = {}", quoted(url)));
            if !reference.is_empty() {
                line(format!("ref = {}", quoted(reference)));
            }
            if let Some(name) = &git.reference {
                line(format!("resolved = {}", quoted(name)));
            }
            line(format!("commit = \"{}\"", git.commit));
        }
        for (url, checksum) in &self.files {
            line("\n[[http]]".into());
            line(format!("url = {}", quoted(url)));
            line(format!("checksum = \"{checksum}\""));
        }
        out
    }

    /// Entries as rows of kind, name and what they resolved to, for comparing and listing.
    fn rows(&self) -> BTreeMap<(&'static str, String), String> {
        let mut rows = BTreeMap::new();
        for (name, image) in &self.images {
            rows.insert(("image", name.clone()), image.digest.to_string());
        }
        for ((url, reference), git) in &self.git {
            rows.insert(("git", git_name(url, reference)), git.commit.clone());
        }
        for (url, checksum) in &self.files {
            rows.insert(("http", url.clone()), checksum.to_string());
        }
        for (name, digest) in &self.syntax {
            rows.insert(("syntax", name.clone()), digest.to_string());
        }
        rows
    }

    /// How many sources it pins.
    pub fn len(&self) -> usize {
        self.images.len() + self.git.len() + self.files.len() + self.syntax.len()
    }

    /// Whether it pins none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What changes from this lock to `new`, sorted by kind and name.
    pub fn changes(&self, new: &Lock) -> Vec<Change> {
        let (old_rows, new_rows) = (self.rows(), new.rows());
        let mut all = Vec::new();
        for ((kind, name), to) in &new_rows {
            let from = old_rows.get(&(*kind, name.clone()));
            if from != Some(to) {
                all.push(Change { kind, name: name.clone(), from: from.cloned(), to: Some(to.clone()) });
            }
        }
        for ((kind, name), from) in &old_rows {
            if !new_rows.contains_key(&(*kind, name.clone())) {
                all.push(Change { kind, name: name.clone(), from: Some(from.clone()), to: None });
            }
        }
        all.sort_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
        all
    }

    /// Forgets the entries that `wanted` names: a whole name, or one without its tag. Gives how many.
    pub fn forget(&mut self, wanted: &str) -> usize {
        let before = self.len();
        self.images.retain(|name, _| !names(name, wanted));
        self.syntax.retain(|name, _| !names(name, wanted));
        self.files.retain(|url, _| url != wanted);
        self.git.retain(|(url, reference), _| url != wanted && git_name(url, reference) != wanted);
        before - self.len()
    }
}

/// Whether a word of the command line means the image with this normalised name.
fn names(name: &str, wanted: &str) -> bool {
    let Ok(reference) = crate::image::Reference::parse(name) else { return name == wanted };
    [name, &reference.familiar(), &reference.repository(), &reference.familiar_repository()].contains(&wanted)
}

/// A ref of a repository as one word.
pub(super) fn git_name(url: &str, reference: &str) -> String {
    if reference.is_empty() { url.to_owned() } else { format!("{url}#{reference}") }
}

/// How an entry of two locks differs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// `image`, `git`, `http` or `syntax`.
    pub kind: &'static str,
    /// The source.
    pub name: String,
    /// What the old lock has; `None` where it lacks the entry.
    pub from: Option<String>,
    /// What the new one has; `None` where nothing needs the entry.
    pub to: Option<String>,
}

/// A basic string of TOML.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
