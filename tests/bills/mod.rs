//! `rbuild sbom` against what the package managers list themselves.

mod secrets;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::support::{Done, Lab, bases_or_skip, done, has, skip};

/// Components of one type as `NAME VERSION`.
fn listed(bom: &Value, kind: &str) -> BTreeSet<String> {
    components(bom, kind)
        .map(|component| {
            let text = |name: &str| component[name].as_str().unwrap_or_default().to_owned();
            let group = text("group");
            let slash = if group.is_empty() { "" } else { "/" };
            format!("{group}{slash}{} {}", text("name"), text("version"))
        })
        .collect()
}

fn components<'a>(bom: &'a Value, kind: &str) -> impl Iterator<Item = &'a Value> {
    let prefix = format!("pkg:{kind}/");
    let all = bom["components"].as_array().expect("components").iter();
    all.filter(move |one| one["purl"].as_str().is_some_and(|purl| purl.starts_with(&prefix)))
}

fn property<'a>(component: &'a Value, name: &str) -> &'a str {
    let all = component["properties"].as_array().expect("properties");
    let found = all.iter().find(|property| property["name"] == name);
    found.and_then(|property| property["value"].as_str()).unwrap_or_default()
}

fn bill(lab: &Lab, image: &str, format: &str) -> (Value, Done) {
    let mut command = lab.rbuild();
    command.env("SOURCE_DATE_EPOCH", "1700000000").args(["sbom", "-q", "--format", format, image]);
    let made = done(command.output().expect("rbuild starts"));
    assert_eq!(made.code, 0, "{image}: {}", made.err);
    (serde_json::from_str(&made.out).expect("JSON"), made)
}

fn built(lab: &Lab, files: &[(&str, &str)]) {
    let context = lab.context(files);
    let made = lab.build(&context, &["-t", "app"]);
    assert_eq!(made.code, 0, "{}", made.err);
}

#[test]
fn debian_packages_are_those_that_dpkg_lists() {
    let test = "debian_packages_are_those_that_dpkg_lists";
    if !bases_or_skip(test) {
        return;
    }
    if !has("dpkg-query") {
        return skip(test, "dpkg-query is not installed");
    }
    let lab = Lab::new();
    built(&lab, &[("Dockerfile", "FROM debian\nLABEL a=b\n")]);
    let (bom, _) = bill(&lab, "app", "cyclonedx");
    let context = lab.context(&[("Dockerfile", "FROM scratch\nCOPY --from=debian /var/lib/dpkg /dpkg\n")]);
    let files = lab.out("files");
    let made = lab.build(&context, &["-o", &format!("type=local,dest={}", files.display())]);
    assert_eq!(made.code, 0, "{}", made.err);
    let mut query = Command::new("dpkg-query");
    query.arg(format!("--admindir={}", files.join("dpkg").display())).args([
        "-W",
        "-f",
        "${Package} ${Version}\n",
    ]);
    let query = done(query.output().expect("dpkg-query"));
    assert_eq!(query.code, 0, "{}", query.err);
    let wanted: BTreeSet<String> = query.out.lines().map(str::to_owned).collect();
    assert!(wanted.len() > 50, "{wanted:?}");
    assert_eq!(listed(&bom, "deb"), wanted);
    assert!(components(&bom, "deb").all(|one| one["purl"].to_string().contains("distro=")));
    let licensed = components(&bom, "deb").filter(|one| !one["licenses"].is_null()).count();
    assert!(licensed * 10 >= wanted.len() * 9, "{licensed} of {}", wanted.len());
    let (document, _) = bill(&lab, "app", "spdx");
    let packages = document["packages"].as_array().expect("packages");
    assert_eq!(packages.len(), wanted.len() + 1);
    assert!(
        packages[1]["sourceInfo"].as_str().is_some_and(|text| text.contains("/var/lib/dpkg/status; layer 1"))
    );
}

