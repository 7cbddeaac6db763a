//! Words of other tools on the command line: what they mean here, or why they mean nothing.
//!
//! `rbuild -t x .` becomes `rbuild build -t x .`. Words of docker, buildx, podman and buildah for what rbuild does
//! become its own. A word that nobody knows is a mistake, and one that names something a builder does not do says
//! so: neither becomes the path of a build context.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use crate::build::{Failure, FailureKind};
use crate::suggest::suggest;

/// The command line in rbuild's own words.
#[derive(Debug, Default)]
pub(super) struct Reading {
    /// To be parsed.
    pub args: Vec<OsString>,
    /// What the words mean here, where that is not what they mean elsewhere.
    pub note: Option<String>,
    /// What the command prints; there is nothing else to do.
    pub answer: Option<String>,
}

/// Commands of two words, and what they are here.
const TWO: &[(&str, &str, &[&str])] = &[
    ("image", "ls", &["images"]),
    ("image", "list", &["images"]),
    ("image", "build", &["build"]),
    ("image", "inspect", &["inspect"]),
    ("image", "history", &["history"]),
    ("image", "rm", &["rmi"]),
    ("image", "remove", &["rmi"]),
    ("image", "tag", &["tag"]),
    ("image", "push", &["push"]),
    ("image", "pull", &["pull"]),
    ("image", "save", &["save"]),
    ("image", "load", &["load"]),
    ("image", "prune", &["prune", "--images"]),
    ("image", "diff", &["diff"]),
    ("builder", "build", &["build"]),
    ("builder", "prune", &["prune"]),
    ("builder", "du", &["du"]),
    ("buildx", "build", &["build"]),
    ("buildx", "b", &["build"]),
    ("buildx", "prune", &["prune"]),
    ("buildx", "du", &["du"]),
    ("buildx", "version", &["version"]),
    ("buildx", "help", &["help"]),
    ("system", "df", &["du"]),
    ("system", "prune", &["prune"]),
    ("system", "info", &["info"]),
];

/// Commands of one word.
const ONE: &[(&str, &str)] =
    &[("bud", "build"), ("build-using-dockerfile", "build"), ("completions", "completion")];

/// Words that are close to none of rbuild's, and mean one of them.
const NEAR: &[(&str, &str)] = &[
    ("ls", "images"),
    ("list", "images"),
    ("df", "du"),
    ("lint", "check"),
    ("hadolint", "check"),
    ("remove", "rmi"),
    ("delete", "rmi"),
    ("clean", "prune"),
    ("gc", "prune"),
    ("man", "help"),
    ("why", "explain"),
    ("log", "builds"),
    ("graph", "plan"),
    ("config", "info"),
    ("doctor", "info"),
    ("env", "info"),
];

/// What a builder does not do, and what to do instead.
const NOT_HERE: &[(&[&str], &str)] = &[
    (
        &[
            "ps",
            "exec",
            "attach",
            "logs",
            "top",
            "stats",
            "kill",
            "stop",
            "start",
            "restart",
            "pause",
            "unpause",
            "wait",
            "rename",
            "port",
            "update",
            "create",
            "container",
            "checkpoint",
            "events",
            "init",
            "healthcheck",
        ],
        "rbuild keeps no containers: `rbuild run IMAGE` runs one in the foreground and forgets it",
    ),
    (
        &["cp", "export", "mount", "umount", "unmount"],
        "to get at the files of an image, write them to a directory: `rbuild build -o DIR .`",
    ),
    (&["rm"], "rbuild keeps no containers; `rbuild rmi NAME` removes an image's name"),
    (
        &["volume"],
        "rbuild keeps no volumes: `rbuild run -v DIR:/PATH` mounts a directory, and RUN --mount=type=cache keeps files \
         between builds",
    ),
    (
        &["network"],
        "rbuild makes no networks: `--network` of `rbuild run` and `rbuild build` is default, host or none",
    ),
    (&["commit"], "rbuild makes images from Dockerfiles only: write the change as a RUN or COPY"),
    (
        &["import"],
        "a root file system becomes an image with `FROM scratch` and `ADD rootfs.tar /`; `rbuild load -i FILE` reads \
         archives of images",
    ),
    (&["search"], "rbuild does not search registries: look at the registry's own pages"),
    (
        &["compose", "docker-compose", "bake", "stack", "play", "kube"],
        "rbuild builds one image at a time: run `rbuild build` once for each service or target, with its own \
         directory, -f and --target",
    ),
    (
        &[
            "from", "unshare", "generate", "pod", "machine", "quadlet", "farm", "swarm", "node", "service",
            "secret", "plugin", "trust",
        ],
        "rbuild builds images and does nothing else",
    ),
    (
        &["context", "daemon", "dockerd", "serve", "dial-stdio", "buildkitd"],
        "rbuild has no daemon and nothing to connect to: it builds where it runs",
    ),
    (
        &["scout", "scan", "desktop", "extension", "model", "mcp", "ai", "offload", "pass", "sandbox"],
        "that is a program of its own, which rbuild does not have",
    ),
    (&["upgrade", "self"], "rbuild is updated by whatever installed it"),
];

