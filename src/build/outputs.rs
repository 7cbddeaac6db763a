//! `-o`: the image to files.

use std::collections::HashMap;
use std::io::{self, Read};
use std::sync::Arc;
use std::time::Instant;

use crate::cancel::Cancel;
use crate::event::{Event, Events, Outcome, VertexKind};
use crate::export::{self, Dest, ExportImage, RootTree};
use crate::image::{Assembled, Family, Image, Reference, assemble};
use crate::layer::{Entry, EntryKind};
use crate::snapshot::{Chain, NodeKind, Snapshots, Tree, path_order};

use super::engine::Engine;
use super::failure::{Failure, FailureKind};
use super::request::{BuildRequest, OutputKind, OutputSpec};

/// Refuses outputs that cannot work before anything is built.
pub(super) fn check(request: &BuildRequest) -> Result<(), Failure> {
    let to_stdout = request.outputs.iter().filter(|output| output.dest == "-").count();
    if to_stdout > 1 {
        return Err(Failure::new(FailureKind::Usage, "only one output can go to standard output"));
    }
    for output in &request.outputs {
        let directory = matches!(output.kind, OutputKind::Local | OutputKind::OciDir);
        if directory && output.dest == "-" {
            return Err(Failure::new(
                FailureKind::Usage,
                "a directory output needs a path as its dest, not -",
            ));
        }
    }
    Ok(())
}

/// Writes all outputs, in order.
pub(super) fn write_all(
    engine: &Engine,
    request: &BuildRequest,
    image: &Image,
    assembled: &Assembled,
    chain: &Chain,
    names: &[Reference],
    events: &Events,
    cancel: &Cancel,
) -> Result<(), Failure> {
    for output in &request.outputs {
        let vertex = events.add(VertexKind::Export, title(output));
        events.send(Event::Started { vertex });
        let begun = Instant::now();
        let result = write(engine, request, output, image, assembled, chain, names, events, cancel);
        let outcome = match &result {
            Ok(()) => Outcome::Done,
            Err(failure) => Outcome::Failed(failure.message.clone()),
        };
        events.send(Event::Finished { vertex, outcome, elapsed: begun.elapsed() });
        result?;
    }
    Ok(())
}

fn title(output: &OutputSpec) -> String {
    let what = match output.kind {
        OutputKind::Oci | OutputKind::OciDir => "exporting to oci image format",
        OutputKind::Docker => "exporting to docker image format",
        OutputKind::Local => "exporting files",
        OutputKind::Tar => "exporting files as a tarball",
    };
    format!("{what}: {}", if output.dest == "-" { "standard output" } else { &output.dest })
}

fn write(
    engine: &Engine,
    request: &BuildRequest,
    output: &OutputSpec,
    image: &Image,
    assembled: &Assembled,
    chain: &Chain,
    names: &[Reference],
    events: &Events,
    cancel: &Cancel,
) -> Result<(), Failure> {
    let dest = Dest::parse(&output.dest, &request.cwd);
    let export = |assembled: &Assembled| ExportImage {
        descriptor: assembled.descriptor.clone(),
        names: names.to_vec(),
        created: image.config.created.clone(),
    };
    match output.kind {
        OutputKind::Oci => export::oci::write_archive(engine.store(), &[export(assembled)], &dest, cancel)?,
        OutputKind::OciDir => {
            let path = request.cwd.join(&output.dest);
            export::oci::write_directory(engine.store(), &[export(assembled)], &path, cancel)?;
        }
        OutputKind::Docker => {
            let docker = assemble(engine.store(), image, Family::Docker)
                .map_err(|error| Failure::new(FailureKind::Output, error.to_string()))?;
            export::docker::write_archive(engine.store(), &[export(&docker)], &dest, cancel)?;
        }
        OutputKind::Local => {
            let files = ImageFiles::new(&engine.snapshots, chain)?;
            let path = request.cwd.join(&output.dest);
            let report = export::local::write(&files, &path, request.source_date_epoch, cancel)?;
            if !report.skipped_devices.is_empty() {
                events.warn(format!(
                    "{} device files were left out of {}",
                    report.skipped_devices.len(),
                    output.dest
                ));
            }
        }
        OutputKind::Tar => {
            let files = ImageFiles::new(&engine.snapshots, chain)?;
            export::tar::write(&files, &dest, request.source_date_epoch, cancel)?;
        }
    }
    Ok(())
}

/// The final root file system, read through layer directories.
struct ImageFiles {
    snapshots: Snapshots,
    chain: Chain,
    tree: Arc<Tree>,
}

impl ImageFiles {
    fn new(snapshots: &Snapshots, chain: &Chain) -> Result<Self, Failure> {
        let tree = snapshots.complete_tree(chain)?;
        Ok(ImageFiles { snapshots: snapshots.clone(), chain: chain.clone(), tree })
    }
}

impl RootTree for ImageFiles {
    fn entries(&self) -> io::Result<Vec<Entry>> {
        let mut nodes: Vec<_> = self.tree.below(b"").collect();
        nodes.sort_by(|a, b| path_order(a.0, b.0));
        // The group's first name may have been deleted since: the first that is left takes its place.
        let mut first: HashMap<(usize, &[u8]), Vec<u8>> = HashMap::new();
        let mut entries = Vec::with_capacity(nodes.len());
        for (path, node) in nodes {
            let mut kind = match &node.kind {
                NodeKind::File { size, digest } => EntryKind::File { size: *size, digest: *digest },
                NodeKind::Dir => EntryKind::Dir,
                NodeKind::Symlink(target) => EntryKind::Symlink(target.clone()),
                NodeKind::CharDevice(major, minor) => EntryKind::CharDevice { major: *major, minor: *minor },
                NodeKind::BlockDevice(major, minor) => {
                    EntryKind::BlockDevice { major: *major, minor: *minor }
                }
                NodeKind::Fifo => EntryKind::Fifo,
            };
            if let Some(link) = &node.link {
                match first.get(&(node.layer, &**link)) {
                    Some(target) => kind = EntryKind::Hardlink(target.clone()),
                    None => {
                        first.insert((node.layer, link), path.to_vec());
                    }
                }
            }
            entries.push(Entry { path: path.to_vec(), kind, meta: node.meta.clone(), offset: 0 });
        }
        Ok(entries)
    }

    fn open(&self, path: &[u8]) -> io::Result<Box<dyn Read + Send>> {
        let Some(node) = self.tree.lookup(path) else { return Err(io::ErrorKind::NotFound.into()) };
        let dir = self
            .snapshots
            .layer_dir(&self.chain, node.layer)
            .map_err(|error| io::Error::other(error.to_string()))?;
        Ok(Box::new(crate::fs::open_file_in(&dir, path)?))
    }
}
