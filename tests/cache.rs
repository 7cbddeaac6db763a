//! Caches elsewhere: what a fresh store finds in them, what they may do to a build when they are wrong, and
//! that nobody's results are lost.

#[path = "cache/care.rs"]
mod care;
#[path = "support/objects.rs"]
mod object_server;
#[path = "cache/objects.rs"]
mod objects;
#[path = "support/proxy.rs"]
mod proxy;
#[path = "support/registry.rs"]
mod registry;
#[path = "cache/signed.rs"]
mod signed;
mod support;

use std::collections::BTreeSet;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proxy::{Harm, Proxy, Rule};
use rbuild::cache::{
    Bounds, CacheDocument, CachePlace, DirectoryCache, Entry, Export, LayerBlob, RepositoryCache,
};
use rbuild::cancel::Cancel;
use rbuild::digest::{ChainId, DiffId, Digest};
use rbuild::registry::origins::Origin;
use rbuild::registry::{RegistryAccess, StoreContent};
use rbuild::store::Store;
use registry::{Setup, TestRegistry, USER};
use support::{Done, Lab, bases_or_skip, skip};

type Outcome = Result<(), Box<dyn Error>>;

const DOCUMENT_TYPE: &str = "application/vnd.rbuild.cache.v1+json";
const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";

fn start(test: &str, setup: Setup) -> Option<TestRegistry> {
    if !bases_or_skip(test) {
        return None;
    }
    let registry = TestRegistry::with(setup).expect("a registry that starts");
    if registry.is_none() {
        skip(test, "docker-registry is not installed");
    }
    registry
}

/// Two stages: `build` is only copied from. The stamps tell executions apart.
const STAGES: &str = "FROM busybox AS build\n\
    COPY src /src\n\
    RUN cat /src/* >/out && cat /proc/sys/kernel/random/uuid >/stamp\n\
    FROM busybox\n\
    COPY --from=build /out /copied/\n\
    RUN cat /copied/out >/done && cat /proc/sys/kernel/random/uuid >/stamp\n";

fn files(dockerfile: &str) -> Vec<(&str, &str)> {
    vec![("Dockerfile", dockerfile), ("src/a", "one\n"), ("src/b", "two\n")]
}

/// `N of M steps cached`, or all or none of them.
fn cached(done: &Done) -> (usize, usize) {
    assert_eq!(done.code, 0, "{}", done.err);
    let line = done.err.lines().find(|line| line.starts_with("built")).unwrap_or_default();
    let words: Vec<&str> = line.split([' ', ',']).filter(|word| !word.is_empty()).collect();
    let at = words
        .iter()
        .position(|word| *word == "steps" || *word == "step")
        .unwrap_or_else(|| panic!("{}", done.err));
    let number = |at: usize| words.get(at).and_then(|word| word.parse().ok());
    let all = number(at - 1).unwrap_or_else(|| panic!("{line}"));
    (number(at - 3).unwrap_or(0), all)
}

/// Builds with a fresh store and gives the image's ID and what was printed.
fn fresh(context: &Path, flags: &[&str]) -> (String, Done) {
    let lab = Lab::new();
    let id = lab.out("id");
    let file = format!("--iidfile={}", id.display());
    let done = lab.build(context, &[&[file.as_str()], flags].concat());
    (fs::read_to_string(&id).unwrap_or_default(), done)
}

fn built(context: &Path, flags: &[&str]) -> (String, (usize, usize), String) {
    let (id, done) = fresh(context, flags);
    let counts = cached(&done);
    (id, counts, done.err)
}

#[test]
fn a_fresh_store_finds_what_was_exported() {
    let Some(server) = start("cache", Setup::default()) else { return };
    let lab = Lab::new();
    let context = lab.context(&files(STAGES));
    let host = server.host();
    for (mode, wanted) in [("min", (2, 4)), ("max", (4, 4))] {
        let dir = lab.out(mode).display().to_string();
        let places = [
            (format!("type=registry,ref={host}/app:{mode}"), format!("{host}/app:{mode}")),
            (format!("type=local,dest={dir}"), format!("type=local,src={dir}")),
        ];
        for (to, from) in &places {
            let (to, from) = (format!("--cache-to={to},mode={mode}"), format!("--cache-from={from}"));
            let (first, none, _) = built(&context, &[&to]);
            assert_eq!(none, (0, 4), "{to}");
            let (second, counts, err) = built(&context, &[&from]);
            assert_eq!(counts, wanted, "{to}: {err}");
            assert!(err.contains("importing cache manifest from"), "{err}");
            assert_eq!(first, second, "{to}");
        }
    }
}

