//! Rules for image configs (image-spec config.md, and Docker's extensions).

use serde_json::Value;

use crate::digest::{DiffId, Digest};
use crate::image::Platform;

use super::document::{Object, is_rfc3339, kind, repeated};
use super::report::Report;

/// What the rest of the validation needs of a config.
#[derive(Debug, Default)]
pub(super) struct Facts {
    /// Where it states one.
    pub platform: Option<Platform>,
    /// Diff IDs; `None` for those that are unusable.
    pub diff_ids: Vec<Option<DiffId>>,
}

/// Checks a config. `layers` is the number of layers of the manifest.
pub(super) fn check(value: &Value, place: &str, layers: usize, report: &mut Report) -> Facts {
    let Some(object) = Object::of(value, place, report) else { return Facts::default() };
    let os = object.required_text("os", report);
    let architecture = object.required_text("architecture", report);
    let variant = object.text("variant", report).unwrap_or_default();
    object.text("author", report);
    created(&object, report);
    let diff_ids = rootfs(&object, layers, report);
    history(&object, layers, report);
    if let Some(container) = object.get("config") {
        self::container(container, &object.at("config"), report);
    }
    let platform = os.zip(architecture).map(|(os, architecture)| Platform::new(os, architecture, variant));
    Facts { platform, diff_ids }
}

fn created(object: &Object<'_>, report: &mut Report) {
    if let Some(time) = object.text("created", report).filter(|time| !is_rfc3339(time)) {
        report.add(object.at("created"), format!("{time:?} is no time of RFC 3339"));
    }
}

fn rootfs(object: &Object<'_>, layers: usize, report: &mut Report) -> Vec<Option<DiffId>> {
    let Some(rootfs) = object.get("rootfs") else {
        report.add(&object.place, "rootfs is missing");
        return Vec::new();
    };
    let Some(rootfs) = Object::of(rootfs, &object.at("rootfs"), report) else { return Vec::new() };
    if let Some(kind) = rootfs.required_text("type", report).filter(|kind| *kind != "layers") {
        report.add(rootfs.at("type"), format!("is {kind:?}, not \"layers\""));
    }
    let empty = Vec::new();
    let list = match rootfs.get("diff_ids") {
        None if layers > 0 => {
            report.add(&rootfs.place, "diff_ids is missing");
            return Vec::new();
        }
        None => &empty,
        Some(_) => rootfs.list("diff_ids", report).unwrap_or(&empty),
    };
    if list.len() != layers {
        let count = list.len();
        report.add(
            rootfs.at("diff_ids"),
            format!("there are {count} diff IDs, but the manifest has {layers} layers"),
        );
    }
    let parse = |(at, value): (usize, &Value)| {
        let parsed = value.as_str().and_then(|text| Digest::parse(text).ok());
        if parsed.is_none() {
            report.add(rootfs.at(&format!("diff_ids[{at}]")), format!("{value} is no digest"));
        }
        parsed.map(DiffId)
    };
    list.iter().enumerate().map(parse).collect()
}

fn history(object: &Object<'_>, layers: usize, report: &mut Report) {
    let Some(list) = object.list("history", report) else { return };
    let mut with_layer = 0;
    for (at, entry) in list.iter().enumerate() {
        let Some(entry) = Object::of(entry, &object.at(&format!("history[{at}]")), report) else { continue };
        created(&entry, report);
        for name in ["created_by", "author", "comment"] {
            entry.text(name, report);
        }
        match entry.get("empty_layer") {
            None | Some(Value::Bool(false)) => with_layer += 1,
            Some(Value::Bool(true)) => {}
            Some(other) => {
                report.add(entry.at("empty_layer"), format!("is {}, not true or false", kind(other)));
            }
        }
    }
    if !list.is_empty() && with_layer != layers {
        report.add(
            object.at("history"),
            format!("lists {with_layer} layers (entries without empty_layer), but the image has {layers}"),
        );
    }
}

fn container(value: &Value, place: &str, report: &mut Report) {
    let Some(object) = Object::of(value, place, report) else { return };
    env(&object, report);
    for name in ["Entrypoint", "Cmd", "Shell", "OnBuild"] {
        for text in object.texts(name, report) {
            no_nul(&object, name, text, report);
        }
    }
    for name in ["User", "StopSignal"] {
        object.text(name, report);
    }
    if let Some(dir) = object.text("WorkingDir", report) {
        // Windows images have drive letters here.
        let absolute = dir.is_empty() || dir.starts_with('/') || dir.get(1..2) == Some(":");
        if !absolute {
            report.add(object.at("WorkingDir"), format!("{dir:?} is not absolute"));
        }
    }
    object.text_map("Labels", report);
    for name in ["ExposedPorts", "Volumes"] {
        keys(&object, name, report);
    }
    healthcheck(&object, report);
}

fn env(object: &Object<'_>, report: &mut Report) {
    let env = object.texts("Env", report);
    for text in &env {
        no_nul(object, "Env", text, report);
        match text.split_once('=') {
            None => report.add(object.at("Env"), format!("{text:?} has no =")),
            Some(("", _)) => report.add(object.at("Env"), format!("{text:?} has no name")),
            Some(_) => {}
        }
    }
    for name in repeated(env.iter().filter_map(|text| text.split_once('=')).map(|(name, _)| name)) {
        report.add(object.at("Env"), format!("{name} is set more than once"));
    }
}

fn no_nul(object: &Object<'_>, name: &str, text: &str, report: &mut Report) {
    if text.contains('\0') {
        report.add(object.at(name), format!("{text:?} contains NUL, which no process can be given"));
    }
}

/// Sets that Go wrote: objects whose values are empty objects.
fn keys(object: &Object<'_>, name: &str, report: &mut Report) {
    let Some(value) = object.get(name) else { return };
    let Some(set) = Object::of(value, &object.at(name), report) else { return };
    for (key, value) in set.fields {
        if !value.is_object() && !value.is_null() {
            report.add(set.at(&format!("{key:?}")), format!("is {}, not an empty object", kind(value)));
        }
        if name == "ExposedPorts" && !is_port(key) {
            report.add(&set.place, format!("{key:?} is not PORT, PORT/tcp, PORT/udp or PORT/sctp"));
        }
    }
}

fn is_port(text: &str) -> bool {
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let numbers = [first, last].iter().all(|port| port.parse::<u16>().is_ok());
    numbers && ["tcp", "udp", "sctp"].contains(&protocol)
}

fn healthcheck(object: &Object<'_>, report: &mut Report) {
    let Some(value) = object.get("Healthcheck") else { return };
    let Some(check) = Object::of(value, &object.at("Healthcheck"), report) else { return };
    let test = check.texts("Test", report);
    let first = test.first().copied().unwrap_or("NONE");
    if !["", "NONE", "CMD", "CMD-SHELL"].contains(&first) {
        report.add(check.at("Test"), format!("begins with {first:?}, not with NONE, CMD or CMD-SHELL"));
    }
    for name in ["Interval", "Timeout", "StartPeriod", "StartInterval", "Retries"] {
        if check.get(name).is_some_and(|value| value.as_u64().is_none()) {
            report.add(check.at(name), "is not a whole number from 0 on");
        }
    }
}
