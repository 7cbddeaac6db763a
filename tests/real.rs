//! The Dockerfiles of testdata/real are planned with the real program; a base image stands for each of theirs.

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use support::{Done, Lab, base, skip};

/// Plans `file`, giving a meaning to each base that the program asks for.
fn plan(lab: &Lab, file: &Path, context: &Path, layout: &Path) -> Done {
    let mut args = vec!["plan".to_owned(), "--pull=never".into(), "-f".into(), file.display().to_string()];
    loop {
        let mut all = args.clone();
        all.push(context.display().to_string());
        let done = lab.run(&all);
        let first = done.err.lines().find_map(|line| line.strip_prefix("error: "));
        let Some(name) = first.and_then(|line| line.strip_suffix(" is not in the store")) else {
            return done;
        };
        let meaning = format!("{name}=oci-layout://{}", layout.display());
        assert!(!args.contains(&meaning), "{}: {name} is asked for again", file.display());
        args.extend(["--build-context".into(), meaning]);
    }
}

#[test]
fn real_files_are_planned() {
    let Some(layout) = base("busybox") else {
        return skip("real_files_are_planned", "tests/setup has not made the base images");
    };
    let lab = Lab::new();
    let context = lab.context(&[("nothing", "")]);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/real");
    let mut files: Vec<PathBuf> =
        fs::read_dir(folder).expect("files").flatten().map(|entry| entry.path()).collect();
    files.sort();
    assert!(files.len() >= 64, "only {} files", files.len());
    let mut wrong = Vec::new();
    for file in &files {
        let done = plan(&lab, file, &context, &layout);
        if done.code != 0 {
            wrong.push(format!("{}:\n{}", file.display(), done.err));
        }
    }
    println!("real: {} files", files.len());
    assert!(wrong.is_empty(), "{} files:\n{}", wrong.len(), wrong.join("\n"));
}