/// The same for second words.
const NOT_HERE_TWO: &[(&str, &[&str], &str)] = &[
    (
        "buildx",
        &["bake"],
        "rbuild builds one image at a time: run `rbuild build` once for each target, with its own directory, -f and \
         --target",
    ),
    ("buildx", &["debug", "dap", "replay", "dial-stdio", "policy"], "rbuild has nothing like it yet"),
    (
        "manifest",
        &["create", "annotate", "push", "rm", "add", "remove", "exists"],
        "`rbuild index create NAME IMAGE...` makes an index, `rbuild index annotate` changes it, and `rbuild push` sends it",
    ),
    ("image", &["import"], "a root file system becomes an image with `FROM scratch` and `ADD rootfs.tar /`"),
    ("image", &["mount", "unmount"], "write the files to a directory: `rbuild build -o DIR .`"),
    ("image", &["exists"], "`rbuild inspect NAME` fails where there is no such image"),
    (
        "system",
        &["events", "service", "dial-stdio", "connection", "migrate", "reset"],
        "rbuild has no daemon",
    ),
];

/// First words that have second words.
const GROUPS: [&str; 5] = ["image", "builder", "buildx", "system", "manifest"];

/// Names of tools that are typed by habit.
const TOOLS: [&str; 5] = ["docker", "podman", "buildah", "nerdctl", "finch"];

fn usage(message: impl Into<String>) -> Failure {
    Failure::new(FailureKind::Usage, message)
}

fn unsupported(message: impl Into<String>, help: &str) -> Failure {
    Failure::new(FailureKind::Unsupported, message).help(help)
}

/// Reads the words of a command line, the program's name first.
pub(super) fn read(args: impl Iterator<Item = OsString>) -> Result<Reading, Failure> {
    let mut reading = Reading { args: super::kaniko::called(args.collect()), ..Reading::default() };
    let at = reading.global_flags()?;
    let first = reading.word(at);
    match first.as_deref() {
        // Most calls: no list of commands is needed.
        Some("build" | "run" | "check") | None => {}
        // Its flags are not ours.
        Some("kaniko") => reading.args.insert(at + 1, "--".into()),
        Some("-h" | "--help" | "-V" | "--version") => {}
        Some("-v") if reading.args.len() == at + 1 => reading.args[at] = "--version".into(),
        Some(word) if word.starts_with('-') => reading.args.insert(at, "build".into()),
        Some(word) => {
            let word = word.to_owned();
            reading.first_word(at, &word)?;
        }
    }
    Ok(reading)
}

impl Reading {
    fn word(&self, at: usize) -> Option<String> {
        self.args.get(at).map(|arg| arg.to_string_lossy().into_owned())
    }

