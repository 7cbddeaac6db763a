//! The image of rbuild for CI: `packaging/image/Dockerfile`.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::support::{Image, Lab, base, bases_or_skip};

/// The directory with the Dockerfile.
fn context() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/image")
}

/// Flags with what takes the place of the release's programs and of Debian's certificates. For this machine that is
/// busybox, which tells by which name it was called.
fn flags(lab: &Lab) -> Vec<String> {
    let (binaries, certificates) = (lab.path().join("binaries"), lab.path().join("certificates"));
    if !binaries.exists() {
        let unpacked =
            lab.context(&[("Dockerfile", "FROM busybox AS b\nFROM scratch\nCOPY --from=b /bin/busybox /\n")]);
        let done = lab.build(&unpacked, &["-o", &lab.out("busybox").display().to_string()]);
        assert_eq!(done.code, 0, "{}", done.err);
        for architecture in ["amd64", "arm64"] {
            fs::create_dir_all(binaries.join(architecture)).expect("mkdir");
            fs::copy(lab.out("busybox/busybox"), binaries.join(architecture).join("rbuild")).expect("copy");
        }
        // It has to become executable, and to be taken by its architecture.
        let path = binaries.join("arm64/rbuild");
        fs::remove_file(&path).expect("remove");
        fs::write(&path, "for arm64\n").expect("write");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("chmod");
        fs::create_dir_all(certificates.join("etc/ssl/certs")).expect("mkdir");
        fs::write(certificates.join("etc/ssl/certs/ca-certificates.crt"), "certificates\n").expect("write");
    }
    let context = |name: &str, path: &Path| format!("--build-context={name}={}", path.display());
    let busybox =
        format!("--build-context=busybox=oci-layout://{}", base("busybox").expect("a base").display());
    let mut all = vec![busybox, "--build-arg=BUSYBOX=busybox".into(), "--reproducible".into()];
    all.extend([context("binaries", &binaries), context("certificates", &certificates)]);
    all
}

fn built(lab: &Lab, more: &[&str], name: &str) -> Image {
    let archive = lab.out(name);
    let output = format!("-o=type=oci,dest={}", archive.display());
    let mut args = vec!["build".to_owned(), "--progress=plain".into(), output];
    args.extend(flags(lab));
    args.extend(more.iter().map(|arg| (*arg).to_owned()));
    args.push(context().display().to_string());
    let done = lab.run(&args);
    assert_eq!(done.code, 0, "{}", done.err);
    Image::read(&archive, lab.path(), done)
}

#[test]
fn the_image_for_ci_has_what_kaniko_s_has_and_one_digest() {
    if !bases_or_skip("the_image_for_ci_has_what_kaniko_s_has_and_one_digest") {
        return;
    }
    let lab = Lab::new();
    let image = built(&lab, &["--platform=linux/amd64"], "one.tar");
    let config = &image.config["config"];
    assert_eq!(config["Entrypoint"], json!(["/kaniko/executor"]));
    assert_eq!(config["WorkingDir"], "/workspace");
    assert_eq!(config["User"], json!(null));
    let env = config["Env"].to_string();
    for word in ["PATH=/usr/local/bin:/kaniko", "DOCKER_CONFIG=/kaniko/.docker", "RBUILD_ROOT=/rbuild/store"]
    {
        assert!(env.contains(word), "{env}");
    }
    assert_eq!(
        fs::read_link(image.at("/kaniko/executor")).expect("a link"),
        Path::new("/usr/local/bin/rbuild")
    );
    assert_eq!(image.owner("/usr/local/bin/rbuild"), "755 0:0");
    assert_eq!(image.text("/etc/ssl/certs/ca-certificates.crt"), "certificates\n");
    assert!(image.text("/etc/passwd").lines().any(|line| line.starts_with("nonroot:x:65532:65532:")));
    for (path, owner) in [
        ("/tmp", "1777 0:0"),
        ("/rbuild", "1777 0:0"),
        ("/kaniko", "1777 0:0"),
        ("/root", "700 0:0"),
        ("/home/nonroot", "755 65532:65532"),
        ("/workspace", "755 0:0"),
    ] {
        assert_eq!(image.owner(path), owner, "{path}");
    }
    assert!(!image.exists("/bin"));
    let arm = built(&lab, &["--platform=linux/arm64"], "arm.tar");
    assert_eq!(arm.config["architecture"], "arm64");
    assert_eq!(arm.text("/usr/local/bin/rbuild"), "for arm64\n");
    assert_eq!(arm.owner("/usr/local/bin/rbuild"), "755 0:0");
    // Elsewhere, where nothing is cached.
    let other = Lab::new();
    let again = built(&other, &["--platform=linux/amd64"], "one.tar");
    assert_eq!(again.manifest, image.manifest);
}

#[test]
fn the_debug_image_has_a_shell() {
    if !bases_or_skip("the_debug_image_has_a_shell") {
        return;
    }
    let lab = Lab::new();
    let mut args = vec!["build".to_owned(), "--target=debug".into(), "-t=rbuild:debug".into()];
    args.extend(flags(&lab));
    args.push(context().display().to_string());
    let done = lab.run(&args);
    assert_eq!(done.code, 0, "{}", done.err);
    let run = |words: &[&str]| lab.run([&["run"], words].concat());
    let shell = run(&[
        "--entrypoint",
        "/busybox/sh",
        "rbuild:debug",
        "-c",
        "readlink /bin/sh; echo $PATH | tail -c 9; ls /kaniko",
    ]);
    assert_eq!((shell.code, shell.out.as_str()), (0, "/busybox/sh\n/busybox\nexecutor\n"), "{}", shell.err);
    // The link leads to the program, which sees by which name it was called.
    let called = run(&["rbuild:debug", "--help"]);
    assert!(format!("{}{}", called.out, called.err).contains("executor: applet not found"), "{}", called.err);
}
