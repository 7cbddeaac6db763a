//! Who reads what rbuild writes: every media type, compression and transport, by every independent reader
//! that this machine has. The matrix is printed, and written into `docs/images.md` with
//! `RBUILD_WRITE_DOCS=1`.

#[path = "support/registry.rs"]
mod registry;
mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use registry::TestRegistry;
use support::{Done, Lab, base, done, has, is_root, skip};

const TYPES: [&str; 2] = ["oci", "docker"];
const COMPRESSIONS: [&str; 4] = ["gzip", "estargz", "zstd", "uncompressed"];
const TRANSPORTS: [&str; 4] = ["oci-archive", "docker-archive", "layout", "registry"];
const READERS: [&str; 6] = ["tar and jq", "skopeo", "umoci", "containerd", "podman", "docker"];

/// What all scripts share. `check DIR` holds for the files of the image, `apply LAYER DIR` unpacks one.
const PRELUDE: &str = r#"
check() {
    [ "$(cat "$1/data")" = data ] && [ "$(cat "$1/made")" = made ] && [ -f "$1/bin/busybox" ] || { echo "files are missing" >&2; exit 1; }
    [ ! -L "$1/bin/vi" ] || { echo "a removed file is there" >&2; exit 1; }
}
plain() {
    case $(head -c 4 "$1" | od -An -tx1 | tr -d ' \n') in
        1f8b*) gzip -dc <"$1" ;;
        28b52ffd) zstd -qdc <"$1" ;;
        *) cat "$1" ;;
    esac
}
apply() {
    plain "$1" >"$W/layer.tar"
    tar -tf "$W/layer.tar" | sed -n 's|\.wh\.\([^/]*\)$|\1|p' | while read -r gone; do rm -rf "$2/$gone"; done
    tar -xf "$W/layer.tar" -C "$2" --exclude='.wh.*'
}
open() { # the archive or layout as a directory
    if [ -d "$IMAGE" ]; then dir=$IMAGE; else mkdir "$W/open"; tar -xf "$IMAGE" -C "$W/open"; dir=$W/open; fi
}
mkdir "$W/root"
"#;

/// How a reader reads from a transport; `None` where it cannot by its nature.
fn script(reader: &str, transport: &str) -> Option<&'static str> {
    Some(match (reader, transport) {
        ("tar and jq", "docker-archive") => {
            r#"open; for l in $(jq -r '.[0].Layers[]' "$dir/manifest.json"); do apply "$dir/$l" "$W/root"; done; check "$W/root""#
        }
        ("tar and jq", "oci-archive" | "layout") => {
            r#"open
            for b in "$dir"/blobs/sha256/*; do [ "$(sha256sum <"$b" | cut -c1-64)" = "${b##*/}" ]; done
            manifest=$dir/blobs/sha256/$(jq -r '.manifests[0].digest[7:]' "$dir/index.json")
            for l in $(jq -r '.layers[].digest[7:]' "$manifest"); do apply "$dir/blobs/sha256/$l" "$W/root"; done
            check "$W/root""#
        }
        ("skopeo", _) => {
            r#"case $TRANSPORT in
                layout) from=oci:$IMAGE:1 ;;
                registry) from=docker://$IMAGE ;;
                *) from=$TRANSPORT:$IMAGE ;;
            esac
            tls=; if [ "$TRANSPORT" = registry ]; then tls=--tls-verify=false; fi
            skopeo inspect $tls --config "$from" | jq -e '.rootfs.diff_ids | length == 3' >/dev/null
            skopeo --insecure-policy copy -q ${tls:+--src-tls-verify=false} "$from" "dir:$W/dir"
            for l in $(jq -r '.layers[].digest[7:]' "$W/dir/manifest.json"); do apply "$W/dir/$l" "$W/root"; done
            check "$W/root""#
        }
        ("umoci", "oci-archive" | "layout") => {
            r#"open; flag=; if [ "$(id -u)" != 0 ]; then flag=--rootless; fi
            umoci unpack $flag --image "$dir:1" "$W/bundle"; check "$W/bundle/rootfs""#
        }
        ("containerd", "oci-archive" | "docker-archive" | "registry") => {
            r#"c() { ctr -a "$CONTAINERD" -n "$ID" "$@"; }
            if [ "$TRANSPORT" = registry ]; then c images pull --plain-http --snapshotter native "$IMAGE" >/dev/null
            else c images import --snapshotter native "$IMAGE" >/dev/null; fi
            ref=$(c images ls -q | head -n 1)
            c images mount --snapshotter native "$ref" "$W/root" >/dev/null
            trap 'umount "$W/root"' EXIT
            check "$W/root""#
        }
        ("podman", _) => {
            r#"p() { podman --root "$W/p" --runroot "$W/r" --storage-driver vfs "$@"; }
            # It takes the path for a name, which has no capitals.
            copy=${TMPDIR:-/tmp}/rbuild-$ID-$$
            trap 'umount "$W/p/vfs" 2>/dev/null || :; rm -rf "$copy"' EXIT
            case $TRANSPORT in
                layout) cp -r "$IMAGE" "$copy"; p pull -q "oci:$copy:1" >/dev/null ;;
                registry) p pull -q --tls-verify=false "$IMAGE" >/dev/null ;;
                *) p load -q -i "$IMAGE" >/dev/null ;;
            esac
            check "$(p image mount "$(p images -q | head -n 1)")""#
        }
        ("docker", "oci-archive" | "docker-archive") => {
            r#"$RBUILD_TEST_DOCKER load -q <"$IMAGE" >/dev/null
            id=$($RBUILD_TEST_DOCKER create "$NAME" true)
            trap '$RBUILD_TEST_DOCKER rm "$id" >/dev/null; $RBUILD_TEST_DOCKER rmi "$NAME" >/dev/null' EXIT
            $RBUILD_TEST_DOCKER export "$id" | tar -x -C "$W/root"
            check "$W/root""#
        }
        _ => return None,
    })
}

