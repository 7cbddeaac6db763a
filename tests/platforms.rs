//! Which base a platform gets, and what the image is labelled with. Expectations were measured with BuildKit
//! (master of August 2026) unless a test says otherwise.

mod support;

#[path = "support/images.rs"]
mod images;
#[path = "support/memory.rs"]
mod memory;

use std::fs;
use std::path::Path;

use images::{Images, at, platform, shown};
use memory::MemoryRegistry;
use rbuild::image::Platform;
use serde_json::{Value, json};
use support::{Done, Lab};

/// The processor that builds is said to be amd64's, so that the tests mean the same on every machine.
const BUILD: &str = "--build-arg=BUILDPLATFORM=linux/amd64";

/// Builds `FROM base` from a layout. `LISTED CONFIG FILE=CONTENT...` of each image, in order.
fn on_layout(images: &Images, top: &Value, dockerfile: &str, platforms: &str) -> Result<Vec<String>, Done> {
    let lab = Lab::new();
    let layout = lab.path().join("base");
    images.layout(&layout, top);
    let context = format!("--build-context=base=oci-layout://{}", layout.display());
    build(&lab, dockerfile, platforms, &[&context])
}

/// The same with the base in a registry.
fn on_registry(images: &Images, top: &Value, dockerfile: &str, platforms: &str) -> Result<Vec<String>, Done> {
    let (lab, registry) = (Lab::new(), MemoryRegistry::start());
    let name = images.serve(&registry, "team/base", top);
    let dockerfile = dockerfile.replace("FROM base", &format!("FROM {name}"));
    let dockerfile = dockerfile.replace("PLATFORM base", &format!("PLATFORM {name}"));
    build(&lab, &dockerfile, platforms, &["--insecure-registry", registry.host()])
}

fn build(lab: &Lab, dockerfile: &str, platforms: &str, more: &[&str]) -> Result<Vec<String>, Done> {
    let context = lab.context(&[("Dockerfile", dockerfile), ("a", "x\n")]);
    let (layout, files) = (lab.out("layout"), lab.out("files"));
    let mut args = vec!["build".to_owned(), BUILD.to_owned()];
    args.extend(more.iter().map(|arg| (*arg).to_owned()));
    if !platforms.is_empty() {
        args.push(format!("--platform={platforms}"));
    }
    args.push(format!("-otype=oci,tar=false,dest={}", layout.display()));
    args.push(format!("-otype=local,platform-split=true,dest={}", files.display()));
    args.push(context.display().to_string());
    let done = lab.run(&args);
    if done.code != 0 {
        return Err(done);
    }
    Ok(described(&layout, &files))
}

fn described(layout: &Path, files: &Path) -> Vec<String> {
    let read = |path: String| -> Value {
        serde_json::from_slice(&fs::read(layout.join(path)).expect("a file")).expect("JSON")
    };
    let blob = |digest: &Value| read(digest.as_str().unwrap_or_default().replace("sha256:", "blobs/sha256/"));
    let mut entries = read("index.json".into())["manifests"].as_array().cloned().unwrap_or_default();
    let index = blob(&entries[0]["digest"]);
    if let Some(images) = index["manifests"].as_array() {
        entries.clone_from(images);
    }
    let mut dirs: Vec<_> = fs::read_dir(files).expect("files").flatten().map(|dir| dir.path()).collect();
    dirs.sort();
    let mut all = Vec::new();
    for entry in &entries {
        let config = blob(&blob(&entry["digest"])["config"]["digest"]);
        let listed = shown(&entry["platform"]);
        // Directories are named after what was asked for.
        let dir = match &dirs[..] {
            [only] => only.clone(),
            _ => files.join(listed.replace('/', "_")),
        };
        let mut line = format!("{listed} {}", shown(&config));
        for name in ["made", "b", "c"] {
            if let Ok(text) = fs::read_to_string(dir.join(name)) {
                line.push_str(&format!(" {name}={}", text.trim()));
            }
        }
        all.push(line);
    }
    all
}

fn built(result: Result<Vec<String>, Done>) -> Vec<String> {
    result.unwrap_or_else(|done| panic!("{} {}", done.code, done.err))
}

/// Builds from a layout and from a registry, which must agree.
fn both(images: &Images, top: &Value, dockerfile: &str, platforms: &str) -> Vec<String> {
    let one = built(on_layout(images, top, dockerfile, platforms));
    let other = built(on_registry(images, top, dockerfile, platforms));
    assert_eq!(one, other, "a layout and a registry with the same images");
    one
}

