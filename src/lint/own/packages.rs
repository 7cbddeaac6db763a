//! Package managers of languages: their caches, and when they run.

use crate::dockerfile::{Copy, CopySource, InstructionKind};
use crate::lint::finding::{Findings, Place};
use crate::lint::rule as rules;
use crate::lint::shell::Command;

use super::facts::{Facts, User};
use super::{RunView, StageView};

/// A command that fetches what a manifest of the project lists.
fn manifest_of(command: &Command) -> Option<&'static str> {
    let mut operands = command.operands();
    let (verb, next) = (operands.next().unwrap_or(""), operands.next());
    let requirements = || {
        let lists = command.arguments().any(|word| word == "-r" || word.starts_with("--requirement"));
        lists && !command.arguments().any(|word| word.contains("://") || word.starts_with("/tmp/"))
    };
    let global = command.has("-g") || command.has("--global");
    Some(match (command.name(), verb) {
        ("npm", "ci" | "clean-install") => "package.json",
        ("npm", "install" | "i") if next.is_none() && !global => "package.json",
        ("yarn", "" | "install") if next.is_none() => "package.json",
        ("pnpm", "install" | "i" | "fetch") if next.is_none() => "package.json",
        ("bun", "install") if next.is_none() => "package.json",
        ("pip" | "pip3", "install") if requirements() => "requirements.txt",
        ("poetry", "install") | ("uv", "sync") | ("pdm", "install") => "pyproject.toml",
        ("pipenv", "install" | "sync") if next.is_none() => "Pipfile",
        ("bundle", "install") => "Gemfile",
        ("composer", "install") => "composer.json",
        ("go", "mod") if next == Some("download") => "go.mod",
        ("cargo", "fetch") => "Cargo.toml",
        ("mvn" | "mvnw", _) if command.operands().any(|word| word.starts_with("dependency:")) => "pom.xml",
        ("dotnet", "restore") => "the project file",
        _ => return None,
    })
}

/// A program that fetches the project's packages into its cache.
struct Fetch {
    program: &'static str,
    /// Where the cache lies for root.
    cache: &'static str,
    /// It does nothing but fetch: programs that run later find all in the image.
    only_fetches: bool,
}

/// What a command fetches, if it is about the project. Tools installed by name are in a layer that nothing
/// in the project changes.
fn fetch_of(command: &Command) -> Option<Fetch> {
    let mut operands = command.operands();
    let (verb, next) = (operands.next().unwrap_or(""), operands.next());
    let any = |names: &[&str]| names.iter().any(|name| command.has(name));
    let project = next.is_none() && !any(&["-g", "--global", "--location=global"]);
    let offline =
        any(&["--offline", "-o", "--no-restore", "--local", "--frozen", "--version", "-version", "--help"]);
    let (program, cache, only_fetches) = match (command.name(), verb) {
        ("npm", "ci" | "install" | "i" | "clean-install") if project => ("npm", "/root/.npm", true),
        ("yarn", "install") if project => ("yarn", "/usr/local/share/.cache/yarn", true),
        ("pnpm", "install" | "i" | "fetch") if project => ("pnpm", "/root/.local/share/pnpm/store", true),
        ("go", "install") if next.is_some_and(|what| what.contains('@')) => return None,
        ("go", "build" | "install" | "test") => ("go", "/root/.cache/go-build", false),
        ("go", "mod") if next == Some("download") => ("go mod", "/go/pkg/mod", true),
        ("cargo", "build" | "test") => ("cargo", "/usr/local/cargo/registry", false),
        ("cargo", "fetch") => ("cargo", "/usr/local/cargo/registry", true),
        ("mvn" | "mvnw", _) if command.operands().any(|word| word.starts_with("dependency:")) => {
            ("mvn", "/root/.m2", true)
        }
        ("mvn" | "mvnw", _) if runs_phase(command, &["package", "install", "verify", "compile"]) => {
            ("mvn", "/root/.m2", false)
        }
        ("gradle" | "gradlew", _) if runs_phase(command, &GRADLE_TASKS) => ("gradle", "/root/.gradle", false),
        ("bundle", "install") => ("bundle", "/usr/local/bundle/cache", true),
        ("composer", "install") => ("composer", "/root/.composer/cache", true),
        ("dotnet", "restore") => ("dotnet", "/root/.nuget/packages", true),
        ("dotnet", "publish" | "build") => ("dotnet", "/root/.nuget/packages", false),
        _ => return None,
    };
    (!offline).then_some(Fetch { program, cache, only_fetches })
}

const GRADLE_TASKS: [&str; 9] =
    ["assemble", "bootJar", "bootWar", "build", "check", "installDist", "jar", "shadowJar", "test"];

/// Whether one of these is to be done, for all of the project or a part of it (`:app:build`).
fn runs_phase(command: &Command, phases: &[&str]) -> bool {
    command.operands().any(|word| phases.contains(&word.rsplit(':').next().unwrap_or(word)))
}

pub(super) fn check(view: &RunView<'_>, facts: &mut Facts<'_>, shipped: bool, findings: &mut Findings<'_>) {
    cache_mount(view, facts, findings);
    if shipped {
        pip(view, facts, findings);
    }
}

