//! What holds at an instruction because of those before it, in its stage and in those the stage is built on.

use crate::dockerfile::{Copy, Instruction, InstructionKind, Word};
use crate::image::{ImageConfig, Reference};
use crate::lint::finding::Place;
use crate::lint::stages::{Base, Stages, same};

use super::RunView;
use super::apt;

/// Who runs a `RUN`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum User {
    Root,
    Other,
    /// The base or a variable decides.
    Unknown,
}

/// Package lists of apt in the image.
#[derive(Clone, Copy)]
pub(super) enum Lists<'a> {
    /// The base is an official image, and these have none.
    Missing,
    /// Fetched by a `RUN` that used them at once, by the base, or by a script.
    Unknown,
    /// Fetched by this instruction, which installed nothing.
    FetchedAlone(Place<'a>),
}

/// See the module.
#[derive(Clone)]
pub(super) struct Facts<'a> {
    /// `SHELL`, as far as the file or a known base has one.
    pub(super) shell: Option<&'a [String]>,
    pub(super) user: User,
    pub(super) lists: Lists<'a>,
    /// apt's configuration answers its questions, or may.
    pub(super) apt_answers: bool,
    /// A setting decides what pip does with downloads, or may.
    pub(super) pip_configured: bool,
    /// The base is for Windows, or the file is written as for Windows.
    pub(super) windows: bool,
    /// Programs that have fetched the project's dependencies into the image.
    pub(super) fetched: Vec<&'static str>,
}

impl<'a> Facts<'a> {
    /// At the start of a stage; `ends` holds what is true at the end of each stage before it.
    pub(super) fn start(stages: &Stages<'a>, index: usize, ends: &[Facts<'a>]) -> Self {
        let line = &stages.froms[index];
        let name = match &line.base {
            Base::Stage(base) => match ends.get(*base) {
                Some(end) => return end.clone(),
                None => "",
            },
            Base::Image(name) => name,
            Base::Scratch | Base::Context => "",
        };
        let replaced = stages.input.contexts.iter().any(|context| same(context, name));
        let official = official(name).filter(|_| !replaced);
        let escape = stages.dockerfile.directives.escape;
        let platform = line.platform.as_ref().is_some_and(|platform| platform.os == "windows");
        let mut facts = Facts {
            shell: None,
            user: if official.as_deref().is_some_and(is_run_by_root) { User::Root } else { User::Unknown },
            lists: if official.is_some() { Lists::Missing } else { Lists::Unknown },
            apt_answers: false,
            pip_configured: false,
            windows: platform || escape == '`' || names_windows(name),
            fetched: Vec::new(),
        };
        if let Some(image) = stages.config(name, line.platform.as_ref()).filter(|_| !name.is_empty()) {
            facts.learn(image);
        }
        facts
    }

    fn learn(&mut self, image: &'a ImageConfig) {
        let config = &image.config;
        self.user = user(config.user.as_str());
        self.shell = config.shell.as_deref().filter(|shell| !shell.is_empty());
        self.windows |= image.os == "windows";
        let names = config.env.iter().map(|pair| pair.split('=').next().unwrap_or(""));
        self.pip_configured |= names.into_iter().any(configures_pip);
    }

    /// Takes in what an instruction other than `RUN` changes.
    pub(super) fn pass(&mut self, instruction: &'a Instruction) {
        match &instruction.kind {
            InstructionKind::Shell(words) => {
                self.shell = Some(words);
                self.windows |= words.first().is_some_and(|program| is_windows_shell(program));
            }
            InstructionKind::User(word) => self.user = user(&word.text),
            InstructionKind::Env(pairs) => {
                self.pip_configured |= pairs.iter().any(|pair| configures_pip(&pair.key.text));
            }
            InstructionKind::Arg(args) => {
                self.pip_configured |= args.iter().any(|arg| configures_pip(&arg.name.text));
            }
            InstructionKind::Copy(copy) | InstructionKind::Add(copy) => self.brought(copy),
            _ => {}
        }
    }

    /// Takes in what a `RUN` does.
    pub(super) fn run(&mut self, view: &RunView<'a>) {
        self.apt_answers |= apt::writes_answers(view.text);
        self.pip_configured |= view.text.contains("pip.conf") || view.text.contains("pip config set");
        self.lists = apt::lists_after(view, self.lists);
    }

    fn brought(&mut self, copy: &Copy) {
        let has = |part: &str| {
            copy.dest.text.contains(part)
                || super::files::paths(copy).any(|word: &Word| word.text.contains(part))
        };
        self.apt_answers |= has("apt.conf");
        self.pip_configured |= has("pip.conf");
        if has("apt/lists") {
            self.lists = Lists::Unknown;
        }
    }
}

fn configures_pip(name: &str) -> bool {
    matches!(name, "PIP_NO_CACHE_DIR" | "PIP_CACHE_DIR" | "PIP_CONFIG_FILE" | "XDG_CACHE_HOME")
}

/// A user as `USER` and image configs write it.
fn user(text: &str) -> User {
    match text.split(':').next().unwrap_or("") {
        "" | "root" | "0" => User::Root,
        name if name.contains('$') => User::Unknown,
        _ => User::Other,
    }
}

/// The name of one of Docker's official images, without tag.
fn official(name: &str) -> Option<String> {
    let repository = Reference::parse(name).ok()?.familiar_repository();
    (!repository.contains('/')).then_some(repository)
}

/// Official images that change the user have it so at the end.
fn is_run_by_root(official: &str) -> bool {
    const OTHERS: [&str; 12] = [
        "emqx",
        "haproxy",
        "jenkins",
        "kong",
        "lightstreamer",
        "memcached",
        "nuxeo",
        "rocket.chat",
        "solr",
        "sonarqube",
        "teamspeak",
        "varnish",
    ];
    !OTHERS.contains(&official)
}

fn names_windows(base: &str) -> bool {
    let lower = base.to_ascii_lowercase();
    ["windows", "nanoserver", "servercore"].iter().any(|part| lower.contains(part))
}

fn is_windows_shell(program: &str) -> bool {
    let lower = program.to_ascii_lowercase();
    let name = lower.rsplit(['/', '\\']).next().unwrap_or("");
    matches!(name.trim_end_matches(".exe"), "cmd" | "powershell" | "pwsh")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn official_images_are_known_by_any_of_their_names() {
        for (name, expected) in [
            ("debian", Some("debian")),
            ("debian:12", Some("debian")),
            ("docker.io/library/debian:12-slim", Some("debian")),
            ("library/debian", Some("debian")),
            ("me/debian", None),
            ("ghcr.io/debian", None),
            ("localhost:5000/debian", None),
            ("", None),
            ("$BASE", None),
        ] {
            assert_eq!(official(name).as_deref(), expected, "{name}");
        }
    }
}