const PLAIN: &str = "FROM base\nCOPY a /a\n";

#[test]
fn each_platform_gets_its_own_base_where_variants_are_not_the_same() {
    let mut images = Images::default();
    let entries = [images.honest("linux/amd64"), images.honest("linux/arm/v6")];
    let top = images.index(&entries);
    for platforms in ["linux/amd64,linux/arm/v7", "linux/amd64,linux/arm"] {
        assert_eq!(
            both(&images, &top, PLAIN, platforms),
            ["linux/amd64 linux/amd64 made=linux/amd64", "linux/arm/v7 linux/arm/v7 made=linux/arm/v6",]
        );
    }
    assert_eq!(both(&images, &top, PLAIN, "linux/arm/v7"), ["linux/arm/v7 linux/arm/v7 made=linux/arm/v6"]);
}

#[test]
fn each_platform_gets_its_own_base_where_the_config_lacks_the_variant() {
    let mut images = Images::default();
    let bare = at(images.image(platform("linux/arm"), "linux/arm/v6"), "linux/arm/v6");
    let entries = [images.honest("linux/amd64"), bare];
    let top = images.index(&entries);
    for variant in ["v6", "v7"] {
        let arm = format!("linux/arm/{variant}");
        assert_eq!(
            both(&images, &top, PLAIN, &format!("linux/amd64,{arm}")),
            ["linux/amd64 linux/amd64 made=linux/amd64".to_owned(), format!("{arm} {arm} made=linux/arm/v6")]
        );
    }
}

#[test]
fn each_platform_gets_its_own_base_where_the_config_lacks_more_or_lies() {
    for configs in [
        [json!({"architecture": "amd64"}), json!({"os": "linux"})],
        [json!({}), json!({})],
        [platform("linux/arm64"), platform("linux/amd64")],
    ] {
        let mut images = Images::default();
        let [one, other] = configs;
        let one = at(images.image(one, "first"), "linux/amd64");
        let other = at(images.image(other, "second"), "linux/arm64");
        let top = images.index(&[one, other]);
        assert_eq!(
            both(&images, &top, PLAIN, "linux/amd64,linux/arm64"),
            ["linux/amd64 linux/amd64 made=first", "linux/arm64 linux/arm64 made=second"]
        );
    }
}

#[test]
fn each_platform_gets_the_best_variant_and_keeps_its_own_name() {
    let mut images = Images::default();
    let entries = [images.honest("linux/amd64"), images.honest("linux/amd64/v3")];
    let top = images.index(&entries);
    let levels = "linux/amd64,linux/amd64/v2,linux/amd64/v3,linux/amd64/v4";
    assert_eq!(
        both(&images, &top, PLAIN, levels),
        [
            "linux/amd64 linux/amd64 made=linux/amd64",
            "linux/amd64/v2 linux/amd64/v2 made=linux/amd64",
            "linux/amd64/v3 linux/amd64/v3 made=linux/amd64/v3",
            "linux/amd64/v4 linux/amd64/v4 made=linux/amd64/v3",
        ]
    );
}

#[test]
fn one_name_on_several_platforms_in_one_build_is_several_bases() {
    let mut images = Images::default();
    let entries = ["linux/amd64", "linux/arm64", "linux/arm/v6"].map(|text| images.honest(text));
    let top = images.index(&entries);
    let beside = "FROM --platform=$BUILDPLATFORM base AS b\nFROM base\nCOPY --from=b /made /b\n";
    assert_eq!(
        both(&images, &top, beside, "linux/arm64,linux/amd64,linux/arm/v7"),
        [
            "linux/arm64 linux/arm64 made=linux/arm64 b=linux/amd64",
            "linux/amd64 linux/amd64 made=linux/amd64 b=linux/amd64",
            "linux/arm/v7 linux/arm/v7 made=linux/arm/v6 b=linux/amd64",
        ]
    );
    let stages = "ARG B_PLATFORM=linux/arm64\nARG C_PLATFORM=linux/arm/v7\n\
                  FROM --platform=$B_PLATFORM base AS b\nFROM --platform=$C_PLATFORM base AS c\n\
                  FROM base\nCOPY --from=b /made /b\nCOPY --from=c /made /c\n";
    assert_eq!(
        both(&images, &top, stages, "linux/amd64"),
        ["linux/amd64 linux/amd64 made=linux/amd64 b=linux/arm64 c=linux/arm/v6"]
    );
    // An image that is only copied from is the target's.
    let copied = "FROM --platform=$BUILDPLATFORM base\nCOPY --from=base /made /b\n";
    assert_eq!(
        built(on_layout(&images, &top, copied, "linux/arm/v7,linux/arm64")),
        [
            "linux/arm/v7 linux/arm/v7 made=linux/amd64 b=linux/arm/v6",
            "linux/arm64 linux/arm64 made=linux/amd64 b=linux/arm64",
        ]
    );
}

