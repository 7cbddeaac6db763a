//! Base images that nobody should trust.

use super::*;
use std::process::Command;

/// Archives that try to write or read outside of where they are unpacked; `@` is the outside.
const LEAVING: [&[(&str, u8, &str)]; 13] = [
    &[("../evil", b'0', "evil")],
    &[("../../../../../../../../../../../..@/evil", b'0', "evil")],
    &[("@/canary", b'0', "evil")],
    &[("l", b'2', "@"), ("l/evil", b'0', "evil")],
    &[("l", b'2', "@"), ("l/canary", b'0', "evil")],
    &[("l", b'2', "@"), ("l/.wh.canary", b'0', "")],
    &[("l", b'2', "@"), ("l/.wh..wh..opq", b'0', "")],
    &[("l", b'2', "../../../../../../../../../../../..@"), ("l/b", b'5', ""), ("l/b/evil", b'0', "evil")],
    &[("h", b'1', "@/canary")],
    &[("h", b'1', "../../../../../../../../../../../..@/canary")],
    &[("l", b'2', "@/canary"), ("h", b'1', "l"), ("h", b'0', "evil")],
    &[("l", b'2', "@/canary"), ("l", b'0', "evil")],
    &[("d", b'5', ""), ("d", b'2', "@"), ("d/b", b'2', "/"), ("d/b/f", b'0', "evil")],
];

fn filled(range: &Range, rows: &[(&str, u8, &str)]) -> Vec<u8> {
    let rows: Vec<(String, u8, String)> =
        rows.iter().map(|(name, kind, text)| (range.fill(name), *kind, range.fill(text))).collect();
    tar_of(&rows.iter().map(|(name, kind, text)| (name.as_str(), *kind, text.as_str())).collect::<Vec<_>>())
}

/// Layers of base images, by every way in; archives of ADD; contexts that are archives.
#[test]
fn cve_2020_10696_cve_2025_11395_cve_2026_42574_archives_stay_where_they_are_unpacked() {
    for who in modes("cve_2020_10696_cve_2025_11395_cve_2026_42574_archives_stay_where_they_are_unpacked") {
        let range = Range::new(who);
        for (number, rows) in LEAVING.iter().enumerate() {
            let tar = filled(&range, rows);
            let flags = range.hostile(std::slice::from_ref(&tar), |_| {});
            let flags = [flags[0].as_str(), flags[1].as_str()];
            // Unpacked for COPY out of it, for a RUN, and exported.
            let (done, out) = range.files("FROM hostile\nCOPY --from=hostile / /copy/\n", &flags);
            range.safe(&format!("{who:?} layer {number}"), &done, &[&out]);
            if matches!(number, 8 | 9) {
                assert!(
                    !out.join("copy/h").exists(),
                    "{who:?}: a hard link to nothing in the image was taken"
                );
            }
            let (done, out) =
                range.files("FROM hostile\nRUN ls -R /l /d /h; cat /h /l /d/b/f; true\n", &flags);
            range.safe(&format!("{who:?} run {number}"), &done, &[&out]);
            let layout = flags[1].trim_start_matches("hostile=oci-layout://").to_owned();
            let done = range.lab.run(["load", "-i", &layout]);
            range.safe(&format!("{who:?} load {number}"), &done, &[]);
            let name = format!("a{number}.tar");
            let context = range.lab.context(&[("Dockerfile", &format!("FROM busybox\nADD {name} /a/\n"))]);
            fs::write(context.join(&name), &tar).expect("archive");
            let out = range.lab.out(&format!("add-{number}"));
            let done = range.build(&context, &["-o", &out.display().to_string()]);
            range.safe(&format!("{who:?} ADD {number}"), &done, &[&out]);
            assert!(!out.join("evil").exists(), "{who:?} {number}: written above the destination");
            let whole =
                filled(&range, &[&[("Dockerfile", b'0', "FROM busybox\nCOPY . /all/\n")], *rows].concat());
            fs::write(context.join("whole.tar"), &whole).expect("archive");
            let out = range.lab.out(&format!("context-{number}"));
            let mut command = range.lab.rbuild();
            command.arg("build").args(range.lab.bases()).arg("-o").arg(&out).arg("-");
            command.stdin(fs::File::open(context.join("whole.tar")).expect("archive"));
            let done = support::done(command.output().expect("rbuild"));
            range.safe(&format!("{who:?} context {number}"), &done, &[&out]);
        }
    }
}