/// rpm's database in the form `ndb`.
fn packages_db(packages: &[(&str, &str)]) -> Vec<u8> {
    let bytes = |numbers: &[u32]| numbers.iter().flat_map(|number| number.to_be_bytes()).collect::<Vec<u8>>();
    let (mut slots, mut blobs) = (Vec::new(), Vec::new());
    for (at, (name, version)) in packages.iter().enumerate() {
        let values = [name, version, &"1.el9", &"MIT", &"noarch"].map(|value| format!("{value}\0"));
        let mut header = bytes(&[5, values.iter().map(String::len).sum::<usize>() as u32]);
        let mut offset = 0;
        for (tag, value) in [1000, 1001, 1002, 1014, 1022].into_iter().zip(&values) {
            header.extend(bytes(&[tag, 6, offset, 1]));
            offset += value.len() as u32;
        }
        header.extend(values.concat().bytes());
        let numbers = |all: &[u32]| all.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<u8>>();
        let (package, block) = (at as u32 + 1, (4096 + blobs.len()) as u32 / 16);
        slots.extend([b"Slot".to_vec(), numbers(&[package, block, 1])].concat());
        blobs.extend([b"BlbS".to_vec(), numbers(&[package, 0, header.len() as u32]), header].concat());
        blobs.resize(blobs.len().next_multiple_of(16), 0);
    }
    let mut file = [&b"RpmP"[..], &[0; 8], &1u32.to_le_bytes(), &[0; 16], &slots].concat();
    while file.len() < 4096 {
        file.extend(b"Slot\0\0\0\0\0\0\0\0\0\0\0\0");
    }
    [file, blobs].concat()
}

#[test]
fn packages_of_rpm_are_listed_and_an_unreadable_database_is_noted() {
    let lab = Lab::new();
    let release = "ID=fedora\nVERSION_ID=40\n";
    let text = "FROM scratch\nCOPY os-release /etc/os-release\nCOPY one /usr/lib/sysimage/rpm/Packages.db\n\
        COPY two /usr/lib/sysimage/rpm/Packages.db\nCOPY broken /var/lib/rpm/rpmdb.sqlite\n";
    let context =
        lab.context(&[("Dockerfile", text), ("os-release", release), ("broken", "SQLite format 3")]);
    let packages = [("bash", "5.2"), ("zlib", "1.3")];
    fs::write(context.join("one"), packages_db(&packages[..1])).expect("write");
    fs::write(context.join("two"), packages_db(&packages)).expect("write");
    let made = lab.build(&context, &["-t", "app"]);
    assert_eq!(made.code, 0, "{}", made.err);
    let (bom, made) = bill(&lab, "app", "cyclonedx");
    assert_eq!(listed(&bom, "rpm"), ["bash 5.2-1.el9", "zlib 1.3-1.el9"].map(str::to_owned).into());
    let facts: Vec<String> = components(&bom, "rpm")
        .map(|one| {
            format!("{} {}", property(one, "rbuild:layer:index"), one["purl"].as_str().unwrap_or_default())
        })
        .collect();
    assert_eq!(
        facts,
        [
            "2 pkg:rpm/fedora/bash@5.2-1.el9?arch=noarch&distro=fedora-40",
            "3 pkg:rpm/fedora/zlib@1.3-1.el9?arch=noarch&distro=fedora-40"
        ]
    );
    let note = "/var/lib/rpm/rpmdb.sqlite: the rpm database was not read to its end";
    assert!(made.err.contains(note), "{}", made.err);
}

/// A list in dpkg's format.
fn status(packages: &[(&str, &str)]) -> String {
    let entry = |(name, version): &(&str, &str)| {
        format!("Package: {name}\nStatus: install ok installed\nArchitecture: all\nVersion: {version}\n\n")
    };
    packages.iter().map(entry).collect()
}

#[test]
fn each_package_has_the_layer_and_the_instruction_that_brought_it() {
    let lab = Lab::new();
    let (first, second) = (status(&[("a", "1"), ("b", "1")]), status(&[("a", "1"), ("b", "2"), ("c", "1")]));
    let third = status(&[("a", "1"), ("b", "2"), ("c", "1"), ("d", "1")]);
    let lines = "FROM scratch\nCOPY one /var/lib/dpkg/status\nCOPY two /var/lib/dpkg/status\n\
        COPY meta /usr/lib/python3/x-1.dist-info/METADATA\nCOPY three /var/lib/dpkg/status\n";
    let meta = "Metadata-Version: 2.1\nName: x\nVersion: 1\n";
    let files = [("Dockerfile", lines), ("one", &first), ("two", &second), ("three", &third), ("meta", meta)];
    built(&lab, &files);
    let (bom, _) = bill(&lab, "app", "cyclonedx");
    let origin = |name: &str| {
        let all = bom["components"].as_array().expect("components");
        let one = all.iter().find(|one| one["name"] == name).expect(name);
        format!("{} {}", property(one, "rbuild:layer:index"), property(one, "rbuild:layer:createdBy"))
    };
    for (name, layer, instruction) in
        [("a", 1, "one"), ("b", 2, "two"), ("c", 2, "two"), ("d", 4, "three"), ("x", 3, "meta")]
    {
        let found = origin(name);
        assert!(found.starts_with(&format!("{layer} COPY {instruction} ")), "{name}: {found}");
    }
    // What a later layer removes is not listed.
    let more = format!("{lines}COPY --from=empty /e/ /usr/lib/python3/\nCOPY empty /var/lib/dpkg/status\n");
    let more = format!("FROM scratch AS empty\nCOPY empty /e/x-1.dist-info/METADATA\n{more}");
    built(&lab, &[&files[1..], &[("Dockerfile", &more), ("empty", "")]].concat());
    let (bom, made) = bill(&lab, "app", "cyclonedx");
    assert_eq!(listed(&bom, "deb").len() + listed(&bom, "pypi").len(), 0, "{}", made.out);
    assert!(made.err.contains("/usr/lib/python3/x-1.dist-info/METADATA: it is empty"), "{}", made.err);
}

