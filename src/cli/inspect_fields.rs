//! The fields that `inspect` has for a template, also where the image does not set them.
//!
//! JSON leaves out what is empty, as the OCI specification does. A Go template of docker's sees a struct, in which every
//! field is there with an empty value: `{{.Config.User}}` prints nothing for an image without USER.

use serde_json::{Value, json};

use super::template::nil;

/// A description of an image with all fields that docker's type has.
pub(super) fn complete(image: &Value) -> Value {
    let mut all = json!({
        "Id": "", "RepoTags": [], "RepoDigests": [], "Parent": "", "Comment": "", "Created": "", "DockerVersion": "",
        "Author": "", "Config": null, "Architecture": "", "Variant": "", "Os": "", "OsVersion": "", "Size": 0,
        "VirtualSize": 0, "GraphDriver": {"Name": "", "Data": nil("map[]")}, "RootFS": {"Type": "", "Layers": nil("[]")},
        "Metadata": {"LastTagTime": "0001-01-01T00:00:00Z"}, "Descriptor": nil("<nil>"), "Manifest": nil("<nil>"),
    });
    let mut config = json!({
        "Hostname": "", "Domainname": "", "User": "", "AttachStdin": false, "AttachStdout": false,
        "AttachStderr": false, "ExposedPorts": nil("map[]"), "Tty": false, "OpenStdin": false, "StdinOnce": false, "Env": nil("[]"),
        "Cmd": nil("[]"), "Healthcheck": nil("<nil>"), "ArgsEscaped": false, "Image": "", "Volumes": nil("map[]"), "WorkingDir": "",
        "Entrypoint": nil("[]"), "OnBuild": nil("[]"), "Labels": nil("map[]"), "StopSignal": "", "StopTimeout": nil("<nil>"), "Shell": nil("[]"),
    });
    overlay(&mut all, image);
    overlay(&mut config, &image["Config"]);
    if !image["Config"]["Healthcheck"].is_null() {
        let mut check = json!({"Test": nil("[]"), "Interval": 0, "Timeout": 0, "StartPeriod": 0, "StartInterval": 0, "Retries": 0});
        overlay(&mut check, &config["Healthcheck"]);
        config["Healthcheck"] = check;
    }
    all["VirtualSize"] = all["Size"].clone();
    all["Config"] = config;
    all
}

fn overlay(under: &mut Value, over: &Value) {
    for (name, value) in over.as_object().into_iter().flatten() {
        under[name.as_str()] = value.clone();
    }
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
            ("{{.Variant}}{{.Author}}{{.Parent}}{{.VirtualSize}}{{.Config.Odd}}", "3kept"),
        ] {
            assert_eq!(render(text).map_err(|failure| failure.message), Ok(wanted.to_owned()), "{text}");
        }
        assert!(render("{{.Config.Usr}}").is_err());
    }
}