#[test]
fn an_image_can_carry_the_records_of_its_layers() {
    let Some(server) = start("inline cache", Setup::default()) else { return };
    let lab = Lab::new();
    let context = lab.context(&files(STAGES));
    let name = format!("{}/app:1", server.host());
    for flag in ["--cache-to=type=inline", "--build-arg=BUILDKIT_INLINE_CACHE=1"] {
        let (_, none, _) = built(&context, &[flag, "-t", &name, "--push"]);
        assert_eq!(none, (0, 4));
        let (_, counts, err) = built(&context, &[&format!("--cache-from={name}")]);
        assert_eq!(counts, (2, 4), "{flag}: {err}");
    }
    // Without it the image has none, and is none.
    let plain = format!("{}/plain:1", server.host());
    built(&context, &["-t", &plain, "--push"]);
    let (_, counts, err) = built(&context, &[&format!("--cache-from={plain}")]);
    assert_eq!(counts, (0, 4));
    assert!(err.contains("an image without records"), "{err}");
}

#[test]
fn several_platforms_share_an_inline_cache() {
    let Some(server) = start("inline cache of an index", Setup::default()) else { return };
    let lab = Lab::new();
    let context = lab.context(&[("Dockerfile", "FROM scratch\nCOPY a /\nWORKDIR /w\n"), ("a", "x")]);
    let name = format!("{}/app:1", server.host());
    let platforms = "--platform=linux/amd64,linux/arm64";
    built(&context, &["--cache-to=type=inline", "-t", &name, "--push", platforms]);
    let (_, counts, err) = built(&context, &[&format!("--cache-from={name}"), platforms]);
    assert_eq!(counts, (4, 4), "{err}");
}

fn layer_reads(proxy: &Proxy, documents: usize) -> usize {
    let passed = proxy.passed();
    let reads = passed.iter().filter(|one| one.method == "GET" && one.path.contains("/blobs/sha256"));
    reads.count() - documents
}

#[test]
fn layers_come_only_where_something_needs_them() {
    let Some(server) = start("lazy cache", Setup::default()) else { return };
    let proxy = Proxy::start(server.host()).expect("a proxy");
    let lab = Lab::new();
    let context = lab.context(&files(STAGES));
    let host = proxy.host();
    let (to, from) = (
        format!("--cache-to=type=registry,ref={host}/app:cache,mode=max"),
        format!("--cache-from={host}/app:cache"),
    );
    built(&context, &[&to]);
    // Nothing is wanted but that the steps succeed.
    proxy.passed();
    let (_, done) = fresh(&context, &[&from, "-o", "type=cacheonly"]);
    assert_eq!(done.code, 0, "{}", done.err);
    assert_eq!(layer_reads(&proxy, 1), 0, "{}", done.err);
    // The registry has the layers already, in another repository.
    let name = format!("{host}/image:1");
    let (_, counts, err) = built(&context, &[&from, "-t", &name, "--push"]);
    assert_eq!(counts, (4, 4), "{err}");
    let passed = proxy.passed();
    let mounted = passed.iter().filter(|one| one.path.contains("mount=sha256")).count();
    let read = passed.iter().filter(|one| one.method == "GET" && one.path.contains("/blobs/sha256")).count();
    assert_eq!((mounted, read), (2, 1), "{passed:#?}");
    // An image in the store has its own layers, and not those of the other stage.
    let (_, counts, _) = built(&context, &[&from]);
    assert_eq!(counts, (4, 4));
    assert_eq!(layer_reads(&proxy, 1), 2);
    // One that changes in the end needs the files below it.
    fs::write(context.join("Dockerfile"), format!("{STAGES}RUN cat /done /stamp >/end\n")).expect("write");
    let (_, counts, _) = built(&context, &[&from]);
    assert_eq!(counts, (4, 5));
}

#[test]
fn an_own_store_is_asked_first_and_gets_what_came() {
    let Some(server) = start("own store first", Setup::default()) else { return };
    let lab = Lab::new();
    let context = lab.context(&files(STAGES));
    let reference = format!("{}/app:cache", server.host());
    built(&context, &[&format!("--cache-to=type=registry,ref={reference},mode=max")]);
    let from = format!("--cache-from={reference}");
    let other = Lab::new();
    assert_eq!(cached(&other.build(&context, &[&from])), (4, 4));
    drop(server);
    // The steps of the image are in the store now; those of the other stage were never needed.
    let done = other.build(&context, &["--target=build"]);
    assert_eq!(cached(&done), (0, 2), "{}", done.err);
    let whole = other.run(["fsck"]);
    assert_eq!(whole.code, 0, "{}{}", whole.out, whole.err);
}

#[test]
fn an_export_sends_what_is_new_and_says_so() {
    let Some(server) = start("export", Setup::default()) else { return };
    let lab = Lab::new();
    let context = lab.context(&files(STAGES));
    let to = format!("--cache-to=type=registry,ref={}/app:cache,mode=max", server.host());
    let err = cached_err(&lab.build(&context, &[&to]));
    assert!(err.contains("exporting cache to registry") && err.contains("layers: 4 new"), "{err}");
    let err = cached_err(&lab.build(&context, &[&to]));
    assert!(err.contains("nothing new"), "{err}");
    fs::write(context.join("Dockerfile"), format!("{STAGES}WORKDIR /w\n")).expect("write");
    let err = cached_err(&lab.build(&context, &[&to]));
    assert!(err.contains("5 steps") && err.contains("layers: 1 new"), "{err}");
}