#[test]
fn scratch_is_for_the_target_whatever_its_flag_says() {
    let host = Platform::host();
    let other = if host.architecture == "arm64" { "linux/amd64" } else { "linux/arm64" };
    let scratch = |flag: &str, platforms: &str| {
        let text = format!("FROM --platform={flag} scratch\nCOPY a /a\n");
        built(build(&Lab::new(), &text, platforms, &[]))
    };
    let both = ["linux/amd64 linux/amd64", "linux/arm64 linux/arm64"];
    assert_eq!(scratch("linux/amd64", "linux/amd64,linux/arm64"), both);
    assert_eq!(scratch("$BUILDPLATFORM", "linux/amd64,linux/arm64"), both);
    assert_eq!(scratch("linux/amd64", "linux/arm/v7"), ["linux/arm/v7 linux/arm/v7"]);
    assert_eq!(scratch(other, ""), [format!("{host} {host}")]);
    // A named context that holds nothing is a base like others.
    let text = format!("FROM --platform={other} nothing\nCOPY a /a\n");
    let named = "--build-context=nothing=docker-image://scratch";
    assert_eq!(built(build(&Lab::new(), &text, "", &[named])), [format!("{other} {other}")]);
    let text = "FROM --platform=linux/amd64 nothing\nCOPY a /a\n";
    assert_eq!(built(build(&Lab::new(), text, "linux/amd64,linux/arm64", &[named])), both);
}

#[test]
fn an_image_is_for_the_target_although_its_base_is_for_another_platform() {
    let mut images = Images::default();
    let entries = ["linux/amd64", "linux/arm64"].map(|text| images.honest(text));
    let top = images.index(&entries);
    let amd64 = "made=linux/amd64";
    for text in [
        "FROM --platform=$BUILDPLATFORM base\nCOPY a /a\n",
        "FROM --platform=$BUILDPLATFORM base\n",
        "FROM --platform=$BUILDPLATFORM base AS x\nFROM x\nENV A=b\n",
    ] {
        assert_eq!(
            both(&images, &top, text, "linux/amd64,linux/arm64,linux/arm/v7"),
            [
                format!("linux/amd64 linux/amd64 {amd64}"),
                format!("linux/arm64 linux/arm64 {amd64}"),
                format!("linux/arm/v7 linux/arm/v7 {amd64}"),
            ]
        );
    }
}

#[test]
fn an_image_of_one_platform_serves_every_target_with_a_warning() {
    let mut images = Images::default();
    let top = images.image(platform("linux/arm/v6"), "v6");
    assert_eq!(
        both(&images, &top, PLAIN, "linux/amd64,linux/arm/v7,linux/arm64"),
        [
            "linux/amd64 linux/amd64 made=v6",
            "linux/arm/v7 linux/arm/v7 made=v6",
            "linux/arm64 linux/arm64 made=v6",
        ]
    );
    // Without a platform asked for, the image stays what its base is. (BuildKit lists it as this machine's.)
    assert_eq!(both(&images, &top, PLAIN, ""), ["linux/arm/v6 linux/arm/v6 made=v6"]);
    let lab = Lab::new();
    images.layout(&lab.path().join("base"), &top);
    let context = lab.context(&[("Dockerfile", PLAIN), ("a", "x\n")]);
    let base = format!("--build-context=base=oci-layout://{}", lab.path().join("base").display());
    let context = context.display().to_string();
    let done = lab.run(["build", "--platform=linux/amd64,linux/arm64,linux/arm/v7", &base, &context]);
    let warned = done.err.lines().filter(|line| line.contains("InvalidBaseImagePlatform")).count();
    assert_eq!((done.code, warned), (0, 2), "arm/v7 runs what is for arm/v6: {}", done.err);
}

