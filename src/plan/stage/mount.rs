//! `RUN --mount`: options to mounts, as BuildKit checks them.

use std::sync::Arc;

use crate::dockerfile::{MountFlag, Source, Word};
use crate::plan::error::PlanError;
use crate::plan::graph::{CopyOrigin, RunMount, RunMountKind, Sharing};
use crate::plan::resolve::Origin;
use crate::suggest::suggest;

use super::{Walk, join_clean};

const TYPES: [&str; 5] = ["bind", "cache", "tmpfs", "secret", "ssh"];
const SHARING: [&str; 3] = ["shared", "private", "locked"];
const KEYS: [&str; 19] = [
    "type",
    "from",
    "source",
    "src",
    "target",
    "dst",
    "destination",
    "readonly",
    "ro",
    "readwrite",
    "rw",
    "required",
    "size",
    "id",
    "sharing",
    "mode",
    "uid",
    "gid",
    "env",
];

/// The options of one mount, values expanded.
#[derive(Default)]
struct Options {
    kind: Option<String>,
    from: Option<String>,
    source: Option<String>,
    target: Option<String>,
    readonly: Option<bool>,
    required: Option<bool>,
    size: Option<u64>,
    id: Option<String>,
    sharing: Option<Sharing>,
    mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
    env: Option<String>,
}

/// What `from=` of a mount names, unless its type has none.
pub(in crate::plan) fn from_of(mount: &MountFlag) -> Option<Word> {
    let value = |name: &str| {
        mount.options.iter().rev().find(|(key, _)| key == name).and_then(|(_, value)| value.clone())
    };
    let text = value("from").filter(|text| !text.is_empty())?;
    Some(Word { text, span: mount.value.span })
}

impl Walk<'_, '_> {
    /// All mounts of a RUN, in order of writing.
    pub(super) fn mounts(
        &mut self,
        source: &Arc<Source>,
        mounts: &[MountFlag],
    ) -> Result<Vec<RunMount>, PlanError> {
        let mut ssh_sockets = 0;
        mounts.iter().map(|mount| self.mount(source, mount, &mut ssh_sockets)).collect()
    }

    fn mount(
        &mut self,
        source: &Arc<Source>,
        mount: &MountFlag,
        ssh_sockets: &mut usize,
    ) -> Result<RunMount, PlanError> {
        let fail = |message: String| PlanError::at(source, mount.value.span, message);
        let options = self.mount_options(source, mount)?;
        let kind = options.kind.clone().unwrap_or_else(|| "bind".into());
        check_combination(&kind, &options).map_err(fail)?;
        let target = |walk: &Self| {
            let target = join_clean(walk.cwd(), options.target.as_deref().unwrap_or_default());
            if target == "/" { Err(fail("invalid mount target \"/\"".into())) } else { Ok(target) }
        };
        let readonly = options.readonly.unwrap_or(!matches!(kind.as_str(), "cache" | "tmpfs"));
        let within = join_clean("/", options.source.as_deref().unwrap_or_default());
        Ok(match kind.as_str() {
            "cache" => {
                let target = target(self)?;
                let written = options.target.clone().unwrap_or_default();
                RunMount {
                    target: Some(target),
                    kind: RunMountKind::Cache {
                        id: options.id.clone().filter(|id| !id.is_empty()).unwrap_or(clean(&written)),
                        namespace: self.builder.build_arg("BUILDKIT_CACHE_MOUNT_NS").unwrap_or("").to_owned(),
                        origin: match options.from {
                            Some(_) => self.mount_origin(source, mount)?,
                            None => None,
                        },
                        source: within,
                        sharing: options.sharing.unwrap_or_default(),
                        mode: options.mode,
                        uid: options.uid,
                        gid: options.gid,
                        readonly,
                    },
                }
            }
            "tmpfs" => {
                RunMount { target: Some(target(self)?), kind: RunMountKind::Tmpfs { size: options.size } }
            }
            "secret" => self.secret(&options),
            "ssh" => {
                let number = *ssh_sockets;
                *ssh_sockets += 1;
                let target = match options.target.as_deref() {
                    Some(target) if !target.is_empty() => join_clean(self.cwd(), target),
                    _ => format!("/run/buildkit/ssh_agent.{number}"),
                };
                RunMount {
                    target: Some(target),
                    kind: RunMountKind::Ssh {
                        id: options.id.clone().filter(|id| !id.is_empty()).unwrap_or("default".into()),
                        required: options.required.unwrap_or(false),
                        mode: options.mode.unwrap_or(0o600),
                        uid: options.uid.unwrap_or(0),
                        gid: options.gid.unwrap_or(0),
                    },
                }
            }
            _ => RunMount {
                target: Some(target(self)?),
                kind: RunMountKind::Bind {
                    origin: self.mount_origin(source, mount)?,
                    source: within,
                    writable: !readonly,
                },
            },
        })
    }