    fn replace(&mut self, at: usize, count: usize, words: &[&str]) {
        self.args.splice(at..at + count, words.iter().map(OsString::from));
    }

    /// Where the first word is. Docker's flags before it are taken out, or refused.
    fn global_flags(&mut self) -> Result<usize, Failure> {
        let mut at = 1;
        while let Some(arg) = self.word(at) {
            let (name, value) =
                arg.split_once('=').map_or((arg.as_str(), None), |(name, value)| (name, Some(value)));
            match name {
                "--root" | "--registries" => at += if value.is_some() { 1 } else { 2 },
                // They change what docker's client prints, of which there is nothing here.
                "-D" | "--debug" => drop(self.args.remove(at)),
                "-l" | "--log-level" => {
                    let count = if value.is_some() { 1 } else { 2.min(self.args.len() - at) };
                    self.args.drain(at..at + count);
                }
                "-H" | "--host" | "--tls" | "--tlsverify" | "--tlscacert" | "--tlscert" | "--tlskey" => {
                    return Err(unsupported(
                        format!("there is no daemon to connect to, so {name} has no meaning"),
                        "leave it out: rbuild builds where it runs",
                    ));
                }
                "--config" => {
                    return Err(unsupported(
                        "--config is not supported",
                        "set DOCKER_CONFIG to the directory with config.json",
                    ));
                }
                "--builder" if self.names_own_builder(at, value) => {
                    let count = if value.is_some() { 1 } else { 2 };
                    self.args.drain(at..at + count);
                }
                _ => break,
            }
        }
        Ok(at)
    }

    /// `--builder default` before a command.
    fn names_own_builder(&self, at: usize, value: Option<&str>) -> bool {
        let next = self.word(at + 1);
        value.or(next.as_deref()) == Some("default")
    }

    fn first_word(&mut self, at: usize, word: &str) -> Result<(), Failure> {
        let second = self.word(at + 1).unwrap_or_default();
        if GROUPS.contains(&word) {
            return self.second_word(at, word, &second);
        }
        if let Some((_, command)) = ONE.iter().find(|(name, _)| *name == word) {
            self.replace(at, 1, &[command]);
            return Ok(());
        }
        // The path itself may be any bytes.
        let is_path = self.args.get(at).is_some_and(|path| Path::new(path).exists());
        if names_context(word) || (is_path && !is_command(word)) {
            self.args.insert(at, "build".into());
            return Ok(());
        }
        if is_command(word) {
            return Ok(());
        }
        if TOOLS.contains(&word) && self.args.len() > at + 1 {
            let rest: Vec<_> = self.args[at + 1..].iter().map(|arg| arg.to_string_lossy()).collect();
            return Err(usage(format!("rbuild stands in the place of {word}: leave that word out"))
                .help(format!("rbuild {}", rest.join(" "))));
        }
        if let Some((_, instead)) = NOT_HERE.iter().find(|(words, _)| words.contains(&word)) {
            return Err(unsupported(format!("rbuild has no command `{word}`"), instead));
        }
        Err(unknown(word))
    }

