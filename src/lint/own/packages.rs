//! Package managers of languages: their caches, and when they run.

use crate::dockerfile::{Copy, CopySource, InstructionKind};
use crate::lint::finding::{Findings, Place};
use crate::lint::rule as rules;
use crate::lint::shell::Command;

use super::{RunView, StageView};

/// A command that fetches what a manifest of the project lists.
fn manifest_of(command: &Command) -> Option<&'static str> {
    let mut operands = command.operands();
    let (verb, next) = (operands.next().unwrap_or(""), operands.next());
    let requirements = || {
        command.has("-r")
            || command.has("--requirement")
            || command.arguments().any(|word| word.starts_with("--requirement="))
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

/// Programs that fetch packages into a cache of theirs, and where it lies for root.
fn cache_of(command: &Command) -> Option<(&'static str, &'static str)> {
    let verb = command.operands().next().unwrap_or("");
    Some(match (command.name(), verb) {
        ("npm", "ci" | "install" | "i" | "clean-install") => ("npm", "/root/.npm"),
        ("yarn", "install") => ("yarn", "/usr/local/share/.cache/yarn"),
        ("pnpm", "install" | "i" | "fetch") => ("pnpm", "/root/.local/share/pnpm/store"),
        ("go", "build" | "install" | "test") => ("go", "/root/.cache/go-build"),
        ("go", "mod") => ("go", "/go/pkg/mod"),
        ("cargo", "build" | "install" | "fetch" | "test") => ("cargo", "/usr/local/cargo/registry"),
        ("mvn" | "mvnw", "package" | "install" | "verify" | "compile") => ("mvn", "/root/.m2"),
        ("gradle" | "gradlew", _) => ("gradle", "/root/.gradle"),
        ("bundle", "install") => ("bundle", "/usr/local/bundle/cache"),
        ("composer", "install") => ("composer", "/root/.composer/cache"),
        ("dotnet", "restore" | "publish" | "build") => ("dotnet", "/root/.nuget/packages"),
        _ => return None,
    })
}

pub(super) fn check(stage: &StageView<'_>, findings: &mut Findings<'_>) {
    for view in &stage.runs {
        cache_mount(view, findings);
        if stage.shipped {
            pip(stage, view, findings);
        }
    }
    copied_first(stage, findings);
}

fn cache_mount(view: &RunView<'_>, findings: &mut Findings<'_>) {
    if view.has_cache() {
        return;
    }
    let cleans = |command: &Command| command.has("cache") && (command.has("clean") || command.has("clear"));
    if view.commands.iter().any(cleans) {
        return;
    }
    if let Some((program, dir)) = view.commands.iter().find_map(cache_of) {
        let detail = format!(
            "{program} starts without its downloads each time; --mount=type=cache,target={dir} keeps them"
        );
        findings.add(&rules::CACHE_MOUNT_MISSING, view.place(), detail);
    }
}

fn pip(stage: &StageView<'_>, view: &RunView<'_>, findings: &mut Findings<'_>) {
    let installs = |command: &Command| {
        let module =
            matches!(command.name(), "python" | "python3") && command.has("-m") && command.has("pip");
        (module || matches!(command.name(), "pip" | "pip3"))
            && command.has("install")
            && !command.has("--no-cache-dir")
    };
    let is_set = |name: &str| name == "PIP_NO_CACHE_DIR" || name == "PIP_CACHE_DIR";
    let configured = stage.instructions[..view.position].iter().any(|instruction| match &instruction.kind {
        InstructionKind::Env(pairs) => pairs.iter().any(|pair| is_set(&pair.key.text)),
        InstructionKind::Arg(args) => args.iter().any(|arg| is_set(&arg.name.text)),
        _ => false,
    });
    let cleaned = view.commands.iter().any(|command| {
        (command.has("cache") && command.has("purge"))
            || (command.name() == "rm" && command.operands().any(|path| path.contains(".cache")))
    });
    if view.commands.iter().any(installs) && !configured && !cleaned && !view.has_cache() && !stage.on_stage {
        let detail = "pip keeps its downloads in the layer; give it --no-cache-dir, or mount a cache at \
                      /root/.cache/pip";
        findings.add(&rules::PIP_WITHOUT_NO_CACHE_DIR, view.place(), detail);
    }
}

/// All of the context is copied, and only then are dependencies fetched: any change of any file fetches
/// them again.
fn copied_first(stage: &StageView<'_>, findings: &mut Findings<'_>) {
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
                for manifest in view.commands.iter().filter_map(manifest_of) {
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

fn copies_all(copy: &Copy) -> bool {
    let all = |source: &CopySource| match source {
        CopySource::Path(word) => matches!(word.text.as_str(), "." | "./" | "/" | "./." | "*" | "./*"),
        CopySource::Heredoc(_) => false,
    };
    copy.flags.from.is_none() && copy.sources.iter().any(all)
}