    /// A file unless only a variable was asked for.
    fn secret(&self, options: &Options) -> RunMount {
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let target = given(&options.target);
        let id = given(&options.source)
            .or_else(|| given(&options.id))
            .unwrap_or_else(|| base_name(target.as_deref().unwrap_or_default()).to_owned());
        let file = match (&target, &options.env) {
            (Some(target), _) => Some(join_clean(self.cwd(), target)),
            (None, None) => Some(format!("/run/secrets/{}", base_name(&id))),
            (None, Some(_)) => None,
        };
        RunMount {
            target: file,
            kind: RunMountKind::Secret {
                id,
                env: options.env.clone(),
                required: options.required.unwrap_or(false),
                mode: options.mode.unwrap_or(0o400),
                uid: options.uid.unwrap_or(0),
                gid: options.gid.unwrap_or(0),
            },
        }
    }

    /// `None` is nothing at all: `from=scratch`, or a stage without steps.
    fn mount_origin(
        &mut self,
        source: &Arc<Source>,
        mount: &MountFlag,
    ) -> Result<Option<CopyOrigin>, PlanError> {
        let Some(from) = from_of(mount) else { return Ok(Some(CopyOrigin::Context(String::new()))) };
        Ok(match self.builder.copy_origin(self.index, &from, source)? {
            Origin::Stage(stage) => {
                let last = self.builder.evaluated.get(&stage).and_then(|state| state.last);
                last.map(|id| CopyOrigin::Step(id, format!("stage {:?}", from.text)))
            }
            Origin::Files(name) => Some(CopyOrigin::Context(name)),
            Origin::Image(name) => {
                let id = self.builder.image_step(&name, source, from.span)?;
                Some(CopyOrigin::Step(id, format!("image {name:?}")))
            }
            Origin::Scratch { .. } => None,
        })
    }

    fn mount_options(&mut self, source: &Arc<Source>, mount: &MountFlag) -> Result<Options, PlanError> {
        let mut options = Options::default();
        let mut seen: Vec<&str> = Vec::new();
        for (key, value) in &mount.options {
            let fail = |message: String| PlanError::at(source, mount.value.span, message);
            let canonical = match key.as_str() {
                "src" => "source",
                "dst" | "destination" => "target",
                "ro" | "readwrite" | "rw" => "readonly",
                key => key,
            };
            if seen.contains(&canonical) {
                return Err(fail(format!("duplicate key {key:?} in --mount")));
            }
            seen.push(canonical);
            let value = match value {
                Some(value) if key == "from" => Some(value.clone()),
                Some(value) => {
                    let word = Word { text: value.clone(), span: mount.value.span };
                    Some(self.expand(source, &word)?)
                }
                None => None,
            };
            options.set(key, value.as_deref()).map_err(|(message, help)| {
                let error = fail(message);
                if help.is_empty() { error } else { error.help(help) }
            })?;
        }
        Ok(options)
    }
}