#[test]
fn variant_and_version_of_a_base_stay_where_the_target_does_not_contradict() {
    let mut images = Images::default();
    let mut configs = [platform("linux/amd64/v2"), platform("linux/arm64")];
    for config in &mut configs {
        config["os.version"] = "1.2".into();
    }
    let [one, other] = configs;
    let entries =
        [at(images.image(one, "one"), "linux/amd64"), at(images.image(other, "other"), "linux/arm64")];
    let top = images.index(&entries);
    assert_eq!(
        both(&images, &top, PLAIN, "linux/amd64,linux/arm64"),
        ["linux/amd64 linux/amd64/v2/1.2 made=one", "linux/arm64 linux/arm64/1.2 made=other"]
    );
    assert_eq!(both(&images, &top, PLAIN, "linux/amd64/v3"), ["linux/amd64/v3 linux/amd64/v3/1.2 made=one"]);
    let build = "FROM --platform=$BUILDPLATFORM base\nCOPY a /a\n";
    assert_eq!(both(&images, &top, build, "linux/arm64"), ["linux/arm64 linux/arm64 made=one"]);
}

#[test]
fn images_for_windows_keep_the_version_of_their_base_and_get_no_path() {
    let mut images = Images::default();
    let mut config = platform("windows/amd64");
    config["os.version"] = "10.0.1".into();
    let top = images.image(config, "windows");
    let windows = "windows/amd64/10.0.1 windows/amd64/10.0.1 made=windows";
    assert_eq!(both(&images, &top, PLAIN, "windows/amd64"), [windows]);
    assert_eq!(both(&images, &top, PLAIN, "linux/amd64"), ["linux/amd64 linux/amd64 made=windows"]);
    let lab = Lab::new();
    let context = lab.context(&[("Dockerfile", "FROM scratch\nCOPY a /a\n"), ("a", "x\n")]);
    let context = context.display().to_string();
    for (platform, has_path) in [("windows/amd64", false), ("linux/amd64", true)] {
        let done = lab.run(["plan", "--format=json", "--platform", platform, &context]);
        assert_eq!(done.code, 0, "{}", done.err);
        assert_eq!(done.out.contains("PATH="), has_path, "{platform}: {}", done.out);
    }
}

/// Copies an image into the store, whole, and builds on it there.
fn on_store(images: &Images, top: &Value, platforms: &str) -> Vec<String> {
    let lab = Lab::new();
    let layout = lab.path().join("base");
    images.layout(&layout, top);
    let copied = lab.run(["copy", "--all", &format!("oci:{}", layout.display()), "store:base:1"]);
    assert_eq!(copied.code, 0, "{}", copied.err);
    built(build(&lab, "FROM base:1\nCOPY a /a\n", platforms, &["--pull=never"]))
}

/// From a layout, a registry and the store.
fn everywhere(images: &Images, top: &Value, platforms: &str) -> Vec<String> {
    let one = both(images, top, PLAIN, platforms);
    assert_eq!(one, on_store(images, top, platforms));
    one
}

const TWO: &str = "linux/amd64,linux/arm64";

#[test]
fn images_listed_without_a_platform_are_known_by_their_configs_as_in_containerd() {
    // BuildKit itself looks at the first such entry only.
    let mut images = Images::default();
    let silent = ["linux/amd64", "linux/arm64", "linux/arm/v6", "linux/arm/v7"]
        .map(|text| images.image(platform(text), text));
    let top = images.index(&silent);
    assert_eq!(
        everywhere(&images, &top, "linux/arm64,linux/amd64,linux/arm/v7,linux/arm/v6,linux/amd64/v2"),
        [
            "linux/arm64 linux/arm64 made=linux/arm64",
            "linux/amd64 linux/amd64 made=linux/amd64",
            "linux/arm/v7 linux/arm/v7 made=linux/arm/v7",
            "linux/arm/v6 linux/arm/v6 made=linux/arm/v6",
            "linux/amd64/v2 linux/amd64/v2 made=linux/amd64",
        ]
    );
    for build in [on_layout, on_registry] {
        let refused = build(&images, &top, PLAIN, "linux/s390x").expect_err("there is none");
        assert_eq!(refused.code, 5, "{}", refused.err);
        assert!(
            refused.err.contains("linux/s390x") && refused.err.contains("linux/arm/v6"),
            "{}",
            refused.err
        );
    }
}

#[test]
fn entries_that_state_a_platform_come_before_those_that_do_not() {
    for stated_first in [true, false] {
        let mut images = Images::default();
        let stated = at(images.image(platform("linux/amd64"), "stated"), "linux/amd64");
        let silent = images.image(platform("linux/amd64"), "silent");
        let other = images.image(platform("linux/arm64"), "other");
        let entries = if stated_first { [stated, silent, other] } else { [other, silent, stated] };
        let top = images.index(&entries);
        assert_eq!(
            everywhere(&images, &top, TWO),
            ["linux/amd64 linux/amd64 made=stated", "linux/arm64 linux/arm64 made=other"]
        );
    }
}

