//! Every directory of testdata/build is a Dockerfile with its context and what the image must be.
//! Images are built by the real program and read by skopeo and umoci, not by rbuild's own reader.
//!
//! Lines of `expect`: `file|dir|fifo PATH MODE UID:GID [= TEXT]`, `link PATH TARGET`, `absent PATH`,
//! `same PATH PATH` (hard links), `json POINTER VALUE` and `null POINTER` (of the config, as skopeo
//! shows it), `raw POINTER VALUE` (of the config blob, for what OCI tools do not know), `layers N`,
//! `history N TEXT`. `%20` stands for a blank in a path, `\n` for a line end in a text.

mod support;

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use support::{Image, Lab, Who, base, has, is_root, skip, user_of};

fn cases() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/build");
    let mut cases: Vec<PathBuf> =
        fs::read_dir(dir).expect("cases").flatten().map(|entry| entry.path()).collect();
    cases.sort();
    cases
}

fn ready(test: &str) -> bool {
    let missing = ["skopeo", "umoci"].into_iter().find(|tool| !has(tool));
    let reason = match missing {
        Some(tool) => Some(format!("{tool} is not installed")),
        None if base("busybox").is_none() => Some("tests/setup has not made the base images".into()),
        None if !is_root() => Some("only root can unpack images with their owners".into()),
        None => None,
    };
    if let Some(reason) = &reason {
        skip(test, reason);
    }
    reason.is_none()
}

/// Copies a case where the lab's user can read it.
fn context(case: &Path, lab: &Lab) -> PathBuf {
    let target = lab.path().join("context");
    let done = std::process::Command::new("cp").arg("-a").arg(case).arg(&target).status().expect("cp");
    assert!(done.success());
    // A checkout's umask must not decide what the cases expect.
    support::tool("chmod", &["-R".as_ref(), "u=rwX,go=rX".as_ref(), target.as_os_str()]);
    for name in ["expect", "args"] {
        let _ = fs::remove_file(target.join(name));
    }
    target
}

fn run_case(case: &Path, who: Who) -> Vec<String> {
    let lab = Lab::as_user(who);
    let args = fs::read_to_string(case.join("args")).unwrap_or_default();
    let args: Vec<&str> = args.split_whitespace().collect();
    let image = lab.build_image(&context(case, &lab), &args);
    let expect = fs::read_to_string(case.join("expect")).expect("expect");
    let lines = expect.lines().filter(|line| !line.trim().is_empty());
    lines.filter_map(|line| check(&image, line).err().map(|error| format!("{line}\n      {error}"))).collect()
}

fn check(image: &Image, line: &str) -> Result<(), String> {
    let (kind, rest) = line.split_once(' ').ok_or("bad line")?;
    match kind {
        "file" | "dir" | "fifo" => check_file(image, kind, rest),
        "link" => {
            let (path, target) = rest.split_once(' ').ok_or("bad line")?;
            let found = fs::read_link(image.at(path)).map_err(|error| error.to_string())?;
            equal(&found.display().to_string(), target)
        }
        "absent" if image.exists(rest) => Err("exists".into()),
        "absent" => Ok(()),
        "same" => {
            let (a, b) = rest.split_once(' ').ok_or("bad line")?;
            let ino = |path: &str| fs::symlink_metadata(image.at(path)).map(|meta| meta.ino());
            match (ino(a), ino(b)) {
                (Ok(a), Ok(b)) => equal(&a.to_string(), &b.to_string()),
                other => Err(format!("{other:?}")),
            }
        }
        "json" | "raw" => {
            let (pointer, value) = rest.split_once(' ').ok_or("bad line")?;
            let value: serde_json::Value = serde_json::from_str(value).map_err(|error| error.to_string())?;
            let config = if kind == "raw" { image.raw_config() } else { image.config.clone() };
            let found = config.pointer(pointer).cloned().unwrap_or_default();
            equal(&found.to_string(), &value.to_string())
                .or_else(|error| if found == value { Ok(()) } else { Err(error) })
        }
        "null" => match image.raw_config().pointer(rest) {
            None | Some(serde_json::Value::Null) => Ok(()),
            Some(value) => Err(format!("is {value}")),
        },
        "layers" => equal(&image.layers().to_string(), rest),
        "history" => {
            let (number, text) = rest.split_once(' ').ok_or("bad line")?;
            let number: usize = number.parse().map_err(|_| "bad number")?;
            equal(image.history().get(number + 1).map_or("", String::as_str), text)
        }
        other => Err(format!("unknown expectation {other:?}")),
    }
}

fn check_file(image: &Image, kind: &str, rest: &str) -> Result<(), String> {
    let (facts, text) = match rest.split_once(" = ") {
        Some((facts, text)) => (facts, Some(text)),
        None => (rest, None),
    };
    let (path, owner) = facts.split_once(' ').ok_or("bad line")?;
    let path = path.replace("%20", " ");
    let meta = fs::symlink_metadata(image.at(&path)).map_err(|error| error.to_string())?;
    let right = match kind {
        "file" => meta.is_file(),
        "dir" => meta.is_dir(),
        _ => meta.file_type().is_fifo(),
    };
    if !right {
        return Err(format!("is no {kind}"));
    }
    equal(&image.owner(&path), owner)?;
    match text {
        Some(text) => equal(&image.text(&path).replace('\n', "\\n"), text),
        None => Ok(()),
    }
}

fn equal(found: &str, expected: &str) -> Result<(), String> {
    if found == expected { Ok(()) } else { Err(format!("found {found:?}")) }
}

fn run_all(who: Who) {
    let mut failed = Vec::new();
    let cases = cases();
    assert!(cases.len() >= 25, "only {} cases", cases.len());
    for case in &cases {
        let name = case.file_name().expect("name").to_string_lossy().into_owned();
        let result = std::panic::catch_unwind(|| run_case(case, who));
        match result {
            Ok(errors) if errors.is_empty() => {}
            Ok(errors) => failed.push(format!("{name}:\n    {}", errors.join("\n    "))),
            Err(panic) => {
                let text = panic.downcast_ref::<String>().cloned().unwrap_or_else(|| "panic".into());
                failed.push(format!("{name}: {text}"));
            }
        }
    }
    assert!(
        failed.is_empty(),
        "{} of {} cases failed as {who:?}:\n{}",
        failed.len(),
        cases.len(),
        failed.join("\n")
    );
}

#[test]
fn images_are_what_their_dockerfiles_say() {
    if ready("images_are_what_their_dockerfiles_say") {
        run_all(Who::Caller);
    }
}

#[test]
fn rootless_builds_make_the_same_images() {
    let test = "rootless_builds_make_the_same_images";
    if !ready(test) {
        return;
    }
    if user_of(Who::Rootless).is_none() || !has("newuidmap") {
        return skip(test, "there is no user with subordinate IDs (tests/setup makes one)");
    }
    run_all(Who::Rootless);
}