#[test]
fn the_same_image_gives_the_same_document_wherever_it_lies() {
    let lab = Lab::new();
    let list = status(&[("a", "1")]);
    let module = r#"{"name":"@s/m","version":"1.2.3","license":"MIT"}"#;
    built(
        &lab,
        &[
            ("Dockerfile", "FROM scratch\nCOPY status /var/lib/dpkg/\nCOPY m /app/node_modules/@s/m/\n"),
            ("status", &list),
            ("m/package.json", module),
        ],
    );
    let archive = |kind: &str| format!("{kind}:{}", lab.out(&format!("{kind}.tar")).display());
    for (kind, format) in [("docker-archive", "docker"), ("oci-archive", "oci")] {
        let path = lab.out(&format!("{kind}.tar"));
        let saved = lab.run(["save", "--format", format, "-o", &path.display().to_string(), "app"]);
        assert_eq!(saved.code, 0, "{}", saved.err);
    }
    let layout = format!("oci:{}", lab.out("layout").display());
    let copied = lab.run(["copy", "-q", "store:app", &layout]);
    assert_eq!(copied.code, 0, "{}", copied.err);
    let packages = |bom: &Value| bom["components"].clone();
    let (own, made) = bill(&lab, "app", "cyclonedx");
    assert_eq!(bill(&lab, "app", "cyclonedx").1.out, made.out);
    for source in [archive("docker-archive"), archive("oci-archive"), layout] {
        // Another store knows nothing of it.
        let other = Lab::new();
        let (bom, first) = bill(&other, &source, "cyclonedx");
        assert_eq!(packages(&bom), packages(&own), "{source}");
        assert_eq!(bill(&other, &source, "cyclonedx").1.out, first.out, "{source}");
    }
    let file = lab.out("bill.json");
    let written = lab.run(["sbom", "-o", &file.display().to_string(), "app"]);
    assert_eq!((written.code, written.out.as_str()), (0, ""), "{}", written.err);
    let document: Value = serde_json::from_slice(&fs::read(&file).expect("file")).expect("JSON");
    assert_eq!(document["spdxVersion"], "SPDX-2.3");
    let table = lab.run(["sbom", "app"]).out;
    assert!(table.starts_with("TYPE ") && table.contains("@s/m   1.2.3     2       MIT"), "{table}");
    assert_eq!(lab.run(["sbom", "no-such:image"]).code, 5);
}