fn cached_err(done: &Done) -> String {
    assert_eq!(done.code, 0, "{}", done.err);
    done.err.clone()
}

#[test]
fn a_cache_that_cannot_be_written_fails_the_build_unless_that_is_allowed() {
    let Some(server) = start("export failures", Setup { password: true, ..Setup::default() }) else { return };
    let lab = Lab::new();
    let context = lab.context(&files(STAGES));
    let to = format!("--cache-to=type=registry,ref={}/app:cache", server.host());
    let done = lab.build(&context, &[&to]);
    assert_eq!(done.code, 6, "{}", done.err);
    assert!(done.err.contains("cannot write the cache") && done.err.contains("ignore-error"), "{}", done.err);
    let done = lab.build(&context, &[&format!("{to},ignore-error=true")]);
    assert_eq!(done.code, 0, "{}", done.err);
    assert!(done.err.contains("the cache was not written"), "{}", done.err);
    sign_in(&lab, server.host());
    assert_eq!(lab.build(&context, &[&to]).code, 0);
    // Something else lies there.
    let taken = lab.context(&[("file", "x")]);
    let done = lab.build(&context, &[&format!("--cache-to=type=local,dest={}", taken.display())]);
    assert_eq!(done.code, 6, "{}", done.err);
    assert!(done.err.contains("neither empty nor an OCI layout"), "{}", done.err);
}

fn sign_in(lab: &Lab, host: &str) {
    use base64::Engine as _;
    let auth = base64::engine::general_purpose::STANDARD.encode(format!("{}:{}", USER.0, USER.1));
    let dir = lab.path().join("home/.docker");
    fs::create_dir_all(&dir).expect("mkdir");
    fs::write(dir.join("config.json"), format!(r#"{{"auths":{{"{host}":{{"auth":"{auth}"}}}}}}"#))
        .expect("write");
}

#[test]
fn an_image_is_not_replaced_by_a_cache() {
    let Some(server) = start("cache over an image", Setup::default()) else { return };
    let lab = Lab::new();
    let context = lab.context(&files(STAGES));
    let name = format!("{}/app:1", server.host());
    built(&context, &["-t", &name, "--push"]);
    let done = lab.build(&context, &[&format!("--cache-to={name}")]);
    assert_eq!(done.code, 6, "{}", done.err);
    assert!(done.err.contains("an image"), "{}", done.err);
}

/// What is exported for the fault tables: deterministic, so that every image can be compared.
const PLAIN: &str = "FROM busybox AS build\n\
    COPY src /src\n\
    RUN cat /src/* >/out\n\
    FROM busybox\n\
    COPY --from=build /out /copied/\n\
    RUN cat /copied/out /copied/out >/done\n";
const EPOCH: &str = "--build-arg=SOURCE_DATE_EPOCH=1000000000";

fn rule(part: &str, harm: Harm, times: usize) -> Rule {
    Rule { method: "GET", part: part.to_owned(), harm, after: 0, times }
}

/// The cache's document and what it names, as the registry or layout has them.
struct Exported {
    document: serde_json::Value,
    config: Digest,
    layers: Vec<Digest>,
}

fn read_layout(dir: &Path) -> Exported {
    let blob = |digest: &str| {
        fs::read(dir.join("blobs/sha256").join(digest.trim_start_matches("sha256:"))).expect("blob")
    };
    let json = |bytes: &[u8]| serde_json::from_slice::<serde_json::Value>(bytes).expect("JSON");
    let index = json(&fs::read(dir.join("index.json")).expect("index"));
    let manifest = json(&blob(index["manifests"][0]["digest"].as_str().expect("digest")));
    let text =
        |value: &serde_json::Value| Digest::parse(value["digest"].as_str().expect("digest")).expect("digest");
    let config = text(&manifest["config"]);
    let layers = manifest["layers"].as_array().expect("layers").iter().map(text).collect();
    Exported { document: json(&blob(&config.to_string())), config, layers }
}

/// Writes a manifest for another document into the layout.
fn write_layout(dir: &Path, document: &[u8], layers: &[(Digest, u64)]) {
    let put = |bytes: &[u8]| {
        let digest = Digest::of(bytes);
        fs::write(dir.join("blobs/sha256").join(digest.hex()), bytes).expect("write");
        digest
    };
    let manifest = manifest_of(&put(document), document.len(), layers);
    let digest = put(manifest.as_bytes());
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"{MANIFEST_TYPE}","digest":"{digest}","size":{},"annotations":{{"org.opencontainers.image.ref.name":"latest"}}}}]}}"#,
        manifest.len()
    );
    fs::write(dir.join("index.json"), index).expect("write");
}