    fn second_word(&mut self, at: usize, word: &str, second: &str) -> Result<(), Failure> {
        if let Some((.., words)) = TWO.iter().find(|(one, two, _)| *one == word && *two == second) {
            self.replace(at, 2, words);
            self.note = note(word, second, &self.args);
            return Ok(());
        }
        match (word, second) {
            ("buildx", _) if second.starts_with("--builder") => {
                let value = second.strip_prefix("--builder=").map(str::to_owned);
                if value.or_else(|| self.word(at + 2)).as_deref() != Some("default") {
                    return Err(unsupported(
                        "--builder is not supported",
                        "rbuild has no builders: it builds by itself",
                    ));
                }
                let count = if second.contains('=') { 1 } else { 2 };
                self.args.drain(at + 1..at + 1 + count);
                let third = self.word(at + 1).unwrap_or_default();
                return self.second_word(at, word, &third);
            }
            ("buildx", "imagetools") => return self.image_tools(at),
            ("buildx", "history") => return self.build_history(at),
            ("manifest", "inspect") => return self.remote(at, 2, &["inspect", "--raw"]),
            ("buildx", "ls" | "inspect" | "create" | "use" | "rm" | "stop" | "install" | "uninstall") => {
                return self.builders(at, second);
            }
            _ => {}
        }
        let not_here = NOT_HERE_TWO.iter().find(|(one, two, _)| *one == word && two.contains(&second));
        if let Some((.., instead)) = not_here {
            return Err(unsupported(format!("rbuild has no command `{word} {second}`"), instead));
        }
        if matches!(second, "-h" | "--help") {
            self.replace(at, 2, &["help", "docker"]);
            return Ok(());
        }
        let known: Vec<&str> = second_words(word);
        let list = format!("of `{word}` there are {}", known.join(", "));
        if second.is_empty() {
            return Err(usage(format!("`rbuild {word}` needs another word")).help(list));
        }
        let near = suggest(second, known.iter().copied())
            .map_or_else(String::new, |near| format!("; did you mean `{word} {near}`?"));
        Err(usage(format!("rbuild has no command `{word} {second}`{near}")).help(list))
    }

    /// Names of images in a registry instead of the store.
    fn remote(&mut self, at: usize, count: usize, words: &[&str]) -> Result<(), Failure> {
        self.replace(at, count, words);
        for arg in self.args.iter_mut().skip(at + words.len()) {
            let text = arg.to_string_lossy();
            if !text.starts_with('-') && !text.contains("{{") && !text.contains("://") && !text.is_empty() {
                *arg = format!("docker://{text}").into();
            }
        }
        Ok(())
    }

    fn image_tools(&mut self, at: usize) -> Result<(), Failure> {
        match self.word(at + 2).as_deref() {
            Some("inspect") => self.remote(at, 3, &["inspect"]),
            Some("create") => self.create_index(at),
            _ => Err(usage("`buildx imagetools` needs another word")
                .help("there are `imagetools inspect NAME` and `imagetools create -t NAME IMAGE...`")),
        }
    }

    /// `buildx history` is `builds`.
    fn build_history(&mut self, at: usize) -> Result<(), Failure> {
        let third = self.word(at + 2).unwrap_or_default();
        let own = match third.as_str() {
            "ls" | "inspect" | "logs" | "rm" => third.as_str(),
            "" | "-h" | "--help" => "--help",
            "export" | "import" | "open" | "trace" => {
                return Err(unsupported(
                    format!("rbuild has no command `buildx history {third}`"),
                    "`rbuild builds show --format json` prints all that is remembered of a build",
                ));
            }
            _ => {
                return Err(usage(format!("rbuild has no command `buildx history {third}`"))
                    .help("there are `history ls`, `inspect`, `logs` and `rm`"));
            }
        };
        if own == "inspect" && self.word(at + 3).as_deref() == Some("attachment") {
            return Err(unsupported(
                "`buildx history inspect attachment` is not supported",
                "`rbuild builds show --format json` prints all that is remembered of a build",
            ));
        }
        let count = 3.min(self.args.len() - at);
        self.replace(at, count, &["builds", own]);
        Ok(())
    }

    /// `buildx imagetools create -t NAME IMAGE...` is `index create --push NAME IMAGE...`.
    fn create_index(&mut self, at: usize) -> Result<(), Failure> {
        let (mut name, mut rest) = (None, Vec::new());
        let mut words = self.args.drain(at + 3..).map(|arg| arg.to_string_lossy().into_owned());
        while let Some(arg) = words.next() {
            match arg.split_once('=') {
                Some(("-t" | "--tag", value)) => name = Some(value.to_owned()),
                None if matches!(arg.as_str(), "-t" | "--tag") => name = words.next(),
                _ => rest.push(arg),
            }
        }
        drop(words);
        let Some(name) = name else {
            return Err(usage("`buildx imagetools create` needs -t NAME, the name of the new index")
                .help("rbuild index create --push NAME IMAGE..."));
        };
        self.replace(at, 3, &["index", "create", "--push", &name]);
        self.args.extend(rest.into_iter().map(OsString::from));
        Ok(())
    }

