//! Every flag of Kaniko's executor (its README and `--help`, release 1.24), and what becomes of it.
//!
//! `docs/kaniko.md` and `rbuild kaniko --help` are written from this table.

/// What a flag takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Takes {
    /// Nothing, or `=true` and `=false`.
    Switch,
    /// A value; of several, the last counts.
    One,
    /// A value each time.
    Many,
}

/// What becomes of a flag.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fate {
    /// It does what it does in Kaniko; details, if any.
    Same(&'static str),
    /// It does that, and `rbuild build` spells it so.
    Spelled(&'static str),
    /// The image is the same without it, for this reason.
    Idle(&'static str),
    /// The build fails, for this reason. A switch that is off is no reason.
    Refused(&'static str),
}

/// One flag.
#[derive(Debug)]
pub(super) struct Flag {
    /// Without dashes.
    pub name: &'static str,
    /// The letter.
    pub short: Option<char>,
    pub takes: Takes,
    pub fate: Fate,
}

use Fate::{Idle, Refused, Same, Spelled};
use Takes::{Many, One, Switch};

const fn flag(name: &'static str, takes: Takes, fate: Fate) -> Flag {
    Flag { name, short: None, takes, fate }
}

const fn short(letter: char, name: &'static str, takes: Takes, fate: Fate) -> Flag {
    Flag { name, short: Some(letter), takes, fate }
}

/// Why a way to hunt for changes does not matter.
const SNAPSHOTS: &str =
    "changes of a step are what it wrote into its upper directory: nothing is scanned or compared";

/// All of them, in the order of their names.
pub(super) const FLAGS: &[Flag] = &[
    flag(
        "azure-container-registry-config",
        One,
        Refused("credentials come from Docker's config.json and its helpers: docker-credential-acr-env"),
    ),
    short('b', "bucket", One, Refused("object stores are not supported yet; download the context first")),
    flag("build-arg", Many, Spelled("--build-arg NAME=VALUE")),
    flag(
        "cache",
        Switch,
        Same("without it every step is executed; `rbuild build` uses the cache of its store always"),
    ),
    flag("cache-copy-layers", Switch, Idle("COPY is always found by the content of its files")),
    flag(
        "cache-dir",
        One,
        Idle(
            "the warmer's base images are not read: bases come from the registry; a volume at `RBUILD_ROOT` keeps them",
        ),
    ),
    flag(
        "cache-repo",
        One,
        Spelled("--cache-from and --cache-to type=registry,ref=NAME,mode=max; oci:DIR is type=local"),
    ),
    flag("cache-run-layers", Switch, Same("`=false` executes every step")),
    flag(
        "cache-ttl",
        One,
        Same(
            "counted from the execution of a step, also for results in the store; without effect where SOURCE_DATE_EPOCH or --reproducible takes times away",
        ),
    ),
    flag(
        "cleanup",
        Switch,
        Idle("nothing is unpacked over the container's own files, so there is nothing to clean up"),
    ),
    flag(
        "compressed-caching",
        Switch,
        Idle("memory does not grow with the size of layers; how they are compressed is --compression"),
    ),
    flag("compression", One, Spelled("-o type=image,compression=gzip|zstd")),
    flag("compression-level", One, Spelled("-o type=image,compression-level=N")),
    short(
        'c',
        "context",
        One,
        Same(
            "dir://, tar:// (also compressed, also tar://stdin), git:// and https://; gs://, s3:// and Azure's addresses are refused",
        ),
    ),
    flag("context-sub-path", One, Same("")),
    flag("custom-platform", One, Spelled("--platform OS/ARCH[/VARIANT]")),
    flag("customPlatform", One, Spelled("--platform OS/ARCH[/VARIANT]")),
    short('d', "destination", Many, Spelled("-t NAME --push")),
    flag("digest-file", One, Same("no https:// address; `rbuild build` has --metadata-file")),
    short(
        'f',
        "dockerfile",
        One,
        Spelled("-f FILE; a file of this name in the working directory comes before one in the context"),
    ),
    flag("force", Switch, Idle("a build changes nothing outside its store, in a container or not")),
    flag("force-build-metadata", Switch, Refused("instructions that change no file make no layers")),
    flag(
        "git",
        Many,
        Same(
            "branch= and recurse-submodules=; single-branch= changes nothing, insecure-skip-tls=true is refused",
        ),
    ),
    flag("help", Switch, Same("")),
    flag(
        "ignore-path",
        Many,
        Refused(
            "what a step writes is in its layer; remove it in the same RUN, or put a mount there: RUN --mount=type=tmpfs,target=PATH",
        ),
    ),
    flag(
        "ignore-var-run",
        Switch,
        Idle(
            "mounts of the container are not visible to RUN, and what a step leaves in /var/run is in the image",
        ),
    ),
    flag(
        "image-download-retry",
        One,
        Same("each request is tried at least so often again; five attempts are usual"),
    ),
    flag(
        "image-fs-extract-retry",
        One,
        Same("each request is tried at least so often again; five attempts are usual"),
    ),
    flag("image-name-tag-with-digest-file", One, Same("no https:// address")),
    flag("image-name-with-digest-file", One, Same("no https:// address")),
    flag(
        "insecure",
        Switch,
        Spelled("--insecure-registry for the registries of --destination and --cache-repo"),
    ),
    flag("insecure-pull", Switch, Same("for every registry that nothing is pushed to")),
    flag("insecure-registry", Many, Spelled("--insecure-registry HOST[:PORT]")),
    flag("kaniko-dir", One, Same("only Docker's configuration is looked for there, in `.docker`")),
    flag("label", Many, Spelled("--label NAME=VALUE")),
    flag(
        "log-format",
        One,
        Spelled(
            "--progress: `text` is plain, `json` rawjson, whose fields are BuildKit's; `color` depends on the terminal",
        ),
    ),
    flag("log-timestamp", Switch, Idle("each line has its step and the time since that began")),
    flag("no-push", Switch, Same("")),
    flag("no-push-cache", Switch, Spelled("leave --cache-to out")),
    flag("oci-layout-path", One, Spelled("-o type=oci,tar=false,dest=DIR")),
    flag(
        "push-ignore-immutable-tag-errors",
        Switch,
        Same("in the words of Artifact Registry, ECR and Harbor"),
    ),
    flag("push-retry", One, Same("each request is tried at least so often again; five attempts are usual")),
    flag("registry-certificate", Many, Same("`rbuild build` has `ca` in registries.toml")),
    flag("registry-client-cert", Many, Same("`rbuild build` has `/etc/docker/certs.d`")),
    flag("registry-map", Many, Same("`rbuild build` has `mirrors` in registries.toml")),
    flag("registry-mirror", Many, Same("`rbuild build` has `mirrors` in registries.toml")),
    flag(
        "reproducible",
        Switch,
        Same(
            "`rbuild build --reproducible`, with 1970 as the time unless SOURCE_DATE_EPOCH is set; layers of the base stay as they are",
        ),
    ),
    flag("single-snapshot", Switch, Spelled("--squash")),
    flag("skip-default-registry-fallback", Switch, Same("")),
    flag("skip-push-permission-check", Switch, Same("")),
    flag(
        "skip-tls-verify",
        Switch,
        Spelled("--insecure-registry for the registries of --destination and --cache-repo"),
    ),
    flag(
        "skip-tls-verify-pull",
        Switch,
        Same("for every registry that nothing is pushed to; plain http counts too"),
    ),
    flag("skip-tls-verify-registry", Many, Spelled("--insecure-registry HOST[:PORT]")),
    flag("skip-unused-stages", Switch, Idle("stages that the target does not need are never built")),
    flag("snapshot-mode", One, Idle(SNAPSHOTS)),
    flag("snapshotMode", One, Idle(SNAPSHOTS)),
    flag("tar-path", One, Spelled("-o type=docker,dest=FILE")),
    flag("target", One, Spelled("--target STAGE")),
    flag("tarPath", One, Spelled("-o type=docker,dest=FILE")),
    flag("use-new-run", Switch, Idle(SNAPSHOTS)),
    short(
        'v',
        "verbosity",
        One,
        Spelled(
            "--progress: `info`, `debug` and `trace` are the same, `warn` shows warnings, the rest failures only",
        ),
    ),
    flag(
        "whitelist-var-run",
        Switch,
        Idle(
            "mounts of the container are not visible to RUN, and what a step leaves in /var/run is in the image",
        ),
    ),
];

/// The flag of a name.
pub(super) fn find(name: &str) -> Option<&'static Flag> {
    FLAGS.iter().find(|flag| flag.name == name)
}

/// The flag of a letter.
pub(super) fn by_letter(letter: char) -> Option<&'static Flag> {
    FLAGS.iter().find(|flag| flag.short == Some(letter) || (letter == 'h' && flag.name == "help"))
}

/// The table for a terminal.
pub(super) fn help() -> String {
    let mut out = String::from(
        "Usage: executor [FLAGS], or rbuild kaniko [FLAGS]\n\nBuilds and pushes an image as told by flags of Kaniko's \
         executor.\n\n",
    );
    for flag in FLAGS {
        let letter = flag.short.map_or("    ".to_owned(), |letter| format!("-{letter}, "));
        let value = if flag.takes == Switch { "" } else { " VALUE" };
        let (word, text) = flag.fate.words();
        let text = text.replace('`', "");
        let more = if text.is_empty() { String::new() } else { format!(": {text}") };
        out.push_str(&format!("  {letter}--{}{value}\n          {word}{more}\n", flag.name));
    }
    out.push_str(
        "\nVariables: KANIKO_DIR, KANIKO_NO_PUSH, KANIKO_REGISTRY_MIRROR, KANIKO_REGISTRY_MAP, GIT_TOKEN, ",
    );
    out.push_str("GIT_USERNAME, GIT_PASSWORD,\nGIT_PULL_METHOD, BUILDER_OUTPUT, and those of `rbuild help environment`.\n");
    out
}

impl Fate {
    fn words(self) -> (&'static str, &'static str) {
        match self {
            Same(text) => ("same", text),
            Spelled(text) => ("same", text),
            Idle(text) => ("no effect", text),
            Refused(text) => ("refused", text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Headings of the section "Additional Flags" of Kaniko's README, and flags that only its `--help` or its sources
    /// have.
    const KNOWN: &str = "
        azure-container-registry-config build-arg bucket cache cache-dir cache-repo cache-copy-layers cache-run-layers
        cache-ttl cleanup compressed-caching compression compression-level context context-sub-path custom-platform
        customPlatform destination digest-file dockerfile force force-build-metadata git help
        image-name-with-digest-file image-name-tag-with-digest-file insecure insecure-pull insecure-registry kaniko-dir
        label log-format log-timestamp no-push no-push-cache oci-layout-path push-ignore-immutable-tag-errors push-retry
        registry-certificate registry-client-cert registry-map registry-mirror skip-default-registry-fallback
        reproducible single-snapshot skip-push-permission-check skip-tls-verify skip-tls-verify-pull
        skip-tls-verify-registry skip-unused-stages snapshot-mode snapshotMode tar-path tarPath target use-new-run
        verbosity ignore-var-run ignore-path image-fs-extract-retry image-download-retry whitelist-var-run";

    /// The table for `docs/kaniko.md`.
    fn markdown() -> String {
        let mut out = String::from("| flag | here | |\n| --- | --- | --- |\n");
        for flag in FLAGS {
            let letter = flag.short.map(|letter| format!(", `-{letter}`")).unwrap_or_default();
            let (word, text) = flag.fate.words();
            out.push_str(&format!("| `--{}`{letter} | {word} | {text} |\n", flag.name));
        }
        out
    }

    #[test]
    fn every_flag_of_kaniko_is_in_the_table_once() {
        let mut known: Vec<&str> = KNOWN.split_whitespace().collect();
        known.sort_by_key(|name| name.to_lowercase());
        let names: Vec<&str> = FLAGS.iter().map(|flag| flag.name).collect();
        assert_eq!(names, known);
    }

    #[test]
    fn the_page_has_the_table() {
        const MARKS: [&str; 2] = ["<!-- flags -->\n", "<!-- end of flags -->\n"];
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/kaniko.md");
        let page = std::fs::read_to_string(path).unwrap_or_default();
        let (head, rest) = page.split_once(MARKS[0]).expect("the table begins");
        let (old, tail) = rest.split_once(MARKS[1]).expect("the table ends");
        let new = markdown();
        if std::env::var_os("RBUILD_WRITE_DOCS").is_some() {
            let page = format!("{head}{}{new}{}{tail}", MARKS[0], MARKS[1]);
            std::fs::write(path, page).unwrap_or_else(|error| panic!("{path}: {error}"));
        } else {
            assert!(old == new, "docs/kaniko.md is old: RBUILD_WRITE_DOCS=1 cargo test --lib cli::kaniko");
        }
    }
}