fn manifest_of(config: &Digest, size: usize, layers: &[(Digest, u64)]) -> String {
    let layers: Vec<String> = layers
        .iter()
        .map(|(digest, size)| {
            format!(r#"{{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"{digest}","size":{size}}}"#)
        })
        .collect();
    format!(
        r#"{{"schemaVersion":2,"mediaType":"{MANIFEST_TYPE}","artifactType":"application/vnd.rbuild.cache.v1","config":{{"mediaType":"{DOCUMENT_TYPE}","digest":"{config}","size":{size}}},"layers":[{}]}}"#,
        layers.join(",")
    )
}

/// The document in which every layer is the one of the next entry.
fn swapped(document: &serde_json::Value) -> serde_json::Value {
    let mut document = document.clone();
    let entries = document["entries"].as_array_mut().expect("entries");
    let layers: Vec<_> = entries.iter().map(|entry| entry["layer"].clone()).collect();
    let count = layers.len();
    for (at, entry) in entries.iter_mut().enumerate() {
        entry["layer"] = layers[(at + 1) % count].clone();
    }
    document
}

fn sizes(document: &serde_json::Value) -> Vec<(Digest, u64)> {
    let entries = document["entries"].as_array().expect("entries");
    let layer = |entry: &serde_json::Value| {
        let layer = &entry["layer"];
        let digest = Digest::parse(layer["digest"].as_str().expect("digest")).expect("digest");
        (digest, layer["size"].as_u64().expect("size"))
    };
    entries.iter().map(layer).collect()
}

fn damage(path: &Path) {
    let mut bytes = fs::read(path).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).expect("write");
}

#[test]
fn a_wrong_directory_is_a_warning_and_never_a_wrong_image() {
    if !bases_or_skip("faults of local caches") {
        return;
    }
    type Harmed = fn(&Path, &Exported);
    let cases: [(&str, Harmed, &str); 10] = [
        ("missing", |dir, _| fs::remove_dir_all(dir).expect("remove"), "nothing is there yet"),
        ("not a layout", |dir, _| fs::write(dir.join("index.json"), "{").expect("write"), "is not used"),
        (
            "no such tag",
            |dir, _| {
                let path = dir.join("index.json");
                let text = fs::read_to_string(&path).expect("read").replace("latest", "other");
                fs::write(path, text).expect("write");
            },
            "nothing is there yet",
        ),
        (
            "truncated document",
            |dir, found| {
                let path = dir.join("blobs/sha256").join(found.config.hex());
                let bytes = fs::read(&path).expect("read");
                fs::write(path, &bytes[..bytes.len() / 2]).expect("write");
            },
            "has other content than its digest says",
        ),
        (
            "missing document",
            |dir, found| {
                fs::remove_file(dir.join("blobs/sha256").join(found.config.hex())).expect("remove");
            },
            "is not used",
        ),
        (
            "half a document",
            |dir, found| {
                let text = found.document.to_string();
                write_layout(dir, &text.as_bytes()[..text.len() / 2], &sizes(&found.document));
            },
            "malformed",
        ),
        (
            "newer version",
            |dir, found| {
                let mut document = found.document.clone();
                document["version"] = 7.into();
                write_layout(dir, document.to_string().as_bytes(), &sizes(&found.document));
            },
            "has version 7 of the cache format",
        ),
        (
            "corrupted layers",
            |dir, found| {
                found.layers.iter().for_each(|layer| damage(&dir.join("blobs/sha256").join(layer.hex())));
            },
            "the build starts again without it",
        ),
        (
            "missing layers",
            |dir, found| {
                let path = |layer: &Digest| dir.join("blobs/sha256").join(layer.hex());
                found.layers.iter().for_each(|layer| fs::remove_file(path(layer)).expect("remove"));
            },
            "the build starts again without it",
        ),
        (
            "swapped layers",
            |dir, found| {
                let document = swapped(&found.document);
                write_layout(dir, document.to_string().as_bytes(), &sizes(&document));
            },
            "the build starts again without it",
        ),
    ];
    let lab = Lab::new();
    let context = lab.context(&files(PLAIN));
    let (right, ..) = built(&context, &[EPOCH, "--no-cache"]);
    for (what, harm, said) in cases {
        let dir = lab.out("cache");
        let _ = fs::remove_dir_all(&dir);
        built(&context, &[EPOCH, &format!("--cache-to=type=local,dest={},mode=max", dir.display())]);
        harm(&dir, &read_layout(&dir));
        let from = format!("--cache-from=type=local,src={}", dir.display());
        let (image, _, err) = built(&context, &[EPOCH, &from]);
        assert_eq!(image, right, "{what}: {err}");
        assert!(err.contains(said), "{what}: {err}");
        assert!(err.contains(&dir.display().to_string()), "{what}: {err}");
        // It can be written to again, and is then of use.
        let to = format!("--cache-to=type=local,dest={},mode=max", dir.display());
        let (_, done) = fresh(&context, &[EPOCH, &from, &to]);
        // What others may have there is not thrown away.
        if ["newer version", "not a layout"].contains(&what) {
            assert_eq!(done.code, 6, "{}", done.err);
            continue;
        }
        assert_eq!(done.code, 0, "{what}: {}", done.err);
        let (image, counts, err) = built(&context, &[EPOCH, &from]);
        assert_eq!((image.as_str(), counts), (right.as_str(), (4, 4)), "{what}: {err}");
    }
}

