//! Rules as a whole. What one file alone does is tested in that file.

mod agree;
mod buildkit;
mod fixes;
mod outputs;
mod own;

use std::collections::BTreeMap;

use crate::dockerfile::{Dockerfile, parse};
use crate::image::{ContainerConfig, ImageConfig, Platform};

use super::*;

/// An input that its parts are borrowed from.
struct Setup {
    args: Vec<(String, String)>,
    platform: Platform,
    bases: BTreeMap<(String, Platform), ImageConfig>,
    contexts: Vec<String>,
    target: Option<&'static str>,
    all_stages: bool,
    hints: bool,
    /// Whether the lock has an image.
    locked: Option<fn(&str) -> bool>,
}

impl Setup {
    /// Everything of interest at once; `x` is an image without a shell, an entrypoint, and with
    /// one variable.
    fn new() -> Self {
        let platform = Platform::new("linux", "amd64", "");
        let config = ContainerConfig { env: vec!["HOME_DIR=/h".to_owned()], ..ContainerConfig::default() };
        let image = ImageConfig {
            os: "linux".to_owned(),
            architecture: "amd64".to_owned(),
            config,
            ..ImageConfig::default()
        };
        let bases = BTreeMap::from([(("x".to_owned(), platform.clone()), image)]);
        Setup {
            args: Vec::new(),
            platform,
            bases,
            contexts: Vec::new(),
            target: None,
            all_stages: true,
            hints: false,
            locked: None,
        }
    }

    fn hints() -> Self {
        Setup { hints: true, ..Setup::new() }
    }

    fn arg(mut self, name: &str, value: &str) -> Self {
        self.args.push((name.to_owned(), value.to_owned()));
        self
    }

    fn input(&self) -> LintInput<'_> {
        LintInput {
            target: self.target,
            all_stages: self.all_stages,
            build_args: &self.args,
            platform: &self.platform,
            build_platform: &self.platform,
            contexts: &self.contexts,
            bases: &self.bases,
            ignored: Some(&|path| path == "ignored" || path.starts_with("ignored/")),
            locked: self.locked.as_ref().map(|locked| locked as &dyn Fn(&str) -> bool),
            hints: self.hints,
        }
    }

    fn check(&self, text: &str) -> Report {
        check(&file(text), &self.input()).unwrap_or_else(|error| panic!("{text}\n{error}"))
    }

    /// `Name@line` of every finding.
    fn found(&self, text: &str) -> Vec<String> {
        let source = file(text).source;
        let of = |one: &Finding| format!("{}@{}", one.rule.name, one.lines(&source).0);
        self.check(text).findings.iter().map(of).collect()
    }
}

fn file(text: &str) -> Dockerfile {
    parse("dir/Dockerfile", text.as_bytes()).unwrap_or_else(|errors| panic!("{text}\n{errors}"))
}
