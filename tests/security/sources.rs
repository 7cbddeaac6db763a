//! Contexts, repositories and archives that somebody else wrote.

use super::*;
use server::FileServer;
use std::os::unix::fs::symlink;
use std::process::Command;

/// Links of a context are links, or lead somewhere in it.
#[test]
fn ghsa_podup_721_links_of_a_context_are_not_followed_out_of_it() {
    for who in modes("ghsa_podup_721_links_of_a_context_are_not_followed_out_of_it") {
        let range = Range::new(who);
        let context = range.lab.context(&[("d/f", "f"), ("x", "x")]);
        for (name, target) in [
            ("file", "@/canary"),
            ("dir", "@"),
            ("d/up", "../../outside"),
            ("d/deep", "../../../../../../../../../../..@/canary"),
            ("d/again", "../dir"),
        ] {
            symlink(range.fill(target), context.join(name)).expect("link");
        }
        let mut kept = 0;
        for line in [
            "COPY . /all/",
            "COPY file /y",
            "COPY dir /y/",
            "COPY dir/canary /y",
            "COPY dir/* /y/",
            "COPY d/up/canary d/deep /y/",
            "COPY d/*/canary /y/",
            "COPY --parents d/./up/canary /y/",
            "COPY --parents ./*/canary /y/",
            "COPY ../outside /y/",
            "COPY ../outside/canary /y",
            "COPY d/../../outside/canary /y",
            "COPY /../outside/canary @/canary /y/",
            "COPY --exclude=x . /y/",
            "ADD file d/again /y/",
            "ADD dir /y/",
            "COPY --link d /y/",
            "RUN --mount=target=/m cat /m/file /m/dir/canary /m/d/up/canary; cp -a /m /y",
            "RUN --mount=target=/m,rw echo evil > /m/file; echo evil > /m/dir/evil; true",
        ] {
            for ignore in [None, Some("x\n")] {
                fs::write(context.join("Dockerfile"), range.fill(&format!("FROM busybox\n{line}\n")))
                    .expect("write");
                let _ = fs::remove_file(context.join(".dockerignore"));
                if let Some(text) = ignore {
                    fs::write(context.join(".dockerignore"), text).expect("write");
                }
                let out = range.lab.out(&format!("links-{kept}-{}", line.len()));
                let _ = fs::remove_dir_all(&out);
                let done = range.build(&context, &["-o", &out.display().to_string()]);
                range.safe(&format!("{who:?} {line}"), &done, &[&out]);
                kept += usize::from(done.code == 0);
                if line == "COPY . /all/" {
                    assert_eq!(fs::read_link(out.join("all/dir")).expect("a link"), range.outside);
                }
            }
        }
        assert!(kept >= 6, "{who:?}: {kept}");
    }
}

/// Dockerfiles and ignore files of a local context that lead out of it: nothing of what they name is read,
/// so nothing of it can be in an error.
#[test]
fn cve_2022_4122_dockerfiles_and_ignore_files_of_a_context_lie_in_it() {
    let range = Range::new(Who::Caller);
    fs::write(range.outside.join("pattern"), format!("[{CANARY}\n")).expect("write");
    let range = Range { before: tree(&range.outside), ..range };
    let plain = "FROM scratch\nCOPY x /x\n";
    for name in ["Dockerfile", "dockerfile", ".dockerignore", "Dockerfile.dockerignore", "sub/D.dockerignore"]
    {
        for target in ["@/canary", "@/pattern", "../outside/pattern", "../../../../..@/canary", "link/canary"]
        {
            let context = range.lab.context(&[("x", "x"), ("sub/D", plain)]);
            let is_dockerfile = name.eq_ignore_ascii_case("dockerfile");
            if !is_dockerfile {
                fs::write(context.join("Dockerfile"), plain).expect("write");
            }
            symlink(range.fill(target), context.join(name)).expect("link");
            symlink(&range.outside, context.join("link")).expect("link");
            let shown = context.display().to_string();
            let file = context.join("sub/D").display().to_string();
            let file = if name.starts_with("sub/") { vec!["-f", &file] } else { Vec::new() };
            for verb in [
                &["build"][..],
                &["plan"],
                &["check"],
                &["build", "--call=outline"],
                &["build", "--call=targets"],
            ] {
                let ended = range.lab.run(verb.iter().chain(&file).copied().chain([shown.as_str()]));
                range.safe(&format!("{verb:?} {name} {target}"), &ended, &[]);
                assert_eq!(ended.code, 4, "{verb:?} {name} {target}: {}", ended.err);
                assert!(ended.err.contains("is a link to"), "{verb:?} {name} {target}: {}", ended.err);
            }
            if name == ".dockerignore" {
                let other = range.lab.context(&[("Dockerfile", "FROM scratch\nCOPY --from=n x /x\n")]);
                let ended = range.lab.run([
                    "build",
                    "--build-context",
                    &format!("n={shown}"),
                    &other.display().to_string(),
                ]);
                range.safe(&format!("named {target}"), &ended, &[]);
                assert_eq!(ended.code, 4, "named {target}: {}", ended.err);
            }
        }
    }
    // Links within the context lead where they did.
    let context =
        range.lab.context(&[("d/File", "FROM scratch\nCOPY . /all/\n"), ("d/ignore", "x\n"), ("x", "")]);
    symlink("d/File", context.join("Dockerfile")).expect("link");
    symlink("/d/ignore", context.join(".dockerignore")).expect("link");
    let out = range.lab.out("within");
    let ended = range.build(&context, &["-o", &out.display().to_string()]);
    assert_eq!(ended.code, 0, "{}", ended.err);
    assert!(out.join("all/d/File").exists() && !out.join("all/x").exists());
}

