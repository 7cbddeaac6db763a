//! What users and their scripts hand over by accident, and what others hand over on purpose: empty values,
//! links and pipes as Dockerfiles, text that drives a terminal.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use support::{Lab, done};

const COPY: &[(&str, &str)] =
    &[("Dockerfile", "FROM scratch\nCOPY a /etc/passwd\n"), ("a", "of the image\n")];

#[test]
fn an_empty_value_of_an_option_is_as_good_as_none() {
    let lab = Lab::new();
    let context = lab.context(COPY);
    let here = lab.context(&[("etc/passwd", "mine\n")]);
    let build = |args: &[&str]| {
        let mut command = lab.rbuild();
        command.current_dir(&here).arg("build").args(args).arg(&context);
        done(command.output().expect("rbuild starts"))
    };
    let wanted = build(&["-q"]);
    assert_eq!(wanted.code, 0, "{}", wanted.err);
    for option in [
        "--output",
        "--file",
        "--progress",
        "--target",
        "--iidfile",
        "--metadata-file",
        "--platform",
        "--network",
        "--annotation",
        "--build-context",
        "--cache-from",
        "--cache-to",
        "--no-cache-filter",
        "--secret",
        "--ssh",
        "--allow",
        "--add-host",
        "--cgroup-parent",
        "--cpuset-cpus",
        "--cpuset-mems",
        "--isolation",
        "--runtime",
        "--call",
        "--builder",
        "--insecure-registry",
        "--root",
        "--registries",
    ] {
        for args in [vec!["-q", option, ""], vec!["-q", &format!("{option}=")]] {
            let ended = build(&args);
            assert_eq!((ended.code, &ended.out), (0, &wanted.out), "{args:?}: {}", ended.err);
        }
    }
    // Where Docker refuses it, so does rbuild.
    for option in ["--tag", "--build-arg", "--label", "--ulimit", "--memory", "--shm-size", "--timeout"] {
        let ended = build(&[option, ""]);
        assert!(ended.code == 2 && ended.err.contains("error:"), "{option}: {} {}", ended.code, ended.err);
    }
    let check =
        done(lab.rbuild().args(["check", "-f", "", "-o", ""]).arg(&context).output().expect("starts"));
    assert_eq!(check.code, 0, "{}", check.err);
    let plan =
        done(lab.rbuild().args(["plan", "-f", "", "--target="]).arg(&context).output().expect("starts"));
    assert_eq!(plan.code, 0, "{}", plan.err);
    assert_eq!(fs::read_to_string(here.join("etc/passwd")).expect("mine"), "mine\n");
    assert_eq!(fs::read_dir(&here).expect("list").count(), 1);
}

#[test]
fn an_empty_path_never_means_the_current_directory() {
    let lab = Lab::new();
    let context = lab.context(COPY).display().to_string();
    let here = lab.context(&[]);
    for args in [
        vec!["build", "-o", "type=local,dest=", &context],
        vec!["build", "-o", "type=oci,tar=false,dest=", &context],
        vec!["build", "-o", "type=tar,dest=", &context],
        vec!["build", "--build-context", "x=", &context],
        vec!["build", "--build-context", "x=oci-layout://", &context],
        vec!["build", "--build-context", "x=oci-layout://:tag", &context],
        vec!["build", ""],
        vec!["plan", ""],
        vec!["copy", "store:x", "oci:"],
        vec!["copy", "store:x", "oci::tag"],
        vec!["copy", "oci-archive::tag", "store:x"],
    ] {
        let ended = done(lab.rbuild().current_dir(&here).args(&args).output().expect("rbuild starts"));
        assert_eq!(ended.code, 2, "{args:?}: {}", ended.err);
        assert_eq!(fs::read_dir(&here).expect("list").count(), 0, "{args:?}");
    }
}

#[test]
fn files_of_others_are_named_before_an_output_replaces_them() {
    let lab = Lab::new();
    let context = lab.context(COPY);
    let here = lab.context(&[("etc/passwd", "mine\n"), ("kept", "mine\n")]);
    let output = here.display().to_string();
    let first = lab.build(&context, &["-o", &output]);
    assert_eq!(first.code, 0, "{}", first.err);
    assert!(first.err.contains("rbuild did not write there: replacing etc/passwd\n"), "{}", first.err);
    assert_eq!(fs::read_to_string(here.join("etc/passwd")).expect("new"), "of the image\n");
    assert_eq!(fs::read_to_string(here.join("kept")).expect("kept"), "mine\n");

    let new = lab.out("new").display().to_string();
    for _ in 0..2 {
        let quiet = lab.build(&context, &["-o", &new]);
        assert!(quiet.code == 0 && !quiet.err.contains("warning"), "{}", quiet.err);
    }
    let blocked = lab.context(&[("etc/passwd/", "")]);
    let refused = lab.build(&context, &["-o", &blocked.display().to_string()]);
    assert!(refused.code == 6 && refused.err.contains("a directory is in the way"), "{}", refused.err);
    assert!(blocked.join("etc/passwd").is_dir());
}

#[test]
fn programs_in_an_output_do_not_lend_the_rights_of_whoever_built_them() {
    let lab = Lab::new();
    let context = lab.context(&[("Dockerfile", "FROM scratch\nCOPY --chmod=4755 a /a\n"), ("a", "x")]);
    let mode = |out: &Path| fs::metadata(out.join("a")).expect("a").permissions().mode() & 0o7777;
    let plain = lab.out("plain");
    let ended = lab.build(&context, &["-o", &plain.display().to_string()]);
    assert_eq!(ended.code, 0, "{}", ended.err);
    assert_eq!(mode(&plain), 0o755);
    assert!(
        ended.err.contains("1 set-user-ID or set-group-ID file (keep-special=true keeps them)"),
        "{}",
        ended.err
    );
    let kept = lab.out("kept");
    let ended =
        lab.build(&context, &["-o", &format!("type=local,dest={},keep-special=true", kept.display())]);
    assert_eq!(ended.code, 0, "{}", ended.err);
    assert_eq!(mode(&kept), 0o4755);
    assert!(!ended.err.contains("warning"), "{}", ended.err);
}
