//! Kaniko's executor as a front door: its flags and variables become the request that `rbuild build` makes.
//!
//! The program behaves so where it is called `executor` (the image has `/kaniko/executor`), and as `rbuild kaniko`.
//! [`table`] has every flag and what becomes of it. Exit codes are rbuild's.

mod job;
mod line;
mod reports;
mod source;
mod table;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::path::Path;

use crate::build::{BuildRequest, Engine, Failure, FailureKind};
use crate::cancel::CancelRead;
use crate::event::Events;
use crate::registry::Secret;

use super::environment::Environment;
use super::{Session, Stop, build, print, tell};

use job::Job;
use line::Line;

/// What the program is called where it stands in Kaniko's place.
const NAME: &str = "executor";

/// Variables that Kaniko reads.
const VARIABLES: [&str; 9] = [
    "KANIKO_DIR",
    "KANIKO_NO_PUSH",
    "KANIKO_REGISTRY_MIRROR",
    "KANIKO_REGISTRY_MAP",
    "GIT_TOKEN",
    "GIT_USERNAME",
    "GIT_PASSWORD",
    "GIT_PULL_METHOD",
    "BUILDER_OUTPUT",
];

/// Words for `rbuild kaniko`, if the program was called by Kaniko's name.
pub(super) fn called(args: Vec<OsString>) -> Vec<OsString> {
    let name = args.first().and_then(|name| Path::new(name).file_name());
    if name != Some(OsStr::new(NAME)) {
        return args;
    }
    let mut words = args.into_iter();
    words.next().into_iter().chain(["kaniko".into()]).chain(words).collect()
}

/// Those of [`VARIABLES`] that are set.
#[derive(Debug, Default)]
pub(super) struct Variables(BTreeMap<&'static str, Secret>);

impl Variables {
    fn read() -> Self {
        let value = |name| Some((name, Secret(Environment::variable(name).filter(|text| !text.is_empty())?)));
        Variables(VARIABLES.into_iter().filter_map(value).collect())
    }

    #[cfg(test)]
    fn of(given: &[(&str, &str)]) -> Self {
        let value = |name| {
            let (_, value) = given.iter().find(|(given, _)| *given == name)?;
            Some((name, Secret((*value).to_owned())))
        };
        Variables(VARIABLES.into_iter().filter_map(value).collect())
    }

    fn get(&self, name: &str) -> Option<String> {
        self.0.get(name).map(|value| value.0.clone())
    }
}

/// `rbuild kaniko`, `executor`
pub(super) fn kaniko(session: &Session, words: &[OsString]) -> Result<u8, Stop> {
    if words.first().is_some_and(|word| word == "version") {
        print(concat!("Kaniko version :  rbuild ", env!("CARGO_PKG_VERSION"), "\n"))?;
        return Ok(0);
    }
    let line = Line::parse(words)?;
    if line.is_on("help") {
        print(&table::help())?;
        return Ok(0);
    }
    let variables = Variables::read();
    let cwd = std::env::current_dir().map_err(|error| {
        Failure::new(FailureKind::Usage, format!("the current directory cannot be used: {error}"))
    })?;
    let job = Job::of(&line, &variables, &cwd)?;
    let session = session.with(job.environment(&session.env), job.registries.clone());
    if !job.idle.is_empty() {
        tell(&format!("rbuild: no effect here: {} (docs/kaniko.md)", job.idle.join(", ")));
    }
    let archive = job.source.archive.as_deref().map(open).transpose()?;
    let files = reports::Files::check(&line, &variables)?;
    let work = |engine: &Engine, request: &BuildRequest, events: &Events| {
        let request = job.complete(request, &files);
        match &archive {
            Some(file) => {
                engine.build(&request, &mut CancelRead::new(file, &session.cancel), events, &session.cancel)
            }
            None => engine.build(&request, &mut CancelRead::stdin(&session.cancel), events, &session.cancel),
        }
    };
    let (outcome, _) = build::with_engine(&session, &job.args, work)?;
    files.write(&outcome, job.pushes)?;
    Ok(0)
}

fn open(path: &Path) -> Result<File, Failure> {
    File::open(path).map_err(|error| {
        Failure::new(FailureKind::Context, format!("cannot read the context {}: {error}", path.display()))
    })
}