#[test]
fn a_wrong_registry_is_a_warning_and_never_a_wrong_image() {
    let Some(server) = start("faults of registry caches", Setup::default()) else { return };
    let proxy = Proxy::start(server.host()).expect("a proxy");
    let lab = Lab::new();
    let context = lab.context(&files(PLAIN));
    let (right, ..) = built(&context, &[EPOCH, "--no-cache"]);
    let dir = lab.out("copy");
    let host = proxy.host();
    built(
        &context,
        &[
            EPOCH,
            &format!("--cache-to=type=registry,ref={host}/app:cache,mode=max"),
            &format!("--cache-to=type=local,dest={},mode=max", dir.display()),
        ],
    );
    let found = read_layout(&dir);
    let sizes = sizes(&found.document);
    let put = |tag: &str, document: &str, layers: &[(Digest, u64)]| {
        let config = server.push_blob("app", document.as_bytes()).expect("push");
        let manifest = manifest_of(&config, document.len(), layers);
        server.push_manifest("app", tag, MANIFEST_TYPE, manifest.as_bytes()).expect("push");
    };
    put("swapped", &swapped(&found.document).to_string(), &sizes);
    put("newer", &found.document.to_string().replacen("\"version\":1", "\"version\":9", 1), &sizes);
    put("half", &found.document.to_string()[..200], &sizes);
    let buildkit = server.push_blob("app", b"{}").expect("push");
    let alien = format!(
        r#"{{"schemaVersion":2,"mediaType":"{MANIFEST_TYPE}","config":{{"mediaType":"application/vnd.buildkit.cacheconfig.v0","digest":"{buildkit}","size":2}},"layers":[]}}"#
    );
    server.push_manifest("app", "buildkit", MANIFEST_TYPE, alien.as_bytes()).expect("push");
    let anew = "the build starts again without it";
    let document = found.config.to_string();
    let layer = |harm: Harm| {
        found
            .layers
            .iter()
            .map(|layer| rule(&layer.to_string(), harm.clone(), usize::MAX))
            .collect::<Vec<_>>()
    };
    let cases: Vec<(&str, &str, Vec<Rule>, &str)> = vec![
        ("no such tag", "none", vec![], "nothing is there yet"),
        ("401", "cache", vec![rule("/manifests/", Harm::Refuse(401, ""), usize::MAX)], "is not used"),
        ("403", "cache", vec![rule("/manifests/", Harm::Refuse(403, ""), usize::MAX)], "is not used"),
        ("500", "cache", vec![rule("/manifests/", Harm::Refuse(500, ""), usize::MAX)], "is not used"),
        ("429 once", "cache", vec![rule("/manifests/", Harm::Refuse(429, "Retry-After: 1\r\n"), 1)], "steps"),
        ("another digest", "cache", vec![rule("/manifests/", Harm::OtherDigest, usize::MAX)], "is not used"),
        (
            "tags refused",
            "cache",
            vec![rule("/tags/", Harm::Refuse(403, ""), usize::MAX)],
            "a part of the cache",
        ),
        ("document 404", "cache", vec![rule(&document, Harm::Refuse(404, ""), usize::MAX)], "is not used"),
        ("document cut", "cache", vec![rule(&document, Harm::Cut, usize::MAX)], "is not used"),
        ("document spoiled", "cache", vec![rule(&document, Harm::Spoil, usize::MAX)], "is not used"),
        ("document slow", "cache", vec![rule(&document, Harm::Pause(Duration::from_secs(2)), 1)], "steps"),
        ("layers 404", "cache", layer(Harm::Refuse(404, "")), anew),
        ("layers 401", "cache", layer(Harm::Refuse(401, "")), anew),
        ("layers spoiled", "cache", layer(Harm::Spoil), anew),
        ("layers shorter", "cache", layer(Harm::Shorter), anew),
        ("swapped layers", "swapped", vec![], anew),
        ("newer version", "newer", vec![], "has version 9 of the cache format"),
        ("half a document", "half", vec![], "malformed"),
        ("BuildKit's", "buildkit", vec![], "a cache of BuildKit"),
    ];
    for (what, tag, rules, said) in cases {
        proxy.harm(rules);
        let from = format!("--cache-from={host}/app:{tag}");
        let (image, _, err) = built(&context, &[EPOCH, &from]);
        assert_eq!(image, right, "{what}: {err}");
        assert!(err.contains(said), "{what}: {err}");
        assert!(err.contains(&format!("{host}/app:{tag}")), "{what}: {err}");
    }
    proxy.harm(Vec::new());
    // Nobody listens there, and another cache is of use all the same.
    let flags = ["--cache-from=127.0.0.1:1/app:cache", &format!("--cache-from={host}/app:cache"), EPOCH];
    let (image, counts, err) = built(&context, &flags);
    assert_eq!((image, counts), (right, (4, 4)), "{err}");
    assert!(err.contains("the cache at 127.0.0.1:1/app:cache is not used"), "{err}");
}

