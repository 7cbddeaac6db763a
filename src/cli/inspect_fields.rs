//! The fields that `inspect` has for a template, also where the image does not set them.
//!
//! JSON leaves out what is empty, as the OCI specification does. A Go template of docker's sees a struct, in which every
//! field is there with an empty value: `{{.Config.User}}` prints nothing for an image without USER.

use serde_json::{Map, Value, json};

use super::template::unset;

/// Types of Go, by what an empty value is.
#[derive(Clone, Copy)]
enum Kind {
    Text,
    Number,
    Switch,
    List,
    Map,
    Pointer,
}

use Kind::{List, Number, Pointer, Switch, Text};

const IMAGE: [(&str, Kind); 17] = [
    ("Id", Text),
    ("RepoTags", List),
    ("RepoDigests", List),
    ("Parent", Text),
    ("Comment", Text),
    ("Created", Text),
    ("DockerVersion", Text),
    ("Author", Text),
    ("Config", Pointer),
    ("Architecture", Text),
    ("Variant", Text),
    ("Os", Text),
    ("OsVersion", Text),
    ("Size", Number),
    ("VirtualSize", Number),
    ("Descriptor", Pointer),
    ("Manifest", Pointer),
];

const CONFIG: [(&str, Kind); 23] = [
    ("Hostname", Text),
    ("Domainname", Text),
    ("User", Text),
    ("AttachStdin", Switch),
    ("AttachStdout", Switch),
    ("AttachStderr", Switch),
    ("ExposedPorts", Kind::Map),
    ("Tty", Switch),
    ("OpenStdin", Switch),
    ("StdinOnce", Switch),
    ("Env", List),
    ("Cmd", List),
    ("Healthcheck", Pointer),
    ("ArgsEscaped", Switch),
    ("Image", Text),
    ("Volumes", Kind::Map),
    ("WorkingDir", Text),
    ("Entrypoint", List),
    ("OnBuild", List),
    ("Labels", Kind::Map),
    ("StopSignal", Text),
    ("StopTimeout", Pointer),
    ("Shell", List),
];

const HEALTHCHECK: [(&str, Kind); 6] = [
    ("Test", List),
    ("Interval", Number),
    ("Timeout", Number),
    ("StartPeriod", Number),
    ("StartInterval", Number),
    ("Retries", Number),
];

/// A description of an image with all fields that docker's type has.
pub(super) fn complete(image: &Value) -> Value {
    let mut all = fill(image, &IMAGE);
    if let Some(size) = image.get("Size") {
        all.insert("VirtualSize".into(), size.clone());
    }
    let mut config = fill(&image["Config"], &CONFIG);
    if let Some(check) = image["Config"].get("Healthcheck") {
        config.insert("Healthcheck".into(), fill(check, &HEALTHCHECK).into());
    }
    all.insert("Config".into(), config.into());
    all.into()
}

fn fill(value: &Value, fields: &[(&str, Kind)]) -> Map<String, Value> {
    let mut all = value.as_object().cloned().unwrap_or_default();
    for (name, kind) in fields {
        let empty = match kind {
            Text => unset(json!(""), ""),
            Number => unset(json!(0), "0"),
            Switch => unset(json!(false), "false"),
            List => unset(Value::Null, "[]"),
            Kind::Map => unset(Value::Null, "map[]"),
            Pointer => unset(Value::Null, "<nil>"),
        };
        all.entry(*name).or_insert(empty);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::template;

    #[test]
    fn what_an_image_does_not_set_is_empty_and_what_there_is_not_is_a_mistake() {
        let image = json!({"Id": "sha256:ab", "Config": {"Env": ["A=1"], "Odd": "kept"}, "Size": 3});
        let render = |text: &str| template::parse(text).and_then(|parsed| parsed.render(&complete(&image)));
        for (text, wanted) in [
            ("{{.Config.User}}|{{.Config.WorkingDir}}", "|"),
            ("{{.Config.Labels}}{{.Config.Cmd}}", "map[][]"),
            ("{{json .Config.Labels}}{{json .Config.Cmd}}", "nullnull"),
            ("{{range $k, $v := .Config.ExposedPorts}}{{$k}}{{end}}{{.Config.Env}}", "[A=1]"),
            ("{{if .Config.Healthcheck}}yes{{else}}no{{end}}", "no"),
            ("{{index .Config.Labels \"x\"}}{{len .Config.Volumes}}", "0"),
            ("{{json .Config}} {{json .Config.User}}", r#"{"Env":["A=1"],"Odd":"kept"} """#),
            (
                "{{if eq .Config.User \"\"}}root{{end}} {{.Config.Tty}} {{if .Config.Tty}}tty{{end}}",
                "root false ",
            ),
            ("{{.Variant}}{{.Author}}{{.Parent}}{{.VirtualSize}}{{.Config.Odd}}", "3kept"),
        ] {
            assert_eq!(render(text).map_err(|failure| failure.message), Ok(wanted.to_owned()), "{text}");
        }
        assert!(render("{{.Config.Usr}}").is_err());
    }
}
