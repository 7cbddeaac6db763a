//! What cache keys are made of: everything that determines a step's result apart from its parent and the files
//! it reads. Every field is named, so that one that is added cannot be forgotten. The form is what stores have
//! records under; it only changes where results do.

use serde_json::{Value, json};

use crate::plan::RunNetwork;

use super::graph::{
    Base, CopyStep, Device, RunMount, RunMountKind, RunStep, Script, Step, StepKind, WorkdirStep,
};

impl Step {
    /// Everything that determines the result apart from parent and files: what the cache key is
    /// made of. Names, places, proxies and host paths are not in it.
    pub fn definition(&self) -> Value {
        match &self.kind {
            StepKind::From(from) => match &from.base {
                Base::Scratch => json!({"from": "scratch"}),
                Base::Image { name, .. } => json!({"from": name, "platform": from.platform.to_string()}),
            },
            StepKind::Run(run) => run.definition(),
            StepKind::Copy(copy) => copy.definition(),
            StepKind::Workdir(WorkdirStep { path, user }) => json!({"workdir": path, "user": user}),
        }
    }
}

impl RunStep {
    /// What is unusual about a step enters only where it is there: the keys of plain steps stay as
    /// they are when something is added here.
    fn definition(&self) -> Value {
        // All fields by name: one that is added cannot be forgotten here. The platform shows in the files.
        let RunStep {
            argv,
            env,
            proxy_env: _,
            cwd,
            user,
            network,
            scripts,
            mounts,
            insecure,
            devices,
            platform: _,
        } = self;
        let network = match network {
            RunNetwork::Default => "Default",
            RunNetwork::Host => "Host",
            RunNetwork::None => "None",
        };
        let scripts: Vec<Value> = scripts.iter().map(Script::definition).collect();
        let mut all = json!({
            "run": argv, "env": env, "cwd": cwd, "user": user, "network": network, "scripts": scripts,
        });
        if !mounts.is_empty() {
            all["mounts"] = mounts.iter().map(RunMount::definition).collect();
        }
        if *insecure {
            all["security"] = json!("insecure");
        }
        if !devices.is_empty() {
            let name = |Device { name, required: _ }: &Device| json!(name);
            all["devices"] = devices.iter().map(name).collect();
        }
        all
    }
}

impl RunMount {
    /// What the cache key sees: neither a cache's name and content nor a secret's value (the
    /// reference's keys blank the same).
    fn definition(&self) -> Value {
        let RunMount { target, kind } = self;
        let kind = match kind {
            RunMountKind::Bind { origin: _, source: _, writable } => json!({"bind": writable}),
            RunMountKind::Cache {
                id: _,
                namespace: _,
                origin: _,
                source,
                sharing: _,
                mode,
                uid,
                gid,
                readonly,
            } => {
                json!({"cache": source, "mode": mode, "uid": uid, "gid": gid, "readonly": readonly})
            }
            RunMountKind::Tmpfs { size } => json!({"tmpfs": size}),
            RunMountKind::Secret { id, env, required: _, mode, uid, gid } => {
                json!({"secret": id, "env": env, "mode": mode, "uid": uid, "gid": gid})
            }
            RunMountKind::Ssh { id, required: _, mode, uid, gid } => {
                json!({"ssh": id, "mode": mode, "uid": uid, "gid": gid})
            }
        };
        json!([target, kind])
    }
}

impl Script {
    fn definition(&self) -> Value {
        let Script { path, content } = self;
        json!([path, content])
    }
}

/// Goes up when copies land otherwise than before: what older versions made is not taken from the cache.
const PLACING_RULES: u32 = 2;

impl CopyStep {
    /// `--exclude` shows in what is selected, and so in the inputs.
    fn definition(&self) -> Value {
        // What is copied is in the inputs, by content: here is what is done with it.
        let CopyStep {
            origin: _,
            sources,
            inline: _,
            dest,
            dest_is_dir,
            chown,
            chmod,
            remote,
            remote_after,
            extract,
            extract_remote,
            exclude: _,
            parents,
            link,
        } = self;
        let mut all = json!({
            "copy": dest,
            "directory": dest_is_dir,
            "chown": chown,
            "chmod": chmod.as_ref().map(ToString::to_string),
            "extract": extract,
            "rules": PLACING_RULES,
        });
        for (name, set) in [("extract_remote", extract_remote), ("parents", parents), ("link", link)] {
            if *set {
                all[name] = json!(true);
            }
        }
        // Inputs have the local sources first, and older versions placed archives and downloads last.
        if sources.len() + remote.len() > 1 && (*extract || !remote.is_empty()) {
            all["order"] = json!(remote_after);
        }
        all
    }
}