    /// There are no builders to manage, and scripts that manage them go on.
    fn builders(&mut self, at: usize, second: &str) -> Result<(), Failure> {
        let mut words = self.args[at + 2..].iter().filter_map(|arg| arg.to_str());
        let name = words.find_map(|arg| arg.strip_prefix("--name")).map(|rest| rest.strip_prefix('='));
        let name = name.and_then(|inline| inline.or_else(|| words.next()));
        self.answer = Some(match second {
            "ls" => {
                "NAME/NODE    DRIVER/ENDPOINT  STATUS   PLATFORMS\ndefault*     rbuild           running  \
                     as `rbuild info` says\n"
                    .to_owned()
            }
            "inspect" => {
                "Name:   default\nDriver: rbuild\n\nNodes:\nName:   default\nStatus: running\n".to_owned()
            }
            "create" => format!("{}\n", name.unwrap_or("default")),
            _ => String::new(),
        });
        if !matches!(second, "ls" | "inspect") {
            self.note = Some(format!(
                "rbuild has no builders: it builds by itself, so `buildx {second}` does nothing"
            ));
        }
        Ok(())
    }
}

/// What a word means here, where docker's users expect something else.
fn note(word: &str, second: &str, args: &[OsString]) -> Option<String> {
    let all = args.iter().any(|arg| arg.to_str().is_some_and(|arg| arg == "--all" || is_short(arg, 'a')));
    match (word, second) {
        ("image", "prune") => Some(
            "images with a name and the build cache stay (`rbuild builder prune -a` removes the cache); images without \
             a name go"
                .into(),
        ),
        ("system", "prune") if all => {
            Some("images with a name stay (`rbuild rmi NAME` removes names); everything else goes".into())
        }
        ("system", "prune") => Some(
            "images with a name stay; what was not used for a while goes, see `rbuild help the-store`".into(),
        ),
        _ => None,
    }
}

fn is_short(arg: &str, letter: char) -> bool {
    arg.starts_with('-') && !arg.starts_with("--") && arg.contains(letter)
}

fn second_words(word: &str) -> Vec<&'static str> {
    let more: &[&str] = match word {
        "buildx" => &["imagetools", "history", "ls", "inspect", "create", "use", "rm"],
        "manifest" => &["inspect"],
        _ => &[],
    };
    TWO.iter().filter(|(one, ..)| *one == word).map(|(_, two, _)| *two).chain(more.iter().copied()).collect()
}

/// A path, an address, or the standard input: no command looks like that.
fn names_context(word: &str) -> bool {
    word == "-"
        || word == "."
        || word == ".."
        || word.contains(['/', ':', '\\'])
        || word.starts_with("git@")
        || word.is_empty()
}

/// The commands, which every line is compared with: making the list from all their flags is not cheap.
const COMMANDS: [&str; 37] = [
    "build",
    "kaniko",
    "plan",
    "explain",
    "builds",
    "cache",
    "check",
    "run",
    "images",
    "inspect",
    "history",
    "save",
    "tag",
    "rmi",
    "push",
    "pull",
    "load",
    "copy",
    "referrers",
    "index",
    "login",
    "logout",
    "sign",
    "verify",
    "sbom",
    "validate",
    "diff",
    "verify-reproducible",
    "lock",
    "vendor",
    "prune",
    "du",
    "fsck",
    "info",
    "completion",
    "version",
    "help",
];

fn is_command(word: &str) -> bool {
    COMMANDS.contains(&word)
}