#[test]
fn an_image_pushed_from_a_cache_that_lost_its_layers_is_built_again() {
    let Some(server) = start("push from a broken cache", Setup::default()) else { return };
    let lab = Lab::new();
    let context = lab.context(&files(PLAIN));
    let (host, dir) = (server.host(), lab.out("copy"));
    let to = format!("--cache-to=type=registry,ref={host}/app:cache,mode=max");
    let copy = format!("--cache-to=type=local,dest={}", dir.display());
    built(&context, &[EPOCH, &to, &copy]);
    for layer in read_layout(&dir).layers {
        let file = server.blob_file(&layer);
        fs::remove_dir_all(file.parent().expect("a directory")).expect("remove");
    }
    let (right, ..) = built(&context, &[EPOCH, "--no-cache"]);
    let name = format!("{host}/image:1");
    let from = format!("--cache-from={host}/app:cache");
    let (image, _, err) = built(&context, &[EPOCH, &from, "-t", &name, "--push"]);
    assert_eq!(image, right, "{err}");
}

/// A result that nobody else has, with a layer in the store.
fn entry(store: &Store, name: &str) -> Entry {
    let blob = store.put_blob(name.as_bytes()).expect("blob");
    Entry {
        key: Digest::of(name.as_bytes()),
        parent: ChainId::scratch(),
        diff_id: DiffId(Digest::of(format!("diff {name}").as_bytes())),
        layer: LayerBlob {
            media_type: "application/vnd.oci.image.layer.v1.tar".into(),
            digest: blob,
            size: name.len() as u64,
        },
        created: 5,
        used: 5,
        step: name.to_owned(),
        signature: None,
    }
}