/// A digest is checked before it is a path: here the files that it would lead to exist.
#[test]
fn cve_2024_3727_a_digest_is_never_a_path() {
    if modes("cve_2024_3727_a_digest_is_never_a_path").is_empty() {
        return;
    }
    let range = Range::new(Who::Caller);
    let flags = range.hostile(&[], |_| {});
    let layout = PathBuf::from(flags[1].trim_start_matches("hostile=oci-layout://"));
    let index = fs::read_to_string(layout.join("index.json")).expect("index");
    let parsed: Value = serde_json::from_str(&index).expect("JSON");
    let good = parsed["manifests"][0]["digest"].as_str().expect("digest").to_owned();
    let hex = good.trim_start_matches("sha256:");
    fs::copy(layout.join("blobs/sha256").join(hex), layout.join("moved")).expect("copy");
    for bad in [
        "sha256:../../moved".to_owned(),
        format!("sha256:../sha256/{hex}"),
        format!("sha256:{}", layout.join("moved").display()),
        format!("../blobs/sha256:{hex}"),
        format!("sha256/../sha256:{hex}"),
        format!("sha256:{hex}\\n"),
        "sha256:".into(),
        format!("sha256:{}", hex.to_uppercase()),
    ] {
        fs::write(layout.join("index.json"), index.replace(&good, &bad)).expect("index");
        let (done, out) = range.files("FROM hostile\nCOPY x /y\n", &[&flags[0], &flags[1]]);
        range.safe(&bad, &done, &[&out]);
        assert!(done.code != 0 && !out.exists(), "{bad} was taken:\n{}", done.err);
    }
    fs::write(layout.join("index.json"), index).expect("index");
    let (done, out) = range.files("FROM hostile\nCOPY x /y\n", &[&flags[0], &flags[1]]);
    assert!(done.code == 0 && out.join("y").exists(), "{}", done.err);
}

/// Nothing that an image or a Dockerfile says makes the builder fall over.
#[test]
fn cve_2024_23650_what_is_malformed_is_an_error() {
    if modes("cve_2024_23650_what_is_malformed_is_an_error").is_empty() {
        return;
    }
    let range = Range::new(Who::Caller);
    let edits: [fn(&mut Value); 14] = [
        |config| *config = Value::Null,
        |config| *config = json!([1]),
        |config| *config = json!({}),
        |config| config["config"] = json!(7),
        |config| config["config"] = json!({"Env": [1]}),
        |config| config["config"] = json!({"Env": ["", "=", "=x", "A"], "WorkingDir": "\u{0}", "User": "::"}),
        |config| config["config"] = json!({"Cmd": "sh", "Entrypoint": {}}),
        |config| config["config"] = json!({"OnBuild": ["", "FROM x", "RUN", "COPY --from=9 / /", "\u{0}"]}),
        |config| config["config"] = json!({"Healthcheck": {"Interval": -1, "Test": []}, "Shell": []}),
        |config| config["config"] = json!({"ExposedPorts": {"99999999999/x": {}}, "StopSignal": "\n"}),
        |config| config["rootfs"]["diff_ids"] = json!(["sha256:../../x"]),
        |config| config["rootfs"]["diff_ids"] = json!([]),
        |config| config["history"] = json!([{"empty_layer": false}, {}, {}, {"created": "yesterday"}]),
        |config| {
            let mut deep = json!(0);
            for _ in 0..100 {
                deep = json!([deep]);
            }
            config["architecture"] = deep;
        },
    ];
    let mut refused = 0;
    for (number, edit) in edits.into_iter().enumerate() {
        let flags = range.hostile(&[], edit);
        let (done, out) = range.files("FROM hostile\nRUN true\nCOPY x /y\n", &[&flags[0], &flags[1]]);
        range.safe(&format!("config {number}"), &done, &[&out]);
        assert!((0..=5).contains(&done.code), "config {number}: {} {}", done.code, done.err);
        refused += usize::from(done.code != 0);
    }
    assert!(refused >= 5, "{refused}");
    for (number, text) in [
        "FROM busybox\nRUN --mount=type=bind,from=9 true\n",
        "FROM busybox\nCOPY --from=4294967296 / /\n",
        "FROM busybox AS a\nCOPY --from=a / /\n",
        "FROM ${A:-${A:-${A:-\nRUN true\n",
        "FROM busybox\nCOPY <<\u{0} /\n",
        "FROM busybox\nENV ${x:$(((\n",
        "FROM busybox\nONBUILD ONBUILD ONBUILD RUN\n",
        "FROM busybox\nWORKDIR \u{0}\n",
        "FROM busybox\nHEALTHCHECK --interval=99999999999999999999h CMD x\n",
    ]
    .iter()
    .enumerate()
    {
        let (done, _) = range.files(text, &[]);
        assert!((1..=5).contains(&done.code), "Dockerfile {number}: {} {}", done.code, done.err);
        assert!(!done.err.contains("panicked"), "Dockerfile {number}: {}", done.err);
    }
}