fn unknown(word: &str) -> Failure {
    let shown = crate::visible::visible_line(word);
    let near = NEAR.iter().find(|(name, _)| *name == word).map(|(_, command)| *command);
    let others = ["image", "builder", "buildx", "system", "compose", "bake"];
    let near = near.or_else(|| suggest(word, COMMANDS.into_iter().chain(others)));
    let message = format!("there is no command `{shown}`, and no directory of that name to build");
    match near {
        Some(near) => usage(message).help(format!("did you mean `rbuild {near}`?")),
        None => usage(message).help("`rbuild help` lists the commands"),
    }
}

/// The command that a line is about, for messages.
pub(super) fn command(args: &[OsString]) -> &str {
    let mut words = args.iter().skip(1).filter_map(|arg: &OsString| OsStr::to_str(arg));
    while let Some(word) = words.next() {
        match word {
            "--root" | "--registries" => drop(words.next()),
            word if word.starts_with('-') => {}
            word => return word,
        }
    }
    ""
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(text: &str) -> Result<String, Failure> {
        let words = std::iter::once("rbuild").chain(text.split_whitespace()).map(OsString::from);
        let reading = read(words)?;
        let words: Vec<_> = reading.args[1..].iter().map(|arg| arg.to_string_lossy().into_owned()).collect();
        Ok(words.join(" "))
    }

    #[test]
    fn the_list_of_commands_is_that_of_the_parser() {
        use clap::CommandFactory as _;
        let all = crate::cli::args::Cli::command();
        let names: Vec<&str> = all.get_subcommands().map(clap::Command::get_name).collect();
        assert_eq!(names, COMMANDS);
    }

    #[test]
    fn words_of_other_tools_become_ours() {
        for (typed, ours) in [
            ("-t a:1 .", "build -t a:1 ."),
            (".", "build ."),
            ("-", "build -"),
            ("--root /x -t a:1 .", "--root /x build -t a:1 ."),
            ("-D build .", "build ."),
            ("--log-level debug build .", "build ."),
            ("--builder default build .", "build ."),
            ("buildx build -t a:1 .", "build -t a:1 ."),
            ("buildx b .", "build ."),
            ("bud -t x .", "build -t x ."),
            ("image ls -a", "images -a"),
            ("image rm x", "rmi x"),
            ("builder prune -f", "prune -f"),
            ("image prune -a", "prune --images -a"),
            ("system df -v", "du -v"),
            ("manifest inspect app:1", "inspect --raw docker://app:1"),
            ("buildx imagetools inspect --raw app:1", "inspect --raw docker://app:1"),
            ("buildx imagetools create -t a b c", "index create --push a b c"),
            ("buildx history ls", "builds ls"),
            ("buildx history inspect ^1", "builds inspect ^1"),
            ("buildx history logs", "builds logs"),
            ("buildx history", "builds --help"),
            ("-v", "--version"),
            ("images -a", "images -a"),
            ("git@example.com:x.git", "build git@example.com:x.git"),
        ] {
            assert_eq!(own(typed).map_err(|failure| failure.message), Ok(ours.to_owned()), "{typed}");
        }
    }

    #[test]
    fn what_is_not_here_says_so() {
        for (typed, words) in [
            ("biuld .", "there is no command `biuld`"),
            ("ps -a", "no command `ps`"),
            ("compose build", "no command `compose`"),
            ("buildx bake", "no command `buildx bake`"),
            ("buildx history trace", "no command `buildx history trace`"),
            ("image lss", "did you mean `image ls`?"),
            ("image", "needs another word"),
            ("podman build .", "leave that word out"),
            ("-H tcp://x build .", "no daemon"),
            ("manifest create a b", "no command `manifest create`"),
        ] {
            let failure = own(typed).expect_err(typed);
            assert!(failure.message.contains(words) && failure.help.is_some(), "{typed}: {failure:?}");
        }
    }

    #[test]
    fn scripts_that_manage_builders_go_on() {
        let words = "rbuild buildx create --use --name ci".split(' ').map(OsString::from);
        let reading = read(words).unwrap();
        assert_eq!(reading.answer.as_deref(), Some("ci\n"));
        assert!(reading.note.is_some());
    }
}