#[test]
fn python_and_node_packages_are_those_that_their_tools_list() {
    let test = "python_and_node_packages_are_those_that_their_tools_list";
    let lab = Lab::new();
    let wheel = |name: &str, version: &str| {
        format!("Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n\ntext\n")
    };
    let module = |name: &str, version: &str| format!("{{\"name\":\"{name}\",\"version\":\"{version}\"}}");
    let context = lab.context(&[
        ("Dockerfile", "FROM scratch\nCOPY site /usr/lib/python3/dist-packages\nCOPY app /app\n"),
        ("site/Foo_Bar-1.0.dist-info/METADATA", &wheel("Foo_Bar", "1.0")),
        ("site/foo_bar/METADATA", &wheel("not-a-distribution", "9")),
        ("site/old-2.0.egg-info/PKG-INFO", &wheel("old", "2.0")),
        ("site/single-3.egg-info", &wheel("single", "3")),
        ("app/package.json", r#"{"name":"app","version":"0.1.0","dependencies":{"a":"*","@s/b":"*"}}"#),
        ("app/node_modules/a/package.json", r#"{"name":"a","version":"1.0.0","dependencies":{"c":"*"}}"#),
        ("app/node_modules/a/lib/package.json", r#"{"name":"not-a-module","version":"9"}"#),
        ("app/node_modules/a/node_modules/c/package.json", &module("c", "3.0.0")),
        ("app/node_modules/@s/b/package.json", &module("@s/b", "2.0.0")),
        ("app/package-lock.json", r#"{"packages":{"node_modules/gone":{"version":"1.0.0"}}}"#),
    ]);
    let made = lab.build(&context, &["-t", "app"]);
    assert_eq!(made.code, 0, "{}", made.err);
    let (bom, _) = bill(&lab, "app", "cyclonedx");
    let set = |all: &[&str]| all.iter().map(|one| (*one).to_owned()).collect::<BTreeSet<String>>();
    let (python, node) = (listed(&bom, "pypi"), listed(&bom, "npm"));
    assert_eq!(python, set(&["Foo_Bar 1.0", "old 2.0", "single 3"]));
    assert_eq!(node, set(&["a 1.0.0", "c 3.0.0", "@s/b 2.0.0"]));
    if !has("python3") {
        skip(test, "python3 is not installed");
    } else {
        let script = "import importlib.metadata as m, sys\nfor d in m.distributions(path=sys.argv[1:]):\n \
            print(d.metadata['Name'], d.version)";
        let list =
            Command::new("python3").args(["-c", script]).arg(context.join("site")).output().expect("python3");
        let list = done(list);
        assert_eq!(list.out.lines().map(str::to_owned).collect::<BTreeSet<_>>(), python, "{}", list.err);
    }
    if !has("npm") {
        return skip(test, "npm is not installed");
    }
    fs::remove_file(context.join("app/package-lock.json")).expect("remove");
    let list = npm_list(&context.join("app"));
    assert_eq!(list, node);
}

/// What `npm ls` lists, whatever it thinks of it.
fn npm_list(dir: &Path) -> BTreeSet<String> {
    let mut command = Command::new("npm");
    command.args(["ls", "--all", "--json", "--offline"]).current_dir(dir);
    let list = done(command.output().expect("npm"));
    let value: Value =
        serde_json::from_str(&list.out).unwrap_or_else(|error| panic!("{error}: {}{}", list.out, list.err));
    let (mut all, mut open) = (BTreeSet::new(), vec![&value]);
    while let Some(one) = open.pop() {
        for (name, entry) in one["dependencies"].as_object().into_iter().flatten() {
            all.insert(format!("{name} {}", entry["version"].as_str().unwrap_or_default()));
            open.push(entry);
        }
    }
    all
}

#[test]
fn damaged_files_are_named_and_the_rest_is_listed() {
    let lab = Lab::new();
    let whole = status(&[("a", "1"), ("b", "1")]);
    let cut = &whole[..whole.len() - 10];
    let context = lab.context(&[
        ("Dockerfile", "FROM scratch\nCOPY . /\n"),
        ("var/lib/dpkg/status", cut),
        ("app/node_modules/bad/package.json", "{"),
        ("app/node_modules/good/package.json", r#"{"name":"good","version":"1"}"#),
        ("x.jar", "PK\u{3}\u{4} and no directory"),
    ]);
    let metadata = context.join("p-1.dist-info");
    fs::create_dir(&metadata).expect("mkdir");
    fs::write(metadata.join("METADATA"), b"Metadata-Version: 2.1\nName: p\xff\nVersion: 1\n").expect("write");
    let made = lab.build(&context, &["-t", "app"]);
    assert_eq!(made.code, 0, "{}", made.err);
    let (bom, made) = bill(&lab, "app", "cyclonedx");
    assert_eq!(listed(&bom, "npm"), BTreeSet::from(["good 1".to_owned()]));
    assert_eq!(listed(&bom, "pypi"), BTreeSet::from(["p\u{fffd} 1".to_owned()]));
    assert_eq!(listed(&bom, "deb"), BTreeSet::from(["a 1".to_owned()]), "{}", made.err);
    for part in [
        "/var/lib/dpkg/status: it ends within a line",
        "bad/package.json: it is no JSON",
        "/x.jar: it is no whole zip",
    ] {
        assert!(made.err.contains(part), "{part}: {}", made.err);
        assert!(bom["metadata"]["properties"].to_string().contains(part), "{part}");
    }
}

#[test]
fn a_build_attaches_what_its_image_its_stages_and_its_context_hold() {
    let lab = Lab::new();
    let (tools, own) = (status(&[("compiler", "3")]), status(&[("runtime", "1")]));
    let context = lab.context(&[
        (
            "Dockerfile",
            "ARG BUILDKIT_SBOM_SCAN_CONTEXT=true\nFROM scratch AS other\nCOPY own /x\nFROM scratch AS tools\n\
             ARG BUILDKIT_SBOM_SCAN_STAGE=true\nCOPY tools /var/lib/dpkg/status\nCOPY --from=other /x /x\n\
             FROM scratch\nCOPY --from=tools /x /x\nCOPY own /var/lib/dpkg/status\n",
        ),
        ("tools", &tools),
        ("own", &own),
        ("package-lock.json", r#"{"packages":{"node_modules/left-pad":{"version":"1.3.0"}}}"#),
    ]);
    let files = lab.out("files");
    let made = lab.build(&context, &["--sbom", "-o", &format!("type=local,dest={}", files.display())]);
    assert_eq!(made.code, 0, "{}", made.err);
    let mut names: Vec<String> = fs::read_dir(&files)
        .expect("files")
        .map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned())
        .filter(|name| name.ends_with(".json"))
        .collect();
    names.sort();
    assert_eq!(names, ["sbom-context.spdx.json", "sbom-tools.spdx.json", "sbom.spdx.json"]);
    for (name, package) in names.iter().zip(["left-pad", "compiler", "runtime"]) {
        let statement: Value =
            serde_json::from_slice(&fs::read(files.join(name)).expect("file")).expect("JSON");
        assert_eq!(statement["predicateType"], "https://spdx.dev/Document");
        let packages = statement["predicate"]["packages"].as_array().expect("packages");
        let listed: Vec<&Value> = packages[1..].iter().map(|one| &one["name"]).collect();
        assert_eq!(listed, [package], "{name}");
    }
    let layout = |name: &str, more: &[&str]| {
        let dest = lab.out(name);
        let output = format!("type=oci,tar=false,dest={}", dest.display());
        let mut command = lab.rbuild();
        command.env("SOURCE_DATE_EPOCH", "1700000000").args(["build", "-q", "-o", &output]).args(more);
        let made = done(command.arg(&context).output().expect("rbuild starts"));
        assert_eq!(made.code, 0, "{}", made.err);
        let index = fs::read(dest.join("index.json")).expect("index");
        (dest, String::from_utf8_lossy(&index).into_owned())
    };
    let (plain, _) = layout("plain", &["--provenance=false"]);
    let (first, index) = layout("first", &["--provenance=false", "--sbom=format=cyclonedx"]);
    let (_, again) = layout("again", &["--provenance=false", "--attest", "type=sbom,format=cyclonedx"]);
    assert_eq!(again, index, "the same image and attestations");
    // The image is the one that it is without.
    for blob in fs::read_dir(plain.join("blobs/sha256")).expect("blobs").flatten() {
        assert!(first.join("blobs/sha256").join(blob.file_name()).exists(), "{:?}", blob.file_name());
    }
    let bom = fs::read_dir(first.join("blobs/sha256")).expect("blobs").flatten().find_map(|blob| {
        let value: Value = serde_json::from_slice(&fs::read(blob.path()).ok()?).ok()?;
        let is_own = value["predicate"]["components"][0]["name"] == "runtime";
        (value["predicateType"] == "https://cyclonedx.org/bom" && is_own).then_some(value)
    });
    let bom = bom.expect("a statement about the image");
    assert_eq!(
        property(&bom["predicate"]["components"][0], "rbuild:layer:createdBy"),
        "COPY own /var/lib/dpkg/status # buildkit"
    );
    let made = lab.build(&context, &["-t", "app", "--sbom", "--provenance=false"]);
    assert_eq!(made.code, 0, "{}", made.err);
    let shown = lab.run(["inspect", "--format", "{{json .SBOM}}", "app"]);
    let shown: Value = serde_json::from_str(&shown.out).expect("JSON");
    assert_eq!(shown["SPDX"]["spdxVersion"], "SPDX-2.3", "{shown}");
    let refused = lab.build(&context, &["--sbom=generator=scanner:1"]);
    assert!(refused.code == 8 && refused.err.contains("generator=scanner:1"), "{}", refused.err);
}