/// Blobs and documents of a layout that are links: those within it are followed, others refused.
#[test]
fn cve_2022_4122_class_links_of_a_layout_stay_in_it() {
    let test = "cve_2022_4122_class_links_of_a_layout_stay_in_it";
    let Some(base) = modes(test).first().and_then(|_| base("busybox")) else { return };
    let range = Range::new(Who::Caller);
    let flags = |layout: &Path| format!("hostile=oci-layout://{}", layout.display());
    let context = range.lab.context(&[("Dockerfile", "FROM hostile\n")]);
    let copy = |name: &str| {
        let layout = range.lab.path().join(name);
        support::tool("cp", &["-r".as_ref(), base.as_os_str(), layout.as_os_str()]);
        layout
    };
    let blobs = |layout: &Path| -> Vec<PathBuf> {
        fs::read_dir(layout.join("blobs/sha256"))
            .expect("blobs")
            .flatten()
            .map(|entry| entry.path())
            .collect()
    };
    let within = copy("within");
    fs::rename(within.join("blobs/sha256"), within.join("moved")).expect("rename");
    symlink("../moved", within.join("blobs/sha256")).expect("link");
    let ended = range.lab.run(["build", "--build-context", &flags(&within), &context.display().to_string()]);
    assert_eq!(ended.code, 0, "{}", ended.err);
    for kind in ["index.json", "oci-layout", "blob", "directory"] {
        let layout = copy(kind);
        let whole = copy(&format!("{kind}-elsewhere"));
        match kind {
            "blob" => {
                for blob in blobs(&layout) {
                    fs::remove_file(&blob).expect("remove");
                    symlink(range.outside.join("canary"), &blob).expect("link");
                }
            }
            "directory" => {
                fs::remove_dir_all(layout.join("blobs")).expect("remove");
                symlink(whole.join("blobs"), layout.join("blobs")).expect("link");
            }
            name => {
                fs::remove_file(layout.join(name)).expect("remove");
                symlink(whole.join(name), layout.join(name)).expect("link");
            }
        }
        let ended =
            range.lab.run(["build", "--build-context", &flags(&layout), &context.display().to_string()]);
        range.safe(kind, &ended, &[]);
        assert_eq!(ended.code, 5, "{kind}: {}", ended.err);
        assert!(ended.err.contains("a link that leads out of the directory"), "{kind}: {}", ended.err);
        // Nor is a layout written through such a link.
        let output = format!("type=oci,tar=false,dest={}", layout.display());
        let context = range.lab.context(&[("Dockerfile", "FROM scratch\nLABEL a=b\n")]);
        let ended = range.lab.run(["build", "-o", &output, &context.display().to_string()]);
        if matches!(kind, "index.json" | "directory") {
            assert_eq!(ended.code, 6, "{kind}: {}", ended.err);
        }
        assert_eq!(blobs(&whole).len(), blobs(&base).len(), "{kind}");
    }
}

fn git(dir: &Path, args: &[&str]) {
    let done = Command::new("git")
        .args(["-c", "user.name=t", "-c", "user.email=t@example.test", "-c", "init.defaultBranch=main"])
        .args(["-c", "protocol.file.allow=always"])
        .args(args)
        .current_dir(dir)
        .output()
        .expect("git");
    assert!(done.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&done.stderr));
}

/// Serves a repository of what lies in `work`.
fn serve(range: &Range, work: &Path) -> (FileServer, PathBuf) {
    git(work, &["init", "-q"]);
    git(work, &["add", "-A"]);
    git(work, &["commit", "-qm", "one"]);
    let served = range.lab.context(&[]);
    git(&served, &["clone", "-q", "--bare", &work.display().to_string(), "repo.git"]);
    git(&served.join("repo.git"), &["update-server-info"]);
    (FileServer::start(&served), served)
}

