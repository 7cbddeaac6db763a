//! What skopeo and umoci make of our archives, and we of theirs.

use std::path::Path;
use std::process::Command;

use super::fixture::*;
use crate::compress::CompressionAlgorithm::{Gzip, Uncompressed};
use crate::export::{Dest, docker, oci};
use crate::image::{Family, Selector, open_layout};
use crate::store::Store;

fn has(tool: &str) -> bool {
    let found = Command::new(tool).arg("--version").output().is_ok_and(|output| output.status.success());
    if !found {
        eprintln!("SKIPPED: {tool} is not installed");
    }
    found
}

fn run(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).output()?;
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(format!("{program} {arguments:?}: {error}").into());
    }
    Ok(String::from_utf8(output.stdout)?)
}

fn at(dir: &Path, name: &str) -> String {
    dir.join(name).display().to_string()
}

#[test]
fn skopeo_reads_every_form_and_we_read_the_archive_it_writes() -> Result {
    if !has("skopeo") {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let dir = dir.path();
    let store = Store::open(&dir.join("store"))?;
    let as_oci = image(&store, "amd64", Uncompressed, Family::Oci)?;
    let as_docker = image(&store, "amd64", Gzip, Family::Docker)?;
    oci::write_archive(
        &store,
        &[export_image(&as_oci, &["app:1"])?],
        &Dest::File(dir.join("oci.tar")),
        &go_on()?,
    )?;
    oci::write_directory(&store, &[export_image(&as_oci, &["app:1"])?], &dir.join("oci"), &go_on()?)?;
    let images = [export_image(&as_docker, &["app:1", "r.example/app:2"])?];
    docker::write_archive(&store, &images, &Dest::File(dir.join("docker.tar")), &go_on()?)?;

    for (number, (form, digest)) in [
        (format!("oci-archive:{}:1", at(dir, "oci.tar")), as_oci.config_digest),
        (format!("oci:{}:1", at(dir, "oci")), as_oci.config_digest),
        (format!("docker-archive:{}:app:1", at(dir, "docker.tar")), as_docker.config_digest),
        (format!("docker-archive:{}:r.example/app:2", at(dir, "docker.tar")), as_docker.config_digest),
    ]
    .into_iter()
    .enumerate()
    {
        let config = run("skopeo", &["inspect", "--config", &form])?;
        let config: serde_json::Value = serde_json::from_str(&config)?;
        assert_eq!(config["config"]["Labels"]["a"], "1", "{form}");
        // Copying verifies every blob and diff ID.
        let copy = at(dir, &format!("copy-{number}"));
        run("skopeo", &["copy", "--insecure-policy", &form, &format!("dir:{copy}")])?;
        assert!(Path::new(&copy).join(digest.hex()).is_file(), "{form}");
    }

    let theirs = at(dir, "theirs.tar");
    let from = format!("oci-archive:{}:1", at(dir, "oci.tar"));
    run("skopeo", &["copy", "--insecure-policy", &from, &format!("docker-archive:{theirs}:app:1")])?;
    let fresh = Store::open(&dir.join("fresh"))?;
    let source = open_layout(Path::new(&theirs), &fresh)?;
    let found = source.resolve(&Selector::parse("app:1"), &amd64())?;
    assert_eq!(found.manifest.config.digest, as_oci.config_digest);
    for layer in &found.layers {
        source.copy_blob_into(&fresh, layer)?;
    }
    Ok(())
}

#[test]
fn umoci_lists_and_unpacks_a_layout() -> Result {
    if !has("umoci") {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let dir = dir.path();
    let store = Store::open(&dir.join("store"))?;
    let assembled = image(&store, "amd64", Gzip, Family::Oci)?;
    oci::write_directory(
        &store,
        &[export_image(&assembled, &["app:1", "app:two"])?],
        &dir.join("oci"),
        &go_on()?,
    )?;
    let listed = run("umoci", &["ls", "--layout", &at(dir, "oci")])?;
    assert_eq!(listed.lines().collect::<Vec<_>>(), ["1", "two"]);
    let image = format!("{}:1", at(dir, "oci"));
    let bundle = at(dir, "bundle");
    run("umoci", &["unpack", "--rootless", "--image", &image, &bundle])?;
    assert_eq!(std::fs::read_to_string(format!("{bundle}/rootfs/hello"))?, "hello\n");
    assert_eq!(std::fs::read_to_string(format!("{bundle}/rootfs/arch"))?, "amd64");
    Ok(())
}