/// User names are looked up in the image, in files, of a size that makes sense.
#[test]
fn cve_2024_9676_cve_2026_47262_users_are_those_of_the_image() {
    for who in modes("cve_2024_9676_cve_2026_47262_users_are_those_of_the_image") {
        let range = Range::new(who);
        let huge = format!("evil:x:4242:4242::/:/bin/sh\n{}", "#\n".repeat(6 << 20));
        for (case, rows) in [
            ("link", vec![("etc/passwd", b'2', "@/passwd"), ("etc/group", b'2', "@/group")]),
            ("directory", vec![("etc", b'2', "@")]),
            ("dots", vec![("etc/passwd", b'2', "../../../../../../../../../../..@/passwd")]),
            ("fifo", vec![("etc/passwd", b'6', ""), ("etc/group", b'6', "")]),
            ("device", vec![("etc/passwd", b'3', "")]),
            ("folder", vec![("etc/passwd", b'5', "")]),
            ("loop", vec![("etc/passwd", b'2', "/etc/passwd")]),
            ("huge", vec![("etc/passwd", b'0', huge.as_str())]),
        ] {
            let flags = range.hostile(&[filled(&range, &rows)], |_| {});
            for text in ["USER evil\nRUN id > /id", "COPY --chown=evil x /y", "COPY --chown=0:evil x /y"] {
                let (done, out) = range.files(&format!("FROM hostile\n{text}\n"), &[&flags[0], &flags[1]]);
                range.safe(&format!("{who:?} {case} {text}"), &done, &[&out]);
                assert_ne!(done.code, 0, "{who:?} {case}: {text}");
            }
        }
    }
}