/// How often several write at once.
fn rounds() -> usize {
    std::env::var("RBUILD_CACHE_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(20)
}

fn write_at_once(places: &[Box<dyn CachePlace>], access: &RegistryAccess) -> Outcome {
    let (dir, cancel) = (tempfile::tempdir()?, Cancel::new()?);
    let store = Store::open(dir.path())?;
    let mut wanted = BTreeSet::new();
    for round in 0..rounds() {
        let entries: Vec<Entry> = (0..places.len())
            .map(|writer| entry(&store, &format!("round {round} writer {writer}")))
            .collect();
        wanted.extend(entries.iter().map(|entry| entry.key));
        std::thread::scope(|scope| {
            let threads: Vec<_> = places
                .iter()
                .zip(entries)
                .map(|(place, entry)| {
                    let (store, access, cancel) = (&store, access, &cancel);
                    scope.spawn(move || {
                        let content = StoreContent::new(store, access);
                        place.write(&Export {
                            document: CacheDocument::new(vec![entry], Vec::new()),
                            content: &content,
                            bounds: Bounds::default(),
                            reset: false,
                            sign: None,
                            bad: &BTreeSet::new(),
                            now: 5,
                            progress: &|_, _, _| {},
                            cancel,
                        })
                    })
                })
                .collect();
            for thread in threads {
                thread.join().expect("no panic").expect("written");
            }
        });
        let read = places[0].read(&cancel)?;
        assert!(read.failures.is_empty(), "{:?}", read.failures);
        let found: BTreeSet<Digest> = read.document.entries.iter().map(|entry| entry.key).collect();
        assert_eq!(found, wanted, "round {round}");
    }
    Ok(())
}

#[test]
fn four_who_write_to_a_registry_at_once_lose_nothing() -> Outcome {
    let Some(server) = start("several writers", Setup::default()) else { return Ok(()) };
    let access = RegistryAccess::default();
    let mut places: Vec<Box<dyn CachePlace>> = Vec::new();
    for _ in 0..4 {
        let registry = access.open(server.host(), "app")?;
        let origin = Origin { host: server.host().to_owned(), repository: "app".into() };
        places.push(Box::new(RepositoryCache::new("app:cache".into(), registry, origin, "cache", None)));
    }
    write_at_once(&places, &access)
}

#[test]
fn four_who_write_to_a_directory_at_once_lose_nothing_and_leave_no_waste() -> Outcome {
    let (dir, cache) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let store = Store::open(dir.path())?;
    let path: PathBuf = cache.path().join("cache");
    let make = || DirectoryCache::new("cache".into(), path.clone(), "latest", None, &store);
    let places: Vec<Box<dyn CachePlace>> = (0..4).map(|_| Box::new(make()) as Box<dyn CachePlace>).collect();
    write_at_once(&places, &RegistryAccess::default())?;
    let found = read_layout(&path);
    let there = fs::read_dir(path.join("blobs/sha256"))?.count();
    assert_eq!(there, found.layers.len() + 2);
    Ok(())
}

#[test]
fn layers_that_were_damaged_or_lost_are_written_again_though_the_records_are_the_same() -> Outcome {
    let (dir, cache, cancel) = (tempfile::tempdir()?, tempfile::tempdir()?, Cancel::new()?);
    let (store, access) = (Store::open(dir.path())?, RegistryAccess::default());
    let path = cache.path().join("cache");
    let place = DirectoryCache::new("cache".into(), path.clone(), "latest", None, &store);
    let document = CacheDocument::new(vec![entry(&store, "one")], Vec::new());
    let write = |bad: &BTreeSet<Digest>| {
        let content = StoreContent::new(&store, &access);
        let (document, bounds) = (document.clone(), Bounds::default());
        let progress = &|_: &Digest, _, _| {};
        place.write(&Export {
            document,
            content: &content,
            bounds,
            reset: false,
            sign: None,
            bad,
            now: 5,
            progress,
            cancel: &cancel,
        })
    };
    let none = BTreeSet::new();
    assert_eq!(write(&none)?.sent, 1);
    assert!(write(&none)?.unchanged);
    let layer = read_layout(&path).layers[0];
    let blob = path.join("blobs/sha256").join(layer.hex());
    let right = fs::read(&blob)?;
    damage(&blob);
    assert_eq!(write(&BTreeSet::from([layer]))?.sent, 1);
    assert_eq!(fs::read(&blob)?, right);
    fs::remove_file(&blob)?;
    assert_eq!(write(&none)?.sent, 1);
    assert_eq!(fs::read(&blob)?, right);
    Ok(())
}

#[test]
fn old_and_large_entries_are_dropped_where_that_is_asked_for() {
    if !bases_or_skip("bounded caches") {
        return;
    }
    let lab = Lab::new();
    let dir = lab.out("cache");
    let mut previous = None;
    for text in ["one", "two"] {
        let dockerfile = format!("FROM busybox\nRUN echo {text} >/{text}\n");
        let context = lab.context(&[("Dockerfile", dockerfile.as_str())]);
        let to = format!("--cache-to=type=local,dest={},max-size=1", dir.display());
        let (_, none, _) = built(&context, &[&to]);
        assert_eq!(none, (0, 1));
        previous = Some(context);
    }
    // One byte is too little for any.
    let from = format!("--cache-from=type=local,src={}", dir.display());
    let (_, counts, _) = built(&previous.expect("a context"), &[&from]);
    assert_eq!(counts, (0, 1));
    let context = lab.context(&[("Dockerfile", "FROM busybox\nRUN echo three >/three\n")]);
    for more in ["", ",reset=true"] {
        built(&context, &[&format!("--cache-to=type=local,dest={},max-age=1d{more}", dir.display())]);
        assert_eq!(read_layout(&dir).layers.len(), 1);
    }
}

#[test]
fn records_have_no_values_of_build_arguments_or_secrets() {
    if !bases_or_skip("secrets in caches") {
        return;
    }
    let lab = Lab::new();
    let context = lab.context(&[
        ("Dockerfile", "FROM busybox\nARG TOKEN\nRUN --mount=type=secret,id=s,env=S test -n \"$S$TOKEN\"\n"),
        ("value", "secret-value"),
    ]);
    let dir = lab.out("cache");
    let secret = format!("--secret=id=s,src={}", context.join("value").display());
    let to = format!("--cache-to=type=local,dest={},mode=max", dir.display());
    built(&context, &[&secret, "--build-arg=TOKEN=argument-value", &to]);
    let text = read_layout(&dir).document.to_string();
    assert!(text.contains("RUN --mount=type=secret"), "{text}");
    assert!(!text.contains("secret-value") && !text.contains("argument-value"), "{text}");
}

/// A small generator, so that a failure is repeated by its seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 11).unwrap_or(0) % sides
    }
}

/// A Dockerfile and its context, to be edited.
struct Project {
    stages: Vec<Vec<String>>,
    files: Vec<(String, String, u32)>,
}

impl Project {
    fn new(dice: &mut Dice) -> Self {
        let file = |n: usize| (format!("f{n}"), format!("content {n}\n"), 0o644);
        let mut project = Project { stages: Vec::new(), files: (0..4).map(file).collect() };
        for stage in 0..3 {
            let mut steps = vec![format!("RUN echo {} >/made{stage}", dice.roll(3))];
            (0..1 + dice.roll(3)).for_each(|_| steps.push(project.step(stage, dice)));
            project.stages.push(steps);
        }
        project
    }