impl Options {
    fn set(&mut self, key: &str, value: Option<&str>) -> Result<(), (String, String)> {
        let plain = |message: String| (message, String::new());
        let Some(value) = value else {
            match key {
                "readonly" | "ro" => self.readonly = Some(true),
                "readwrite" | "rw" => self.readonly = Some(false),
                "required" => self.required = Some(true),
                key if KEYS.contains(&key) => {
                    return Err(plain(format!("invalid field '{key}' must be a key=value pair")));
                }
                key => return Err(unknown("unexpected key", key, &KEYS)),
            }
            return Ok(());
        };
        let number = |radix| {
            u32::from_str_radix(value, radix).map_err(|_| plain(format!("invalid value {value} for {key}")))
        };
        let switch = || boolean(value).ok_or_else(|| plain(format!("invalid value for {key}: {value}")));
        match key {
            "type" => {
                let lower = value.to_lowercase();
                if !TYPES.contains(&lower.as_str()) {
                    return Err(unknown("unsupported mount type", value, &TYPES));
                }
                self.kind = Some(lower);
            }
            "from" => self.from = Some(value.to_owned()),
            "source" | "src" => self.source = Some(value.to_owned()),
            "target" | "dst" | "destination" => self.target = Some(value.to_owned()),
            "readonly" | "ro" => self.readonly = Some(switch()?),
            "readwrite" | "rw" => self.readonly = Some(!switch()?),
            "required" => self.required = Some(switch()?),
            "size" => {
                let size = crate::size::bytes(value);
                self.size = Some(size.ok_or_else(|| plain(format!("invalid value for size: {value}")))?);
            }
            "id" => self.id = Some(value.to_owned()),
            "sharing" => {
                self.sharing = Some(match value.to_lowercase().as_str() {
                    "shared" => Sharing::Shared,
                    "private" => Sharing::Private,
                    "locked" => Sharing::Locked,
                    _ => return Err(unknown("unsupported sharing value", value, &SHARING)),
                });
            }
            "mode" => self.mode = Some(number(8)?),
            "uid" => self.uid = Some(number(10)?),
            "gid" => self.gid = Some(number(10)?),
            "env" => self.env = Some(value.to_owned()),
            key => return Err(unknown("unexpected key", key, &KEYS)),
        }
        Ok(())
    }
}

fn unknown(what: &str, word: &str, known: &[&str]) -> (String, String) {
    let help = match suggest(word, known.iter().copied()) {
        Some(near) => format!("did you mean {near:?}?"),
        None => format!("known are {}", known.join(", ")),
    };
    (format!("{what} {word:?} in --mount"), help)
}

/// Which options go with which type (BuildKit's `validateMount`).
fn check_combination(kind: &str, options: &Options) -> Result<(), String> {
    let owned = matches!(kind, "secret" | "ssh" | "cache");
    let of_secret = kind == "secret";
    let rows = [
        (options.mode.is_some() && !owned, "mode"),
        (options.uid.is_some() && !owned, "uid"),
        (options.gid.is_some() && !owned, "gid"),
        (options.size.is_some() && kind != "tmpfs", "size"),
        (options.sharing.is_some() && kind != "cache", "sharing"),
        (options.env.is_some() && !of_secret, "env"),
        (options.required.is_some() && !of_secret && kind != "ssh", "required"),
        (options.from.is_some() && matches!(kind, "secret" | "ssh" | "tmpfs"), "from"),
        (options.source.is_some() && matches!(kind, "ssh" | "tmpfs"), "source"),
    ];
    if let Some((_, key)) = rows.iter().find(|(wrong, _)| *wrong) {
        return Err(format!("{key} not allowed for {kind:?} type mounts"));
    }
    let empty = |text: &Option<String>| text.as_deref().unwrap_or_default().is_empty();
    if of_secret && empty(&options.source) && empty(&options.target) && empty(&options.id) {
        return Err("invalid secret mount. one of source, target required".into());
    }
    if of_secret && !empty(&options.source) && !empty(&options.id) {
        return Err("both source and id can't be set".into());
    }
    if options.env.as_deref() == Some("") {
        return Err("env of a secret mount needs the name of a variable".into());
    }
    Ok(())
}

/// As Go's `strconv.ParseBool`.
pub(super) fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

/// Go's `path.Clean`: a relative path stays relative, which keeps its cache apart from that of the
/// absolute one.
fn clean(path: &str) -> String {
    let absolute = join_clean("/", path);
    match (path.starts_with('/'), absolute.as_str()) {
        (true, absolute) => absolute.to_owned(),
        (false, "/") => ".".to_owned(),
        (false, absolute) => absolute.trim_start_matches('/').to_owned(),
    }
}

/// Go's `path.Base`.
fn base_name(path: &str) -> &str {
    path.trim_end_matches('/').rsplit('/').next().unwrap_or_default()
}
