//! Builds in the shapes of Kaniko's integration tests, as `cases.txt` has them.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;

use super::scene::Scene;
use super::support::{self, Done, tool};

const CASES: &str = include_str!("cases.txt");

#[derive(Default)]
struct Case<'a> {
    name: &'a str,
    flags: Vec<String>,
    files: Vec<(&'a str, String)>,
    links: Vec<(&'a str, &'a str)>,
    checks: Vec<(&'a str, &'a str)>,
}

fn words(line: &str) -> Vec<String> {
    let (mut all, mut word, mut quoted) = (Vec::new(), String::new(), false);
    for c in line.chars() {
        match c {
            '\'' => quoted = !quoted,
            ' ' if !quoted => all.push(std::mem::take(&mut word)),
            c => word.push(c),
        }
    }
    all.push(word);
    all
}

fn cases() -> Vec<Case<'static>> {
    let mut all: Vec<Case> = Vec::new();
    for line in CASES.lines().skip_while(|line| !line.starts_with("==")) {
        if let Some(name) = line.strip_prefix("== ") {
            all.push(Case { name, ..Case::default() });
            continue;
        }
        let case = all.last_mut().expect("a case");
        match line.split_once(' ') {
            Some((">", flags)) => case.flags.extend(words(flags)),
            Some(("@", path)) => match path.split_once(" -> ") {
                Some(link) => case.links.push(link),
                None => case.files.push((path, String::new())),
            },
            Some(("?", check)) => case.checks.push(check.split_once(' ').unwrap_or((check, ""))),
            _ if line.is_empty() => {}
            _ => case.files.last_mut().expect("a file").1.push_str(&format!("{line}\n")),
        }
    }
    all
}

impl Case<'_> {
    /// Builds, and gives what is not as it has to be.
    fn run(&self, scene: &Scene) -> Result<(), String> {
        let onbuild = scene.name("base/onbuild:1");
        let text =
            |text: &str| text.replace("ONBUILD\n", &format!("{onbuild}\n")).replace("BASE", &scene.base());
        let files: Vec<(&str, String)> = self.files.iter().map(|(name, file)| (*name, text(file))).collect();
        let files: Vec<(&str, &str)> = files.iter().map(|(name, file)| (*name, file.as_str())).collect();
        let context = scene.lab.context(&files);
        for (path, target) in &self.links {
            fs::create_dir_all(context.join(path).parent().expect("a parent")).expect("mkdir");
            symlink(target, context.join(path)).expect("a link");
        }
        let layout = scene.lab.out(&format!("case-{}", self.name));
        let mut flags = vec![
            format!("--context=dir://{}", context.display()),
            "--no-push".to_owned(),
            format!("--destination=app:{}", self.name),
            format!("--oci-layout-path={}", layout.display()),
        ];
        let here = context.display().to_string();
        flags.extend(self.flags.iter().map(|flag| flag.replace("CONTEXT", &here)));
        let ended = scene.executor_with(&flags, |command| {
            command.env("FROM_ENVIRONMENT", "from outside");
        });
        let fails = self.checks.iter().find(|(what, _)| *what == "fails");
        let code = fails
            .map_or(0, |(_, rest)| rest.split(' ').next().and_then(|code| code.parse().ok()).expect("code"));
        if ended.code != code {
            return Err(format!("exit code {} instead of {code}:\n{}", ended.code, ended.err));
        }
        let opened = match fails {
            Some(_) => None,
            None => Some(Opened::of(&layout, self.name, &scene.lab.out(&format!("root-{}", self.name)))),
        };
        for (what, rest) in &self.checks {
            Self::check(what, rest, opened.as_ref(), &ended)
                .map_err(|why| format!("{what} {rest}: {why}"))?;
        }
        if self.checks.is_empty() { Err("it checks nothing".into()) } else { Ok(()) }
    }

    fn check(what: &str, rest: &str, opened: Option<&Opened>, ended: &Done) -> Result<(), String> {
        let expect = |found: String, wanted: &str| match found == wanted {
            true => Ok(()),
            false => Err(format!("found {found:?}")),
        };
        let printed = format!("{}{}", ended.out, ended.err);
        match what {
            "fails" => {
                let wanted = rest.split_once(' ').map_or("", |(_, words)| words);
                return if printed.contains(wanted) { Ok(()) } else { Err(printed) };
            }
            "says" => return if printed.contains(rest) { Ok(()) } else { Err(printed) },
            "silent" => return expect(printed, ""),
            "json" => {
                let is_json = |line: &str| serde_json::from_str::<Value>(line).is_ok();
                let all = ended.err.lines().all(is_json) && ended.err.lines().count() > 3;
                return if all { Ok(()) } else { Err(printed) };
            }
            _ => {}
        }
        let image = opened.expect("an image");
        let meta = |path: &str| fs::symlink_metadata(image.at(path)).map_err(|error| error.to_string());
        let config = |key: &str| image.config["config"][key].clone();
        // A path may have blanks: what is wanted comes last.
        let (path, wanted) = rest.rsplit_once(' ').unwrap_or((rest, ""));
        match what {
            "file" => {
                let (path, wanted) = image.split(rest);
                let found = fs::read_to_string(image.at(path)).map_err(|error| error.to_string())?;
                expect(found.trim_end_matches('\n').replace('\n', "\\n"), wanted)
            }
            "exists" => meta(rest).map(drop),
            "none" => meta(rest).map_or(Ok(()), |_| Err("it is there".to_owned())),
            "link" => {
                let target = fs::read_link(image.at(path)).map_err(|error| error.to_string())?;
                expect(target.display().to_string(), wanted)
            }
            "mode" => {
                let (path, mode) = path.rsplit_once(' ').expect("path, mode and owner");
                let meta = meta(path)?;
                let found = format!("{:o} {}:{}", meta.mode() & 0o7777, meta.uid(), meta.gid());
                expect(found, &format!("{mode} {wanted}"))
            }
            "same" => expect(meta(path)?.ino().to_string(), &meta(wanted)?.ino().to_string()),
            "time" => expect(meta(path)?.mtime().to_string(), wanted),
            "layers" => expect(image.manifest["layers"].as_array().map_or(0, Vec::len).to_string(), rest),
            "media" => {
                let types: Vec<&str> = image.manifest["layers"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter_map(|layer| layer["mediaType"].as_str())
                    .collect();
                if types.iter().all(|kind| kind.ends_with(rest)) { Ok(()) } else { Err(format!("{types:?}")) }
            }
            "env" => {
                let all = config("Env");
                let found = all.as_array().into_iter().flatten().any(|one| one == rest);
                if found { Ok(()) } else { Err(all.to_string()) }
            }
            "label" => {
                let (name, value) = rest.split_once('=').expect("NAME=VALUE");
                expect(config("Labels")[name].as_str().unwrap_or("(none)").to_owned(), value)
            }
            "config" => {
                let (key, value) = rest.split_once(' ').expect("KEY JSON");
                let mut found = config(key);
                if let Some(fields) = found.as_object_mut() {
                    fields.sort_keys();
                }
                expect(found.to_string(), value)
            }
            "author" | "architecture" | "created" => {
                expect(image.config[what].as_str().unwrap_or_default().to_owned(), rest)
            }
            other => Err(format!("{other} is no check")),
        }
    }
}

