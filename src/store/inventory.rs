//! What there is in a store: names, sizes, last uses. Looking does not count as use.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::digest::{DiffId, Digest};
use crate::fs::disk_usage;

use super::builds::RememberedBuild;
use super::files::{decode_name, entries, read};
use super::open::{Store, StoreError};
use super::{SnapshotId, SnapshotKind};

/// One kind of things. Their order is that of references: what stands later refers to nothing
/// before it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Room {
    /// Image names.
    Refs,
    /// Cache records.
    Records,
    /// Which snapshot tops a chain.
    Chains,
    /// Descriptions of layers.
    Layers,
    /// Entries of layers.
    Index,
    /// Unpacked layers.
    Snapshots,
    /// Layers, configs, manifests.
    Blobs,
    /// Directories of cache mounts.
    Mounts,
    /// Copies of git repositories.
    Git,
    /// What is known of the files of build contexts.
    Stat,
    /// Builds that are remembered.
    Builds,
}

impl Room {
    /// All of them.
    pub const ALL: [Room; 11] = [
        Room::Refs,
        Room::Records,
        Room::Chains,
        Room::Layers,
        Room::Index,
        Room::Snapshots,
        Room::Blobs,
        Room::Mounts,
        Room::Git,
        Room::Stat,
        Room::Builds,
    ];

    /// Its directory below the store's root.
    pub fn dir(self) -> &'static str {
        match self {
            Room::Refs => "refs",
            Room::Records => "records",
            Room::Chains => "chains",
            Room::Layers => "layers",
            Room::Index => "index",
            Room::Snapshots => "snapshots",
            Room::Blobs => "blobs/sha256",
            Room::Mounts => "mounts",
            Room::Git => "git",
            Room::Stat => "stat",
            Room::Builds => "builds",
        }
    }

    fn fans_out(self) -> bool {
        matches!(self, Room::Records | Room::Chains | Room::Layers | Room::Index)
    }

    fn holds_directories(self) -> bool {
        matches!(self, Room::Snapshots | Room::Mounts | Room::Git)
    }

    /// The name of a thing by its file name; `None` for what the store did not put there.
    fn name(self, file: &str) -> Option<String> {
        let hex = |text: &str| Digest::from_hex(text).map(|digest| digest.hex());
        match self {
            Room::Refs => decode_name(file),
            Room::Layers => hex(file.strip_suffix(".json")?),
            Room::Chains => SnapshotKind::split(file).map(|_| file.to_owned()),
            Room::Snapshots => SnapshotId::parse(file).map(|id| id.to_string()),
            Room::Mounts => {
                let (key, number) = file.split_once('.')?;
                number.parse::<u32>().ok()?;
                hex(key).map(|_| file.to_owned())
            }
            Room::Builds => RememberedBuild::parse(file).map(|build| build.id),
            _ => hex(file),
        }
    }
}

/// One thing of a store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Item {
    /// What it is.
    pub room: Room,
    /// Its name: digits of a digest, the ID of a snapshot, an image name, `HEX.N` of a cache mount,
    /// `HEX.KIND` of a note for a chain, the ID of a build.
    pub name: String,
    /// Where it lies.
    pub path: PathBuf,
    /// Bytes it takes on disk; 0 for directories, see [`Item::measure`].
    pub size: u64,
    /// When it was last used.
    pub used: SystemTime,
}

impl Item {
    /// Its name as a digest, for the rooms that go by digests.
    pub fn digest(&self) -> Option<Digest> {
        match self.room {
            Room::Chains => SnapshotKind::split(&self.name).map(|(chain, _)| chain),
            _ => Digest::from_hex(&self.name),
        }
    }

    /// The kind of the snapshot to which a note for a chain leads.
    pub fn kind(&self) -> Option<SnapshotKind> {
        let (_, kind) = SnapshotKind::split(&self.name).filter(|_| self.room == Room::Chains)?;
        Some(kind)
    }

    /// Bytes it takes on disk, of directories with all in them; hard links count once.
    pub fn measure(&self) -> u64 {
        if self.room.holds_directories() { disk_usage(&self.path) } else { self.size }
    }