    fn step(&self, stage: usize, dice: &mut Dice) -> String {
        let (file, number) = (dice.roll(self.files.len()), dice.roll(3));
        let below = dice.roll(stage.max(1));
        match dice.roll(9) {
            0 => format!("COPY f{file} /d{number}/"),
            1 => format!("COPY --chmod=70{number} f{file} /x{number}"),
            2 => format!("COPY --link f{file} /l{number}/"),
            3 => format!("ARG V{number}=v{file}\nRUN echo $V{number} >/arg{number}"),
            4 => format!("WORKDIR /w{number}"),
            5 if stage > 0 => format!("COPY --from=s{below} /made{below} /from{number}"),
            6 if stage > 0 => {
                format!(
                    "RUN --mount=type=bind,from=s{below},source=/made{below},target=/m cat /m >/bound{number}"
                )
            }
            7 => format!("RUN --mount=type=bind,source=f{file},target=/m cat /m >/context{number}"),
            8 => format!("RUN ln -s f{file} /link{number}; rm -f /d{number}/f{file}"),
            _ => format!("RUN echo {file} >/run{number}"),
        }
    }

    fn edit(&mut self, dice: &mut Dice) {
        let (stage, file) = (dice.roll(self.stages.len()), dice.roll(self.files.len()));
        match dice.roll(5) {
            0 => self.files[file].1 = format!("content {}\n", dice.roll(3)),
            1 => self.files[file].2 = [0o644, 0o755, 0o600][dice.roll(3)],
            2 if self.stages[stage].len() > 1 => {
                let at = 1 + dice.roll(self.stages[stage].len() - 1);
                self.stages[stage].remove(at);
            }
            3 => self.stages[stage][0] = format!("RUN echo {} >/made{stage}", dice.roll(3)),
            _ => {
                let step = self.step(stage, dice);
                let at = 1 + dice.roll(self.stages[stage].len());
                self.stages[stage].insert(at, step);
            }
        }
    }

    fn write(&self, dir: &Path) {
        use std::os::unix::fs::PermissionsExt as _;
        let mut text = String::new();
        for (number, steps) in self.stages.iter().enumerate() {
            text.push_str(&format!("FROM busybox AS s{number}\n{}\n", steps.join("\n")));
        }
        fs::write(dir.join("Dockerfile"), text).expect("write");
        for (name, content, mode) in &self.files {
            fs::write(dir.join(name), content).expect("write");
            fs::set_permissions(dir.join(name), fs::Permissions::from_mode(*mode)).expect("chmod");
        }
    }
}

/// Edits of each project; some hundreds take minutes.
fn edits() -> usize {
    std::env::var("RBUILD_CACHE_EDITS").ok().and_then(|text| text.parse().ok()).unwrap_or(6)
}

#[test]
fn after_any_edit_the_image_is_the_one_that_no_cache_gives() {
    let Some(server) = start("random edits", Setup::default()) else { return };
    let seed = std::env::var("RBUILD_CACHE_SEED")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(88172645463325252);
    let mut dice = Dice(seed);
    let lab = Lab::new();
    let (host, own, objects) = (server.host(), Lab::new(), object_server::ObjectServer::start());
    for number in 0..2 {
        let dir = lab.out(&format!("cache{number}")).display().to_string();
        let places = [
            (
                format!("type=registry,ref={host}/p{number}:c,mode=max"),
                format!("type=registry,ref={host}/p{number}:c"),
            ),
            (format!("type=local,dest={dir},mode=max"), format!("type=local,src={dir}")),
            objects::place_flags(&objects, number),
        ];
        let mut project = Project::new(&mut dice);
        let context = lab.context(&[]);
        for edit in 0..edits() {
            project.write(&context);
            let text = fs::read_to_string(context.join("Dockerfile")).expect("read");
            let shown = |what: &str, err: &str| {
                format!("seed {seed}, project {number}, edit {edit}, {what}:\n{text}\n{err}")
            };
            let (right, ..) = built(&context, &[EPOCH, "--no-cache"]);
            let (to, from) = &places[edit % places.len()];
            let (to, from) = (format!("--cache-to={to}"), format!("--cache-from={from}"));
            let (image, _, err) = built(&context, &[EPOCH, &from, &to]);
            assert_eq!(image, right, "{}", shown("cache elsewhere", &err));
            let (image, (cached, steps), err) = built(&context, &[EPOCH, &from]);
            assert_eq!(image, right, "{}", shown("what was just exported", &err));
            assert_eq!(cached, steps, "{}", shown("all is there", &err));
            let id = own.out("id");
            let done = own.build(&context, &[EPOCH, &format!("--iidfile={}", id.display()), &from]);
            assert_eq!(done.code, 0, "{}", done.err);
            let image = fs::read_to_string(&id).expect("an ID");
            assert_eq!(image, right, "{}", shown("own store", &done.err));
            project.edit(&mut dice);
        }
    }
}