/// An image as umoci unpacks it.
struct Opened {
    config: Value,
    manifest: Value,
    root: PathBuf,
}

impl Opened {
    fn of(layout: &Path, tag: &str, bundle: &Path) -> Self {
        let json = |path: &Path| -> Value {
            serde_json::from_slice(&fs::read(path).expect("a file of the layout")).expect("JSON")
        };
        let blob = |digest: &Value| {
            let digest = digest.as_str().expect("a digest").replace(':', "/");
            json(&layout.join("blobs").join(digest))
        };
        let index = json(&layout.join("index.json"));
        let manifest = blob(&index["manifests"][0]["digest"]);
        let config = blob(&manifest["config"]["digest"]);
        // umoci's release in Debian knows no zstd.
        let zstd = manifest["layers"].to_string().contains("zstd");
        let mut source = layout.to_owned();
        if zstd {
            source = layout.with_extension("gzip");
            let (from, to) =
                (format!("oci:{}:{tag}", layout.display()), format!("oci:{}:{tag}", source.display()));
            let flags = ["--insecure-policy", "copy", "-q", "--dest-compress-format=gzip", "--dest-compress"];
            let words = flags.iter().copied().chain([from.as_str(), to.as_str()]);
            tool("skopeo", &words.map(OsStr::new).collect::<Vec<_>>());
        }
        let image = format!("{}:{tag}", source.display());
        let mut args: Vec<&OsStr> = vec!["unpack".as_ref()];
        if !support::is_root() {
            args.push("--rootless".as_ref());
        }
        args.extend([OsStr::new("--image"), image.as_ref(), bundle.as_os_str()]);
        tool("umoci", &args);
        Opened { config, manifest, root: bundle.join("rootfs") }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// A path and the text behind it: the longest path that is a file.
    fn split<'a>(&self, text: &'a str) -> (&'a str, &'a str) {
        let ends = text.match_indices(' ').map(|(at, _)| at).rev();
        let mut pairs = ends.map(|at| (&text[..at], &text[at + 1..]));
        pairs.find(|(path, _)| self.at(path).is_file()).or_else(|| text.split_once(' ')).unwrap_or((text, ""))
    }
}

#[test]
fn dockerfiles_in_kaniko_s_shapes_build_through_its_flags() {
    let test = "dockerfiles_in_kaniko_s_shapes_build_through_its_flags";
    let Some(scene) = Scene::in_container(test) else { return };
    let triggers = "FROM BASE\nONBUILD COPY trigger /trigger\nONBUILD RUN echo ran > /trigger.ran\n";
    let context = scene.context(&[("Dockerfile", triggers)]);
    let made = scene.executor(["--context", &context, "--destination", &scene.name("base/onbuild:1")]);
    assert_eq!(made.code, 0, "{}", made.err);
    let all = cases();
    assert!(all.len() >= 60, "{} cases", all.len());
    let (next, wrong) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while let Some(case) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(why) = case.run(&scene) {
                        wrong.lock().expect("a lock").push(format!("{}: {why}", case.name));
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().expect("a lock");
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), all.len(), wrong.join("\n"));
}