fn cache_mount(view: &RunView<'_>, facts: &mut Facts<'_>, findings: &mut Findings<'_>) {
    // Another project's packages come once and for all.
    let own = view.commands.iter().take_while(|command| !clones(command));
    let fetches: Vec<Fetch> = own.filter_map(fetch_of).collect();
    let quiet = facts.windows || view.has_cache() || cleans(view);
    let fetched = |fetch: &&Fetch| fetch.only_fetches || !facts.fetched.contains(&fetch.program);
    if let Some(Fetch { program, cache, .. }) = fetches.iter().find(fetched).filter(|_| !quiet) {
        let mount = match facts.user {
            User::Root => format!("--mount=type=cache,target={cache} keeps them"),
            User::Unknown => {
                format!("a cache mount keeps them (for root: --mount=type=cache,target={cache})")
            }
            User::Other => {
                "a cache mount over its cache directory, with uid= of the user, keeps them".to_owned()
            }
        };
        let detail = format!("{program} starts without its downloads each time; {mount}");
        findings.add(&rules::CACHE_MOUNT_MISSING, view.place(), detail);
    }
    if !view.has_cache() {
        facts.fetched.extend(fetches.iter().filter(|fetch| fetch.only_fetches).map(|fetch| fetch.program));
    }
}

/// Whether caches are removed in the same breath, so that somebody has thought of them.
fn cleans(view: &RunView<'_>) -> bool {
    const CACHES: [&str; 10] =
        ["cache", ".npm", ".m2", ".gradle", ".composer", ".nuget", "/go/pkg", "GOPATH", "/go/src", "/tmp/*"];
    view.commands.iter().any(|command| {
        let has = |words: &[&str]| words.iter().any(|word| command.has(word));
        (has(&["cache"]) && has(&["clean", "clear", "verify", "purge", "prune"]))
            || has(&["clear-cache", "clearcache", "-modcache", "-cache"])
            || (command.name() == "go" && has(&["clean"]))
            || (command.name() == "rm"
                && command.operands().any(|path| CACHES.iter().any(|cache| path.contains(cache))))
    })
}

fn pip(view: &RunView<'_>, facts: &Facts<'_>, findings: &mut Findings<'_>) {
    let installs = |command: &Command| {
        let module = command.name().starts_with("python") && command.has("-m") && command.has("pip");
        // Options may be shortened.
        let decided = |word: &str| {
            word.starts_with("--no-c")
                || word.starts_with("--cache-d")
                || matches!(word, "--no-index" | "--dry-run")
        };
        // `$PIP_OPTIONS` may hold it.
        let options = |word: &str| {
            let upper = word.to_ascii_uppercase();
            word.starts_with('$') && ["OPT", "FLAG", "ARG"].iter().any(|part| upper.contains(part))
        };
        (module || matches!(command.name(), "pip" | "pip2" | "pip3"))
            && command.has("install")
            && !command.arguments().any(|word| decided(word) || options(word))
    };
    // Settings and removals in any form: exported, in quotes, in a configuration file.
    let cared = [
        "PIP_NO_CACHE_DIR",
        "PIP_CACHE_DIR",
        "XDG_CACHE_HOME",
        "no-cache-dir true",
        "no-cache-dir = ",
        "pip.conf",
    ]
    .iter()
    .any(|part| view.text.contains(part))
        || (view.text.contains("rm ") && view.text.contains(".cache"))
        || view.commands.iter().any(|command| command.has("cache") && command.has("purge"));
    let quiet = cared || facts.pip_configured || facts.windows || view.has_cache();
    if !quiet && view.commands.iter().any(installs) {
        let detail = "pip keeps its downloads in the layer; give it --no-cache-dir, or mount a cache at \
                      /root/.cache/pip";
        findings.add(&rules::PIP_WITHOUT_NO_CACHE_DIR, view.place(), detail);
    }
}

/// All of the context is copied, and only then are dependencies fetched: any change of any file fetches
/// them again.
pub(super) fn copied_first(stage: &StageView<'_>, findings: &mut Findings<'_>) {
    let mut whole: Option<Place<'_>> = None;
    let mut installed: Vec<&'static str> = Vec::new();
    let mut runs = stage.runs.iter().peekable();
    for (position, instruction) in stage.instructions.iter().enumerate() {
        match &instruction.kind {
            InstructionKind::Copy(copy) | InstructionKind::Add(copy) if copies_all(copy) => {
                whole.get_or_insert(Place::of(instruction));
            }
            InstructionKind::Run(_) => {
                let Some(view) = runs.next_if(|view| view.position == position) else { continue };
                // Another project's dependencies do not depend on this one's files.
                let own = view.commands.iter().take_while(|command| !clones(command));
                for manifest in own.filter_map(manifest_of) {
                    if let Some(place) = whole.filter(|_| !installed.contains(&manifest)) {
                        let detail = format!(
                            "Any changed file makes the build fetch dependencies again; copy {manifest} alone, install, and copy the rest then"
                        );
                        findings.add(&rules::COPY_BEFORE_DEPENDENCIES, place, detail);
                    }
                    installed.push(manifest);
                }
            }
            _ => {}
        }
    }
}

fn clones(command: &Command) -> bool {
    command.name() == "git" && command.has("clone")
}

fn copies_all(copy: &Copy) -> bool {
    let all = |source: &CopySource| match source {
        CopySource::Path(word) => matches!(word.text.as_str(), "." | "./" | "/" | "./." | "*" | "./*"),
        CopySource::Heredoc(_) => false,
    };
    copy.flags.from.is_none() && copy.sources.iter().any(all)
}