fn has_git(test: &str) -> bool {
    let ready = !modes(test).is_empty() && has("git");
    if !ready {
        skip(test, "git is not installed");
    }
    ready
}

/// Subdirectories, Dockerfiles and ignore files of a repository that are links, or names with dots.
#[test]
fn cve_2026_33748_cve_2026_44517_a_repository_is_all_there_is() {
    let test = "cve_2026_33748_cve_2026_44517_a_repository_is_all_there_is";
    if !has_git(test) {
        return;
    }
    let range = Range::new(Who::Caller);
    let work = range.lab.context(&[("sub/Dockerfile", "FROM scratch\nCOPY . /\n"), ("d/x", "x")]);
    for (name, target) in [
        ("Dockerfile", "@/Dockerfile"),
        ("link", "@"),
        ("d/Dockerfile", "../../outside/Dockerfile"),
        ("up", ".."),
    ] {
        symlink(range.fill(target), work.join(name)).expect("link");
    }
    symlink(range.fill("@/canary"), work.join(".dockerignore")).expect("link");
    symlink(range.fill("@/canary"), work.join("sub/secret")).expect("link");
    let (server, _served) = serve(&range, &work);
    let url = server.url("repo.git");
    for rest in [
        "",
        "#main",
        "#main:link",
        "#main:up",
        "#main:..",
        "#main:sub/../..",
        "#main:/../outside",
        "#main:@",
        "#main:d",
        "#:link",
        "#main:up/outside",
        "#main:link/b/..",
        "#main:.git",
        "#main:sub/../.git/..",
    ] {
        let url = range.fill(&format!("{url}{rest}"));
        let out = range.lab.out("repository");
        let _ = fs::remove_dir_all(&out);
        let done = range.build(Path::new(&url), &["-o", &out.display().to_string()]);
        range.safe(rest, &done, &[&out]);
        assert_ne!(done.code, 0, "{rest} was built");
        let (done, out) = range.files(&format!("FROM scratch\nADD {url} /r/\n"), &[]);
        range.safe(&format!("ADD {rest}"), &done, &[&out]);
    }
    let url = format!("{url}#main:sub");
    let out = range.lab.out("good");
    let done = range.build(Path::new(&url), &["-o", &out.display().to_string()]);
    assert_eq!(done.code, 0, "{}", done.err);
    range.safe("sub", &done, &[&out]);
    assert!(fs::symlink_metadata(out.join("secret")).expect("the link").is_symlink());
    // An absolute path is a file of the caller's choice; these are of the repository.
    for name in ["../outside/Dockerfile", "../link/Dockerfile", "secret"] {
        let done = range.build(Path::new(&url), &["-f", &range.fill(name)]);
        range.safe(name, &done, &[]);
        assert_ne!(done.code, 0, "-f {name}");
    }
}