/// What the image has of programs and libraries is for its own processes only.
#[test]
fn cve_2019_14271_cve_2026_53488_ghsa_x86f_5xw2_fm2r_nothing_of_the_image_runs_outside() {
    let test = "cve_2019_14271_cve_2026_53488_ghsa_x86f_5xw2_fm2r_nothing_of_the_image_runs_outside";
    if modes(test).is_empty() {
        return;
    }
    if !has("strace") || !has("tar") || !has("xz") {
        return skip(test, "strace, tar or xz is not installed");
    }
    let range = Range::new(Who::Caller);
    let programs = ["unpigz", "gzip", "xz", "zstd", "tar", "git", "cp", "mount", "nsswitch"];
    let names: Vec<String> = programs.iter().map(|name| format!("usr/bin/{name}")).collect();
    let mut rows: Vec<(&str, u8, &str)> =
        names.iter().map(|name| (name.as_str(), b'0', "#!/bin/sh\necho evil\n")).collect();
    rows.push(("lib/x86_64-linux-gnu/libnss_files.so.2", b'0', "no library"));
    rows.push(("etc/nsswitch.conf", b'0', "passwd: evil files\ngroup: evil files\n"));
    rows.push(("lib/libnss_evil.so.2", b'0', "no library"));
    let evil = range.fill("@/evil");
    let words = format!("$(touch {evil}) `touch {evil}`; touch {evil} #");
    let flags = range.hostile(&[tar_of(&rows)], |config| {
        config["config"]["Labels"] = json!({ words.as_str(): words, "run": words });
        config["config"]["StopSignal"] = json!(words);
        config["author"] = json!(words);
    });
    let text = "FROM hostile\nADD a.tar.xz b.tar.gz /in/\nCOPY --chown=app:extra --chmod=700 x /y\nWORKDIR /in/d\nUSER app\n";
    let context = range.lab.context(&[("Dockerfile", text), ("x", "x")]);
    for (name, letter) in [("a.tar.xz", "-cJf"), ("b.tar.gz", "-czf")] {
        let made = Command::new("tar").args([letter, name, "x"]).current_dir(&context).status();
        assert!(made.expect("tar").success());
    }
    let trace = range.lab.out("trace");
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-e", "trace=execve,execveat,open,openat,openat2,chroot", "-o"]).arg(&trace);
    command.arg(support::RBUILD).args(["build", "-t", "x"]).args(&flags).arg(&context);
    command.env("RBUILD_ROOT", range.lab.store()).env("PATH", "/usr/bin:/bin");
    let done = support::done(command.output().expect("strace"));
    assert_eq!(done.code, 0, "{}", done.err);
    let text = fs::read_to_string(&trace).expect("trace");
    let mut started = false;
    // Only rbuild: by its path, and once more from a read-only mount, which has none.
    let own = [format!("execve(\"{}\"", support::RBUILD), "execve(\"/proc/self/fd/".to_owned()];
    for line in text.lines() {
        assert!(!line.contains("exec") || own.iter().any(|own| line.contains(own)), "{line}");
        started |= line.contains("a.tar.xz") || line.contains("Dockerfile");
        assert!(
            !(started && (line.contains("libnss") || line.contains("nsswitch.conf\", O_RDONLY"))),
            "{line}"
        );
        assert!(!line.contains("chroot("), "{line}");
    }
    assert!(text.contains(&own[0]), "nothing was executed:\n{text}");
}

/// Layers alone are not the image: what a config says counts for what is built on it.
#[test]
fn cve_2024_24557_the_whole_config_of_a_base_counts() {
    if modes("cve_2024_24557_the_whole_config_of_a_base_counts").is_empty() {
        return;
    }
    let range = Range::new(Who::Caller);
    let context =
        range.lab.context(&[("Dockerfile", "FROM hostile\nRUN id -u > /tmp/x; echo $X $- >> /tmp/x\n")]);
    let plain = [
        range.hostile(&[], |config| {
            config["config"]["Env"] = json!(["PATH=/bin", "X=one"]);
            config["config"]["Healthcheck"] = json!({"Test": ["CMD", "one"]});
        }),
        range.hostile(&[], |config| {
            config["config"]["Env"] = json!(["PATH=/bin", "X=two"]);
            config["config"]["User"] = json!("app");
            config["config"]["Shell"] = json!(["/bin/sh", "-ec"]);
        }),
    ];
    let first = range.lab.build_image(&context, &[&plain[0][0], &plain[0][1]]);
    let second = range.lab.build_image(&context, &[&plain[1][0], &plain[1][1]]);
    assert!(first.text("/tmp/x").starts_with("0\none c\n"), "{}", first.text("/tmp/x"));
    assert!(second.text("/tmp/x").starts_with("1000\ntwo ce"), "{}", second.text("/tmp/x"));
    assert_eq!(first.raw_config()["config"]["Healthcheck"]["Test"], json!(["CMD", "one"]));
    assert!(second.raw_config()["config"]["Healthcheck"].is_null());
}