/// What the readers' versions of today are known not to read, whoever wrote it; all else has to be read.
fn known(reader: &str, place: &Place) -> Option<&'static str> {
    match (reader, place.types, place.compression, place.transport) {
        ("umoci", "docker", ..) | ("skopeo" | "podman", "docker", _, "layout") => Some("OCI types only"),
        ("umoci", _, "zstd", _) => Some("no zstd"),
        ("skopeo" | "podman", "docker", "zstd", "oci-archive" | "registry")
        | ("containerd", "docker", "zstd", _) => Some("not this type"),
        // Read by engines that keep their images in containerd.
        ("docker", _, _, "oci-archive") => Some("manifest.json only"),
        _ => None,
    }
}

/// A containerd of its own.
struct Containerd {
    process: Child,
    dir: tempfile::TempDir,
}

impl Containerd {
    fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("rbuild-ctr-").tempdir().expect("a directory");
        let log = fs::File::create(dir.path().join("log")).expect("log");
        let process = Command::new("containerd")
            .arg("--root")
            .arg(dir.path().join("root"))
            .arg("--state")
            .arg(dir.path().join("state"))
            .arg("--address")
            .arg(dir.path().join("sock"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("log"))
            .stderr(log)
            .spawn()
            .expect("containerd");
        let begun = Instant::now();
        let ready = |path: &Path| {
            let mut command = Command::new("ctr");
            let asked = command.arg("-a").arg(path).args(["images", "ls"]).stderr(Stdio::null());
            asked.stdout(Stdio::null()).status().is_ok_and(|status| status.success())
        };
        while !ready(&dir.path().join("sock")) {
            assert!(begun.elapsed() < Duration::from_secs(300), "containerd does not answer");
            std::thread::sleep(Duration::from_millis(100));
        }
        Containerd { process, dir }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("sock")
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// One image in one place.
struct Place {
    types: &'static str,
    compression: &'static str,
    transport: &'static str,
    image: String,
    name: String,
}

/// Builds an image in all forms of one pair, in one go. `None` where rbuild refuses the pair.
fn build(
    lab: &Lab,
    context: &Path,
    registry: &str,
    types: &'static str,
    compression: &'static str,
) -> Option<Vec<Place>> {
    let name = format!("{registry}/rbuild-matrix-{types}-{compression}:1");
    let options =
        format!("compression={compression},force-compression=true,oci-mediatypes={}", types == "oci");
    let at = |end: &str| lab.out(&format!("{types}-{compression}{end}")).display().to_string();
    let (oci, docker, layout) = (at(".oci.tar"), at(".docker.tar"), at(""));
    let outputs = [
        format!("type=oci,dest={oci},{options}"),
        format!("type=docker,dest={docker},{options}"),
        format!("type=oci,tar=false,dest={layout},{options}"),
        format!("type=image,push=true,{options}"),
    ];
    let mut args = vec!["build".to_owned(), "--progress=plain".into(), "-t".into(), name.clone()];
    args.extend(lab.bases());
    args.extend(outputs.into_iter().flat_map(|output| ["-o".to_owned(), output]));
    args.push(context.display().to_string());
    let built = lab.run(&args);
    if (types, compression) == ("docker", "estargz") {
        assert!(built.code == 2 && built.err.contains("needs annotations"), "{}", built.err);
        return None;
    }
    assert_eq!(built.code, 0, "{types} {compression}: {}", built.err);
    let place = |transport, image: &String| Place {
        types,
        compression,
        transport,
        image: image.clone(),
        name: name.clone(),
    };
    let images = [&oci, &docker, &layout, &name];
    Some(TRANSPORTS.into_iter().zip(images).map(|(transport, image)| place(transport, image)).collect())
}

fn read(script: &str, place: &Place, number: usize, containerd: Option<&Path>) -> Done {
    let work = tempfile::Builder::new().prefix("rbuild-read-").tempdir().expect("a directory");
    let mut command = Command::new("sh");
    command.arg("-euc").arg(format!("{PRELUDE}{script}")).stdin(Stdio::null());
    command.env("W", work.path()).env("IMAGE", &place.image).env("NAME", &place.name);
    command.env("TRANSPORT", place.transport).env("ID", format!("matrix{number}"));
    command.env("CONTAINERD", containerd.unwrap_or(Path::new("")));
    done(command.output().expect("sh"))
}

/// The readers of this machine; the others are told as skipped.
fn readers(test: &str) -> Vec<&'static str> {
    let mut present = Vec::new();
    for reader in READERS {
        let (programs, root): (&[&str], bool) = match reader {
            "tar and jq" => (&["tar", "jq", "gzip", "zstd"], false),
            "containerd" => (&["containerd", "ctr"], true),
            "podman" => (&["podman"], true),
            // A daemon is nothing that a test should expect; whoever has one says so.
            "docker" if std::env::var_os("RBUILD_TEST_DOCKER").is_none() => continue,
            "docker" => (&[], false),
            other => (&[other][..], false),
        };
        match programs.iter().find(|program| !has(program)) {
            Some(missing) => skip(test, &format!("{missing} is not installed")),
            None if root && !is_root() => skip(test, &format!("{reader} is used as root only")),
            None => present.push(reader),
        }
    }
    present
}

#[test]
fn every_reader_reads_every_form() {
    let test = "every_reader_reads_every_form";
    if base("busybox").is_none() {
        return skip(test, "tests/setup has not made the base images");
    }
    let Some(server) = TestRegistry::start().expect("a registry that starts") else {
        return skip(test, "docker-registry is not installed");
    };
    let readers = readers(test);
    let containerd = readers.contains(&"containerd").then(Containerd::start);
    let socket = containerd.as_ref().map(Containerd::socket);
    let lab = Lab::new();
    let dockerfile = "FROM busybox\nCOPY data /data\nRUN echo made > /made && rm /bin/vi\n";
    let context = lab.context(&[("Dockerfile", dockerfile), ("data", "data\n")]);
    let pairs = TYPES.into_iter().flat_map(|types| COMPRESSIONS.map(|compression| (types, compression)));
    let built = pairs.map(|(types, compression)| build(&lab, &context, server.host(), types, compression));
    let places: Vec<Place> = built.flatten().flatten().collect();
    assert_eq!(places.len(), 28);

    let (next, rows) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some(place) = places.get(number) else { return };
                    let cell = |reader: &&'static str| {
                        let script = script(reader, place.transport).filter(|_| readers.contains(reader))?;
                        Some(read(script, place, number, socket.as_deref()))
                    };
                    let cells: Vec<Option<Done>> = READERS.iter().map(cell).collect();
                    rows.lock().expect("rows").push((number, cells));
                }
            });
        }
    });
    let mut rows = rows.into_inner().expect("rows");
    rows.sort_by_key(|(number, _)| *number);

    let mut table = format!("| media types | compression | place | {} |\n", READERS.join(" | "));
    table.push_str(&format!("|{}\n", " --- |".repeat(3 + READERS.len())));
    let mut wrong = Vec::new();
    for (place, (_, cells)) in places.iter().zip(&rows) {
        let Place { types, compression, transport, .. } = place;
        table.push_str(&format!("| {types} | {compression} | {transport} |"));
        for (reader, cell) in READERS.iter().zip(cells) {
            let text = match cell {
                None if script(reader, transport).is_none() => "–",
                None => "not here",
                Some(done) if done.code == 0 => "yes",
                Some(done) => known(reader, place).unwrap_or_else(|| {
                    wrong.push(format!("{reader}, {types} {compression} {transport}: {}", done.err));
                    "no"
                }),
            };
            table.push_str(&format!(" {text} |"));
        }
        table.push('\n');
    }
    println!("{table}");
    if std::env::var_os("RBUILD_WRITE_DOCS").is_some() {
        write_docs(test, &table);
    }
    assert!(wrong.is_empty(), "{table}\n{}", wrong.join("\n"));
}

fn write_docs(test: &str, table: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/images.md");
    let text = fs::read_to_string(&path).expect("docs/images.md");
    let (begin, end) = (format!("<!-- matrix: `{test}` -->\n"), "<!-- end of matrix -->");
    let from = text.find(&begin).expect(&begin) + begin.len();
    let to = text.find(end).expect(end);
    fs::write(&path, format!("{}\n{table}\n{}", &text[..from], &text[to..])).expect("write");
}