#[test]
fn a_single_entry_without_a_platform_serves_only_what_its_config_says() {
    let mut images = Images::default();
    let only = images.image(platform("linux/arm64"), "arm64");
    let top = images.index(&[only]);
    assert_eq!(everywhere(&images, &top, "linux/arm64"), ["linux/arm64 linux/arm64 made=arm64"]);
    let refused = on_registry(&images, &top, PLAIN, "linux/amd64").expect_err("it is for another platform");
    assert!(refused.code == 5 && refused.err.contains("linux/arm64"), "{} {}", refused.code, refused.err);
    // Where nothing says anything, it is like an image that is in no index. (BuildKit refuses it.)
    let mut images = Images::default();
    let only = images.image(json!({}), "nothing");
    let top = images.index(&[only]);
    assert_eq!(everywhere(&images, &top, "linux/amd64"), ["linux/amd64 linux/amd64 made=nothing"]);
}

#[test]
fn indexes_inside_indexes_are_followed_from_everywhere() {
    let mut images = Images::default();
    let (amd64, arm64) = (images.honest("linux/amd64"), images.honest("linux/arm64"));
    let both_inside = images.index(&[amd64.clone(), arm64.clone()]);
    let (only_amd64, only_arm64) =
        (images.index(std::slice::from_ref(&amd64)), images.index(std::slice::from_ref(&arm64)));
    let entries = [
        vec![both_inside.clone()],
        vec![at(only_amd64.clone(), "linux/amd64"), at(only_arm64.clone(), "linux/arm64")],
        vec![only_amd64.clone(), only_arm64.clone()],
        vec![only_arm64.clone(), amd64.clone()],
        // An index that promises more than it has.
        vec![at(only_arm64.clone(), "linux/amd64"), both_inside],
    ];
    for entries in entries {
        let top = images.index(&entries);
        assert_eq!(
            everywhere(&images, &top, TWO),
            ["linux/amd64 linux/amd64 made=linux/amd64", "linux/arm64 linux/arm64 made=linux/arm64",]
        );
    }
    let inner = at(images.image(platform("linux/amd64"), "inner"), "linux/amd64");
    let inner = images.index(&[inner]);
    let top = images.index(&[inner, amd64]);
    assert_eq!(everywhere(&images, &top, "linux/amd64"), ["linux/amd64 linux/amd64 made=linux/amd64"]);
}

#[test]
fn indexes_nest_to_the_same_depth_everywhere() {
    let mut images = Images::default();
    let mut top = images.honest("linux/amd64");
    for _ in 0..4 {
        top = images.index(&[top]);
    }
    assert_eq!(everywhere(&images, &top, "linux/amd64"), ["linux/amd64 linux/amd64 made=linux/amd64"]);
    let top = images.index(&[top]);
    let lab = Lab::new();
    images.layout(&lab.path().join("base"), &top);
    let copied =
        lab.run(["copy", "--all", &format!("oci:{}", lab.path().join("base").display()), "store:base:1"]);
    let refused = [
        on_layout(&images, &top, PLAIN, "linux/amd64").expect_err("too deep"),
        on_registry(&images, &top, PLAIN, "linux/amd64").expect_err("too deep"),
        copied,
    ];
    for done in refused {
        assert!(done.code == 5 && done.err.contains("nested"), "{} {}", done.code, done.err);
    }
}

#[test]
fn copying_for_one_platform_finds_the_same_image_as_a_build() {
    let mut images = Images::default();
    let silent = ["linux/amd64", "linux/arm64"].map(|text| images.image(platform(text), text));
    let inside = images.index(&silent);
    let top = images.index(&[inside]);
    let (lab, registry) = (Lab::new(), MemoryRegistry::start());
    let layout = lab.path().join("base");
    images.layout(&layout, &top);
    let name = images.serve(&registry, "team/base", &top);
    for (number, from) in [format!("oci:{}", layout.display()), format!("docker://{name}")].iter().enumerate()
    {
        for (text, image) in [("linux/amd64", &silent[0]), ("linux/arm64", &silent[1])] {
            let to = format!("store:copied:{number}");
            let args = ["copy", "--insecure-registry", registry.host(), "--platform", text, from, &to];
            let done = lab.run(args);
            assert_eq!(done.code, 0, "{}", done.err);
            let inspected = lab.run(["inspect", &format!("copied:{number}")]);
            let digest = image["digest"].as_str().unwrap_or_default();
            assert!(inspected.out.contains(digest), "{from} {text}: {}", inspected.out);
        }
    }
}
