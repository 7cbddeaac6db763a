//! Unpacking by threads that can open nothing but the directory they fill.

use std::fs::File;
use std::io::{self, Read, Seek as _};
use std::path::Path;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::sandbox::{Confinement, landlock_abi};

use super::diff::{ParentNode, ParentView};
use super::error::LayerError;

/// Does `work`, which fills `dest`, in a thread that can open nothing else. What it needs of the files of
/// layers below is opened out here.
pub(super) fn unpacking<T: Send>(
    dest: &Path,
    parent: &dyn ParentView,
    work: impl FnOnce(&dyn ParentView) -> Result<T, LayerError> + Send,
) -> Result<T, LayerError> {
    if landlock_abi().is_none() {
        return work(parent);
    }
    let (ask, asked) = bounded(1);
    let confined = move || work(&Outside { parent, ask });
    let done = Confinement::default().writing([dest]).run(confined, || serve(&asked, dest, parent));
    done.map_err(|error| LayerError::io("confine the thread that fills", dest, error))?
}

/// A path, and where its content goes.
type Question = (Vec<u8>, Sender<io::Result<Option<File>>>);

/// Answers until nobody can ask any more.
fn serve(asked: &Receiver<Question>, dest: &Path, parent: &dyn ParentView) {
    for (path, answer) in asked {
        // Who does not wait for it has failed already.
        let _ = answer.send(content(dest, parent, &path));
    }
}

/// A file of a layer below as a file without a name. It may be read from a stream that stays here.
fn content(dest: &Path, parent: &dyn ParentView, path: &[u8]) -> io::Result<Option<File>> {
    let Some(mut content) = parent.content(path)? else { return Ok(None) };
    let mut copy = tempfile::tempfile_in(dest.parent().unwrap_or(dest))?;
    io::copy(&mut content, &mut copy)?;
    copy.rewind()?;
    Ok(Some(copy))
}

/// The layers below, for a thread that cannot open their files.
struct Outside<'a> {
    parent: &'a dyn ParentView,
    ask: Sender<Question>,
}

impl ParentView for Outside<'_> {
    fn node(&self, path: &[u8]) -> Option<ParentNode> {
        self.parent.node(path)
    }

    fn content(&self, path: &[u8]) -> io::Result<Option<Box<dyn Read + '_>>> {
        let gone = |_| io::Error::other("the thread that reads the layers below has ended");
        let (answer, answered) = bounded(1);
        self.ask
            .send((path.to_vec(), answer))
            .map_err(|_| io::Error::other("nobody reads the layers below"))?;
        let file = answered.recv().map_err(gone)??;
        Ok(file.map(|file| Box::new(file) as Box<dyn Read>))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;
    use std::sync::Mutex;

    use super::super::diff::ParentKind;
    use super::super::entry::Metadata;
    use super::super::unpack::{OnDiskIds, UnpackOptions, unpack};
    use super::*;

    type Outcome = std::result::Result<(), Box<dyn std::error::Error>>;

    /// Layers below whose look-up tries to get out, as a hole in the unpacker would.
    struct Escaping {
        outside: PathBuf,
        results: Mutex<Vec<(&'static str, bool)>>,
    }

    impl Escaping {
        fn try_all(&self) -> Vec<(&'static str, bool)> {
            let secret = self.outside.join("secret");
            let place = |name: &str| self.outside.join(name);
            vec![
                ("read", fs::read(&secret).is_ok()),
                ("overwrite", fs::OpenOptions::new().write(true).open(&secret).is_ok()),
                ("create", fs::write(place("new"), "").is_ok()),
                ("make a directory", fs::create_dir(place("dir")).is_ok()),
                ("link", std::os::unix::fs::symlink("x", place("link")).is_ok()),
                ("link hard", fs::hard_link(&secret, place("hard")).is_ok()),
                ("rename", fs::rename(&secret, place("renamed")).is_ok()),
                ("list", fs::read_dir(&self.outside).is_ok()),
                ("remove", fs::remove_file(place("other")).is_ok()),
            ]
        }
    }

    impl ParentView for Escaping {
        fn node(&self, path: &[u8]) -> Option<ParentNode> {
            self.results.lock().ok()?.extend(self.try_all());
            let meta = Metadata { mode: 0o644, ..Metadata::default() };
            (path == b"below").then_some(ParentNode { kind: ParentKind::Other, meta })
        }

        fn content(&self, _: &[u8]) -> io::Result<Option<Box<dyn Read + '_>>> {
            Ok(Some(Box::new(File::open(self.outside.join("secret"))?)))
        }
    }

    /// A directory that is implied, and a file of a layer below under a second name.
    fn archive() -> io::Result<Vec<u8>> {
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        header.set_size(3);
        header.set_mode(0o644);
        archive.append_data(&mut header, "dir/file", &b"abc"[..])?;
        let mut link = tar::Header::new_ustar();
        link.set_entry_type(tar::EntryType::Link);
        link.set_size(0);
        archive.append_link(&mut link, "name", "below")?;
        archive.into_inner()
    }

    #[test]
    fn what_unpacks_can_open_nothing_outside_its_directory() -> Outcome {
        if landlock_abi().is_none() {
            println!("SKIPPED what_unpacks_can_open_nothing_outside_its_directory: no Landlock");
            return Ok(());
        }
        let dir = tempfile::tempdir()?;
        let (outside, dest) = (dir.path().join("outside"), dir.path().join("dest"));
        fs::create_dir(&outside)?;
        fs::create_dir(&dest)?;
        fs::write(outside.join("secret"), "canary")?;
        fs::write(outside.join("other"), "")?;
        let parent = Escaping { outside: outside.clone(), results: Mutex::default() };
        let options = UnpackOptions { ids: OnDiskIds::AllToSelf, ..UnpackOptions::default() };
        unpack(&archive()?[..], &dest, &parent, &options)?;
        let tried = std::mem::take(&mut *parent.results.lock().map_err(|error| error.to_string())?);
        assert!(!tried.is_empty());
        let done: Vec<_> = tried.iter().filter(|(_, worked)| *worked).collect();
        assert!(done.is_empty(), "{done:?}");
        assert_eq!(fs::read_dir(&outside)?.count(), 2);
        assert_eq!(fs::read_to_string(dest.join("dir/file"))?, "abc");
        // The files of layers below are opened by the thread that waits.
        assert_eq!(fs::read_to_string(dest.join("name"))?, "canary");
        // Nothing else keeps these attempts from working, in this thread for instance.
        let tried = parent.try_all();
        assert!(tried.iter().all(|(_, worked)| *worked), "{tried:?}");
        Ok(())
    }
}