    /// Its content; `None` where it has gone since.
    pub fn read(&self) -> Result<Option<Vec<u8>>, StoreError> {
        read(&self.path)
    }
}

/// The things of one room.
#[derive(Debug, Default)]
pub struct Listing {
    /// Things, sorted by name.
    pub items: Vec<Item>,
    /// What the store did not put there, or a killed process left half made.
    pub strays: Vec<PathBuf>,
}

impl Store {
    /// Lists a room.
    pub fn list(&self, room: Room) -> Result<Listing, StoreError> {
        let mut listing = Listing::default();
        let dir = self.root().join(room.dir());
        if !room.fans_out() {
            list_dir(room, &dir, None, &mut listing)?;
        } else {
            for entry in entries(&dir)? {
                let name = entry.file_name().to_string_lossy().into_owned();
                let kind = entry.file_type().map_err(StoreError::io("read", &entry.path()))?;
                match name.len() == 2 && kind.is_dir() {
                    true => list_dir(room, &entry.path(), Some(&name), &mut listing)?,
                    false => listing.strays.push(entry.path()),
                }
            }
        }
        listing.items.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(listing)
    }

    /// Reads a small blob without counting as use; `None` where it is not here.
    pub fn peek_blob(&self, digest: &Digest) -> Result<Option<Vec<u8>>, StoreError> {
        read(&self.blob_path(digest))
    }

    /// Reads the description of a layer without counting as use; `None` where there is none.
    pub fn peek_layer(&self, diff_id: &DiffId) -> Result<Option<Vec<u8>>, StoreError> {
        read(&self.fan_out("layers", &diff_id.0, ".json"))
    }

    /// Whether a thing is there; not a use. Of directories, whether they are whole.
    pub fn is_there(&self, room: Room, name: &str) -> Result<bool, StoreError> {
        let plain = || self.root().join(room.dir()).join(name);
        let path = match (Digest::from_hex(name), room) {
            (_, Room::Chains) if SnapshotKind::split(name).is_some() => {
                self.root().join(room.dir()).join(&name[..2]).join(name)
            }
            (Some(digest), Room::Records) => self.fan_out("records", &digest, ""),
            (Some(digest), Room::Layers) => self.fan_out("layers", &DiffId(digest).0, ".json"),
            (Some(digest), Room::Index) => self.fan_out("index", &digest, ""),
            (None, room) if room.holds_directories() => plain().join("fs"),
            _ => plain(),
        };
        match fs::metadata(&path) {
            Ok(meta) => Ok(meta.is_dir() || !room.holds_directories()),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                Ok(false)
            }
            Err(error) => Err(StoreError::io("read", &path)(error)),
        }
    }
}

/// `fan` is the directory's name where names of things must begin with it.
fn list_dir(room: Room, dir: &Path, fan: Option<&str>, listing: &mut Listing) -> Result<(), StoreError> {
    // `git` and `builds` are made when they are first needed.
    if !dir.try_exists().map_err(StoreError::io("read", dir))? {
        return Ok(());
    }
    for entry in entries(dir)? {
        let path = entry.path();
        let meta = match entry.metadata() {
            // What has gone meanwhile is not there.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other.map_err(StoreError::io("read", &path))?,
        };
        let file = entry.file_name().to_string_lossy().into_owned();
        if room == Room::Mounts && is_mount_lock(&file) {
            continue;
        }
        let fits = meta.is_dir() == room.holds_directories() && !meta.is_symlink();
        let name = room.name(&file).filter(|name| fits && fan.is_none_or(|fan| name.starts_with(fan)));
        match (name, meta.modified()) {
            (Some(name), Ok(used)) => {
                let size = if meta.is_dir() { 0 } else { on_disk(&meta) };
                listing.items.push(Item { room, name, path, size, used });
            }
            _ => listing.strays.push(path),
        }
    }
    Ok(())
}

fn is_mount_lock(file: &str) -> bool {
    file.strip_suffix(".lock").is_some_and(|name| Room::Mounts.name(name).is_some())
}

fn on_disk(meta: &Metadata) -> u64 {
    // POSIX counts blocks of 512 bytes, whatever the file system's own.
    meta.blocks().saturating_mul(512)
}