/// Words that a version control program could take for options, and ways to repositories that are
/// programs or directories of this machine.
#[test]
fn cve_2025_21613_cve_2022_39253_repositories_run_and_read_nothing_here() {
    let test = "cve_2025_21613_cve_2022_39253_repositories_run_and_read_nothing_here";
    if !has_git(test) {
        return;
    }
    let range = Range::new(Who::Caller);
    let local = range.lab.context(&[("Dockerfile", "FROM scratch\nCOPY . /\n"), ("private", CANARY)]);
    git(&local, &["init", "-q"]);
    git(&local, &["add", "-A"]);
    git(&local, &["commit", "-qm", "private"]);
    let work = range.lab.context(&[("Dockerfile", "FROM scratch\nCOPY . /\n")]);
    git(&work, &["init", "-q"]);
    let (server, _served) = serve(&range, &work);
    let url = server.url("repo.git");
    let marker = range.outside.join("ran");
    let touch = format!("touch${{IFS}}{}", marker.display());
    let path = local.display();
    for bad in [
        format!("{url}#--upload-pack={touch}"),
        format!("{url}#-u{touch}"),
        format!("{url}#--output={}", marker.display()),
        format!("{url}#main:--output={}", marker.display()),
        format!("{url}#main;{touch}"),
        format!("{url}#main^{{/x}}"),
        format!("{url}#refs/heads/../../../x"),
        format!("{url}?ref=--upload-pack={touch}"),
        format!("{url}?branch=--exec={touch}"),
        format!("--upload-pack={touch}.git"),
        format!("ext::sh -c {touch}.git"),
        format!("ext::sh%20-c%20{touch}%20.git"),
        format!("ssh://-oProxyCommand={touch}/x.git"),
        format!("git@-oProxyCommand={touch}:x.git"),
        format!("ssh://git@-oProxyCommand={touch}/x.git"),
        format!("git://-x/{touch}.git"),
        format!("file://{path}/.git"),
        format!("file://{path}"),
        format!("fd::7/{path}.git"),
    ] {
        let mut command = range.lab.rbuild();
        command.args(["build", "--progress=plain", &bad]);
        let done = support::done(command.output().expect("rbuild"));
        range.safe(&bad, &done, &[]);
        assert_ne!(done.code, 0, "{bad}");
        if !bad.contains(' ') {
            let (done, out) = range.files(&format!("FROM scratch\nADD {bad} /r/\n"), &[]);
            range.safe(&format!("ADD {bad}"), &done, &[&out]);
            assert_ne!(done.code, 0, "ADD {bad}");
        }
    }
    // Submodules on this machine, by URL and by a path that leaves.
    for (number, (url, path)) in [
        (format!("file://{path}"), "sub".to_owned()),
        (format!("{path}"), "sub".to_owned()),
        (format!("ext::sh -c {touch}"), "sub".to_owned()),
        (format!("-u{touch}"), "sub".to_owned()),
        (format!("file://{path}"), "../../outside/sub".to_owned()),
        ("../../../../../../../../..".to_owned() + &path.to_string(), "sub".to_owned()),
    ]
    .into_iter()
    .enumerate()
    {
        let work = range.lab.context(&[("Dockerfile", "FROM scratch\nCOPY . /\n")]);
        git(&work, &["init", "-q"]);
        let modules = format!(
            "[submodule \"sub\"]\n\tpath = {path}\n\turl = {url}\n\tupdate = !touch {0}\n\tfetchRecurseSubmodules = true\n",
            marker.display()
        );
        fs::write(work.join(".gitmodules"), modules).expect("modules");
        let commit =
            Command::new("git").args(["rev-parse", "HEAD"]).current_dir(&local).output().expect("git");
        let commit = String::from_utf8_lossy(&commit.stdout).trim().to_owned();
        git(&work, &["update-index", "--add", "--cacheinfo", &format!("160000,{commit},sub")]);
        let (server, _served) = serve(&range, &work);
        let out = range.lab.out(&format!("submodule-{number}"));
        let done = range.build(Path::new(&server.url("repo.git")), &["-o", &out.display().to_string()]);
        range.safe(&format!("submodule {url} at {path}"), &done, &[&out]);
        assert!(!out.join("sub/private").exists(), "{url} {path}");
    }
}

/// A password in a URL is in no log, no image and no file afterwards.
#[test]
fn cve_2023_26054_passwords_of_urls_are_nowhere() {
    let test = "cve_2023_26054_passwords_of_urls_are_nowhere";
    if !has_git(test) {
        return;
    }
    let range = Range::new(Who::Caller);
    let work = range.lab.context(&[("Dockerfile", "FROM scratch\nCOPY . /\n"), ("plain", "text")]);
    let (server, _served) = serve(&range, &work);
    let url = server.url("repo.git").replace("http://", &format!("http://user:{CANARY}@"));
    let file = server.url("repo.git/HEAD").replace("http://", &format!("http://user:{CANARY}@"));
    let metadata = range.lab.out("metadata.json");
    let flags = ["--metadata-file", metadata.to_str().expect("path"), "-t", "remote"];
    let image = range.lab.out("context.tar");
    let output = format!("type=oci,compression=uncompressed,dest={}", image.display());
    let done = range.build(Path::new(&url), &[&flags[..], &["-o", &output]].concat());
    assert_eq!(done.code, 0, "{}", done.err);
    range.safe("context", &done, &[range.lab.path().join("out").as_path()]);
    // In a Dockerfile the words are the author's, who put them into the history.
    for gone in [format!("{url}.missing"), format!("{file}/missing"), url.replace("repo.git", "no.git")] {
        let done = range.build(Path::new(&gone), &flags);
        assert_ne!(done.code, 0, "{gone}");
        range.safe("missing", &done, &[range.lab.path().join("out").as_path()]);
    }
    let named = format!("other={url}");
    let context = range.lab.context(&[("Dockerfile", "FROM scratch\nCOPY --from=other plain /p\n")]);
    let done = range.build(&context, &[&flags[..], &["--build-context", &named, "-o", &output]].concat());
    assert_eq!(done.code, 0, "{}", done.err);
    range.safe("named context", &done, &[range.lab.path().join("out").as_path()]);
}
