//! Caches in object stores: S3, Azure's Blob Storage and GitHub's cache service, by a server of the tests' own that
//! checks every signature, and a proxy that does harm.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use rbuild::cache::{Bounds, CacheDocument, CachePlace, Export, ObjectCache, ObjectLayout};
use rbuild::cancel::Cancel;
use rbuild::objects::{ActionsOptions, AzureOptions, HttpSettings, S3Options, Service};
use rbuild::registry::{RegistryAccess, Secret, StoreContent};
use rbuild::store::Store;

use super::object_server::{
    ACCESS_KEY, ACCOUNT, ACCOUNT_KEY, BUCKET, ObjectServer, REGION, SECRET_KEY, SESSION, TOKEN,
};
use super::proxy::{Harm, Proxy, Rule};
use super::support::{Lab, bases_or_skip};
use super::{EPOCH, Outcome, PLAIN, built, cached, entry, files, fresh, write_at_once};

/// The kinds of object stores, with what tells their requests apart.
struct Backend {
    kind: &'static str,
    /// Requests that look for documents: method and a part of the address.
    look: (&'static str, &'static str),
    document: &'static str,
    layer: &'static str,
    /// How many requests for documents look like those for layers.
    before_layers: usize,
}

const BACKENDS: [Backend; 3] = [
    Backend {
        kind: "s3",
        look: ("GET", "list-type=2"),
        document: "/manifests/",
        layer: "/blobs/",
        before_layers: 0,
    },
    Backend {
        kind: "azblob",
        look: ("GET", "comp=list"),
        document: "/manifests/",
        layer: "/blobs/",
        before_layers: 0,
    },
    Backend {
        kind: "gha",
        look: ("POST", "/GetCacheEntryDownloadURL"),
        document: "/signed/",
        layer: "/signed/",
        before_layers: 1,
    },
];

/// What `--cache-to` and `--cache-from` get.
fn spec(kind: &str, host: &str) -> String {
    let place = match kind {
        "s3" => format!(
            "bucket={BUCKET},region={REGION},endpoint_url=http://{host},use_path_style=true,prefix=a b/,\
             access_key_id={ACCESS_KEY},secret_access_key={SECRET_KEY},session_token={SESSION}"
        ),
        "azblob" => format!(
            "account_url=http://{host}/{ACCOUNT},account_name={ACCOUNT},secret_access_key={ACCOUNT_KEY}"
        ),
        _ => format!("url_v2=http://{host}/,token={TOKEN},scope=main"),
    };
    format!("type={kind},{place},retry_max_attempts=2")
}

fn flags(kind: &str, host: &str) -> (String, String) {
    let spec = spec(kind, host);
    (format!("--cache-to={spec},mode=max"), format!("--cache-from={spec}"))
}

fn has_no_secrets(text: &str) {
    for secret in [SECRET_KEY, SESSION, ACCOUNT_KEY, TOKEN, "sig=", "Signature"] {
        assert!(!text.contains(secret), "{secret}: {text}");
    }
}

#[test]
fn a_fresh_store_finds_what_was_exported_to_an_object_store() {
    if !bases_or_skip("object stores") {
        return;
    }
    let lab = Lab::new();
    let context = lab.context(&files(PLAIN));
    for Backend { kind, layer, .. } in BACKENDS {
        let server = ObjectServer::start();
        let (to, from) = flags(kind, server.host());
        let (_, counts, err) = built(&context, &[&from]);
        assert_eq!(counts, (0, 4), "{err}");
        assert!(err.contains("nothing is there yet"), "{kind}: {err}");
        let (first, none, err) = built(&context, &[EPOCH, &to]);
        assert_eq!(none, (0, 4));
        assert!(err.contains("layers: 4 new"), "{kind}: {err}");
        server.log();
        // Only records move where nothing else is wanted.
        let done = Lab::new().build(&context, &[EPOCH, &from, "-o", "type=cacheonly"]);
        assert_eq!(cached(&done), (4, 4), "{kind}: {}", done.err);
        let reads =
            server.log().iter().filter(|line| line.starts_with("GET") && line.contains(layer)).count();
        assert_eq!(reads, usize::from(kind == "gha"), "{kind}");
        let (second, counts, err) = built(&context, &[EPOCH, &from, &to]);
        assert_eq!((second, counts), (first, (4, 4)), "{kind}: {err}");
        assert!(err.contains("4 steps, nothing new"), "{kind}: {err}");
        has_no_secrets(&err);
        let done = lab.run(["cache", "verify", "-q", &spec(kind, server.host())]);
        assert!(done.out.contains("4 steps, 4 layers, all right"), "{kind}: {}{}", done.out, done.err);
        // A step more is one layer and one document more, and the document before it goes.
        let more = lab.context(&files(&format!("{PLAIN}WORKDIR /more\n")));
        let (_, counts, err) = built(&more, &[EPOCH, &from, &to]);
        assert_eq!(counts, (4, 5), "{kind}: {err}");
        assert!(err.contains("5 steps") && err.contains("layers: 1 new"), "{kind}: {err}");
        let documents = if kind == "gha" { 2 } else { 1 };
        assert_eq!(server.keys().len(), 5 + documents, "{kind}: {:?}", server.keys());
        assert_eq!(server.refused(), Vec::<String>::new(), "{kind}");
    }
}

fn rule(method: &'static str, part: &str, harm: Harm, after: usize, times: usize) -> Rule {
    Rule { method, part: part.to_owned(), harm, after, times }
}

const ALWAYS: usize = usize::MAX;

/// What becomes of reading under a fault: nothing, or these words of a failure.
type Fault = (&'static str, &'static str, Harm, usize, &'static str);

/// What is done to requests for the list, a document or a layer.
fn faults() -> Vec<Fault> {
    vec![
        ("look", "401", Harm::Refuse(401, ""), ALWAYS, "missing or not accepted (status 401"),
        ("look", "403", Harm::Refuse(403, ""), ALWAYS, "access denied (status 403"),
        ("look", "429", Harm::Refuse(429, "Retry-After: 0\r\n"), ALWAYS, "too many requests (status 429"),
        ("look", "429 for too long", Harm::Refuse(429, "Retry-After: 9000\r\n"), ALWAYS, "too many requests"),
        ("look", "429 once", Harm::Refuse(429, "Retry-After: 0\r\n"), 1, ""),
        ("look", "500", Harm::Refuse(500, ""), ALWAYS, "the service has a problem (status 500"),
        ("look", "500 once", Harm::Refuse(500, ""), 1, ""),
        ("look", "truncated", Harm::Shorter, ALWAYS, "the answer"),
        ("look", "cut", Harm::Cut, ALWAYS, "the connection broke"),
        ("look", "slow", Harm::Pause(Duration::from_millis(100)), 1, ""),
        ("document", "cut", Harm::Cut, ALWAYS, "the transfer broke off"),
        ("document", "cut once", Harm::Cut, 1, ""),
        ("document", "truncated", Harm::Shorter, ALWAYS, "is malformed"),
        ("document", "longer", Harm::Longer, ALWAYS, "is malformed"),
        ("document", "corrupt", Harm::Spoil, ALWAYS, "is malformed"),
        ("document", "401", Harm::Refuse(401, ""), ALWAYS, "status 401"),
        ("document", "403", Harm::Refuse(403, ""), ALWAYS, "status 403"),
        ("document", "500", Harm::Refuse(500, ""), ALWAYS, "status 500"),
        ("document", "slow", Harm::Pause(Duration::from_millis(100)), 1, ""),
        ("layer", "cut", Harm::Cut, ALWAYS, "the transfer broke off"),
        ("layer", "cut once", Harm::Cut, 1, ""),
        ("layer", "truncated", Harm::Shorter, ALWAYS, "bytes instead of the"),
        ("layer", "longer", Harm::Longer, ALWAYS, "bytes instead of the"),
        ("layer", "endless", Harm::Endless, ALWAYS, "more than the"),
        ("layer", "corrupt", Harm::Spoil, ALWAYS, "content does not match its digest"),
        ("layer", "401", Harm::Refuse(401, ""), ALWAYS, "status 401"),
        ("layer", "403", Harm::Refuse(403, ""), ALWAYS, "status 403"),
        ("layer", "404", Harm::Refuse(404, ""), ALWAYS, "is not there"),
        ("layer", "429", Harm::Refuse(429, "Retry-After: 0\r\n"), ALWAYS, "status 429"),
        ("layer", "500", Harm::Refuse(500, ""), ALWAYS, "status 500"),
        ("layer", "500 once", Harm::Refuse(500, ""), 1, ""),
        ("layer", "slow", Harm::Pause(Duration::from_millis(100)), 1, ""),
    ]
}

fn harmed(backend: &Backend, (at, _, harm, times, _): &Fault, before_layers: usize) -> Rule {
    match *at {
        "look" => rule(backend.look.0, backend.look.1, harm.clone(), 0, *times),
        "document" => rule("GET", backend.document, harm.clone(), 0, *times),
        _ => rule("GET", backend.layer, harm.clone(), before_layers, *times),
    }
}

#[test]
fn reading_an_object_store_gives_what_was_written_or_says_what_is_wrong() -> Outcome {
    let (dir, cancel) = (tempfile::tempdir()?, Cancel::new()?);
    let store = Store::open(dir.path())?;
    let entry = entry(&store, "a layer of some bytes");
    let (layer, wanted) = (entry.layer.clone(), CacheDocument::new(vec![entry], Vec::new()));
    for backend in BACKENDS {
        let kind = backend.kind;
        let server = ObjectServer::start();
        let proxy = Proxy::start(server.host())?;
        let place = place(kind, &proxy.host());
        let access = RegistryAccess::default();
        place.write(&Export {
            document: wanted.clone(),
            content: &StoreContent::new(&store, &access),
            bounds: Bounds::default(),
            reset: false,
            sign: None,
            bad: &BTreeSet::new(),
            now: 5,
            progress: &|_, _, _| {},
            cancel: &cancel,
        })?;
        for fault in faults() {
            let (at, what, _, _, said) = fault.clone();
            proxy.harm(vec![harmed(&backend, &fault, 0)]);
            let case = format!("{kind}, {at} {what}");
            if at == "layer" {
                let (dir, said) = (tempfile::tempdir()?, said);
                let fresh = Store::open(dir.path())?;
                let fetched = place.fetch(&layer, &fresh, &|_| {}, &cancel);
                let error = fetched.as_ref().err().map(ToString::to_string).unwrap_or_default();
                assert_eq!(fresh.has_blob(&layer.digest), said.is_empty(), "{case}: {error}");
                assert!(error.contains(said) && error.is_empty() == said.is_empty(), "{case}: {error}");
                let damage = ["truncated", "longer", "endless", "corrupt", "404"].contains(&what);
                assert_eq!(fetched.is_err_and(|error| error.is_damage()), damage, "{case}: {error}");
                continue;
            }
            let (document, errors) = match place.read(&cancel) {
                Ok(read) => (read.document, read.failures.iter().map(ToString::to_string).collect()),
                Err(error) => (CacheDocument::default(), vec![error.to_string()]),
            };
            let error = errors.join("\n");
            assert_eq!(document == wanted, said.is_empty(), "{case}: {error}");
            assert!(error.contains(said) && error.is_empty() == said.is_empty(), "{case}: {error}");
            has_no_secrets(&error);
        }
    }
    Ok(())
}

#[test]
fn a_wrong_object_store_is_a_warning_and_never_a_wrong_image() {
    if !bases_or_skip("faults of object stores") {
        return;
    }
    let lab = Lab::new();
    let context = lab.context(&files(PLAIN));
    let (right, ..) = built(&context, &[EPOCH, "--no-cache"]);
    let again = "the build starts again without it";
    for backend in BACKENDS {
        let kind = backend.kind;
        let server = ObjectServer::start();
        let proxy = Proxy::start(server.host()).expect("a proxy");
        let (to, from) = flags(kind, &proxy.host());
        built(&context, &[EPOCH, &to]);
        for fault in [
            ("look", "403", Harm::Refuse(403, ""), ALWAYS, "is not used"),
            ("document", "corrupt", Harm::Spoil, ALWAYS, "is not used"),
            ("layer", "corrupt", Harm::Spoil, ALWAYS, again),
            ("layer", "404", Harm::Refuse(404, ""), ALWAYS, again),
        ] {
            let (at, what, _, _, said) = fault.clone();
            proxy.harm(vec![harmed(&backend, &fault, backend.before_layers)]);
            let (image, counts, err) = built(&context, &[EPOCH, &from]);
            assert_eq!(image, right, "{kind}, {at} {what}: {err}");
            assert!(err.contains(said) && counts != (4, 4), "{kind}, {at} {what}: {said}: {err}");
            let name = if kind == "gha" { "gha/rbuild-index-1-main#" } else { "manifests/buildkit.rbuild/" };
            assert!(err.contains(name), "{kind}, {at} {what}: {err}");
            has_no_secrets(&err);
        }
        assert_eq!(server.refused(), Vec::<String>::new(), "{kind}");
        // Nobody listens there.
        let (image, counts, err) = built(&context, &[EPOCH, &flags(kind, "127.0.0.1:1").1]);
        assert_eq!((image.as_str(), counts), (right.as_str(), (0, 4)), "{err}");
        assert!(err.contains("is not used") && err.contains("connection refused"), "{kind}: {err}");
    }
}

#[test]
fn a_damaged_layer_is_replaced_by_the_next_export() {
    if !bases_or_skip("damaged objects") {
        return;
    }
    let lab = Lab::new();
    let context = lab.context(&files(PLAIN));
    // GitHub's service never replaces what it has: there a damaged entry stays a miss until it is evicted.
    for Backend { kind, layer, .. } in BACKENDS.into_iter().filter(|backend| backend.kind != "gha") {
        let server = ObjectServer::start();
        let (to, from) = flags(kind, server.host());
        built(&context, &[EPOCH, &to]);
        for damage in ["spoil", "remove"] {
            let layer = layer.trim_start_matches('/');
            match damage {
                "spoil" => server.change(|key, bytes| bytes[0] ^= u8::from(key.contains(layer))),
                _ => server.remove(|key| key.contains(layer)),
            }
            let (_, done) = fresh(&context, &[EPOCH, &from, &to]);
            assert_eq!(done.code, 0, "{kind}: {}", done.err);
            let (_, counts, err) = built(&context, &[EPOCH, &from]);
            assert_eq!(counts, (4, 4), "{kind}, {damage}: {err}");
        }
    }
}

#[test]
fn an_export_that_fails_says_why_and_may_be_ignored() {
    if !bases_or_skip("exports to object stores") {
        return;
    }
    let lab = Lab::new();
    let context = lab.context(&files(PLAIN));
    for Backend { kind, .. } in BACKENDS {
        let server = ObjectServer::start();
        let proxy = Proxy::start(server.host()).expect("a proxy");
        let (to, from) = flags(kind, &proxy.host());
        proxy.harm(vec![rule("PUT", "", Harm::Refuse(403, ""), 0, ALWAYS)]);
        let (_, done) = fresh(&context, &[EPOCH, &to]);
        assert_eq!(done.code, 6, "{kind}: {}", done.err);
        assert!(
            done.err.contains("cannot write the cache") && done.err.contains("status 403"),
            "{kind}: {}",
            done.err
        );
        let (_, done) = fresh(&context, &[EPOCH, &format!("{to},ignore-error=true")]);
        assert_eq!(done.code, 0, "{kind}: {}", done.err);
        assert!(done.err.contains("the cache was not written"), "{kind}: {}", done.err);
        has_no_secrets(&done.err);
        // What may pass is tried again.
        server.clear();
        proxy.harm(vec![
            rule("PUT", "", Harm::Refuse(503, ""), 0, 1),
            rule("PUT", "", Harm::CutRequest, 1, 1),
        ]);
        built(&context, &[EPOCH, &to]);
        let (_, counts, err) = built(&context, &[EPOCH, &from]);
        assert_eq!(counts, (4, 4), "{kind}: {err}");
    }
    let server = ObjectServer::start();
    for (wrong, said) in [
        (format!("secret_access_key={SECRET_KEY}"), "SignatureDoesNotMatch"),
        (format!("bucket={BUCKET}"), "create the bucket other"),
    ] {
        let name = wrong.split('=').next().unwrap_or_default();
        let to = flags("s3", server.host()).0.replace(&wrong, &format!("{name}=other"));
        let (_, done) = fresh(&context, &[&to]);
        assert_eq!(done.code, 6, "{}", done.err);
        assert!(done.err.contains(said), "{said}: {}", done.err);
    }
}

#[test]
fn signed_addresses_that_ran_out_are_asked_for_again() {
    if !bases_or_skip("expired addresses") {
        return;
    }
    let lab = Lab::new();
    let context = lab.context(&files(PLAIN));
    let server = ObjectServer::start();
    let (to, from) = flags("gha", server.host());
    // Somebody began to write the first document and gave up.
    server.reserve("rbuild-index-1-main#1");
    let (image, ..) = built(&context, &[EPOCH, &to]);
    assert!(server.keys().contains(&"gha/rbuild-index-1-main#2".to_owned()), "{:?}", server.keys());
    server.expire(1);
    let (again, counts, err) = built(&context, &[EPOCH, &from]);
    assert_eq!((again, counts), (image, (4, 4)), "{err}");
}

#[test]
fn names_prefixes_and_ages_are_as_in_buildkit() {
    if !bases_or_skip("options of s3") {
        return;
    }
    let lab = Lab::new();
    let context = lab.context(&files(PLAIN));
    let server = ObjectServer::start();
    let (to, from) = flags("s3", server.host());
    let more = "blobs_prefix=layers/,manifests_prefix=lists/,name=one;two,upload_parallelism=1";
    built(&context, &[EPOCH, &format!("{to},{more}")]);
    let keys = server.keys();
    let count =
        |part: &str| keys.iter().filter(|key| key.starts_with(&format!("s3/{BUCKET}/a b/{part}"))).count();
    assert_eq!(
        [count("layers/sha256:"), count("lists/one.rbuild/"), count("lists/two.rbuild/")],
        [4, 1, 1],
        "{keys:?}"
    );
    for name in ["one", "two"] {
        let from = format!("{from},blobs_prefix=layers/,manifests_prefix=lists/,name={name}");
        let (_, counts, err) = built(&context, &[EPOCH, &from]);
        assert_eq!(counts, (4, 4), "{err}");
    }
    // What is about to expire is renewed, though nothing is new.
    server.age(1_000_000_000);
    built(&context, &[EPOCH, &format!("{to},{more},touch_refresh=1000000h")]);
    assert_eq!(server.old(), 6);
    let (_, _, err) = built(&context, &[EPOCH, &format!("{to},{more}")]);
    assert_eq!(server.old(), 0, "{:?}: {err}", server.keys());
}

#[test]
fn variables_and_files_stand_in_for_options() {
    if !bases_or_skip("variables of object stores") {
        return;
    }
    let lab = Lab::new();
    let context = lab.context(&files(PLAIN));
    let server = ObjectServer::start();
    let build = |lab: &Lab, flag: &str, variables: &[(&str, &str)]| {
        let mut command = lab.rbuild();
        command.args(["build", "--progress=plain", flag]).args(lab.bases()).arg(&context);
        super::support::done(command.envs(variables.iter().copied()).output().expect("rbuild starts"))
    };
    let url = format!("http://{}/", server.host());
    let key = [("AWS_ACCESS_KEY_ID", ACCESS_KEY), ("AWS_SECRET_ACCESS_KEY", SECRET_KEY)];
    let place = [("AWS_BUCKET", BUCKET), ("AWS_REGION", REGION), ("AWS_ENDPOINT_URL_S3", url.as_str())];
    let s3 = "--cache-to=type=s3,use_path_style=true";
    assert_eq!(build(&lab, s3, &[&key[..], &place[..]].concat()).code, 0);
    let aws = lab.path().join("home/.aws");
    fs::create_dir_all(&aws).expect("mkdir");
    let profile = format!("[ci]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n");
    fs::write(aws.join("credentials"), profile).expect("write");
    let done = build(&lab, s3, &[&[("AWS_PROFILE", "ci")], &place[..]].concat());
    assert_eq!(done.code, 0, "{}", done.err);
    assert_eq!(server.refused(), Vec::<String>::new());
    let done = build(&lab, s3, &place);
    assert_eq!(done.code, 6, "{}", done.err);
    assert!(done.err.contains("no key was found: set AWS_ACCESS_KEY_ID"), "{}", done.err);
    let done = build(&lab, s3, &[&[("AWS_PROFILE", "nobody")], &place[..]].concat());
    assert_eq!(done.code, 2, "{}", done.err);
    let gha = [("ACTIONS_RESULTS_URL", url.as_str()), ("ACTIONS_RUNTIME_TOKEN", TOKEN)];
    assert_eq!(build(&lab, "--cache-to=type=gha", &gha).code, 0);
    let done = build(&lab, "--cache-to=type=gha", &gha[1..]);
    assert_eq!(done.code, 2, "{}", done.err);
    assert!(done.err.contains("ACTIONS_RESULTS_URL"), "{}", done.err);
    let kinds: Vec<bool> =
        ["s3/", "gha/"].iter().map(|kind| server.keys().iter().any(|key| key.starts_with(kind))).collect();
    assert_eq!(kinds, [true, true], "{:?}", server.keys());
}

fn place(kind: &str, host: &str) -> Box<dyn CachePlace> {
    let secret = |text: &str| Secret(text.to_owned());
    let service = match kind {
        "s3" => Service::S3(S3Options {
            bucket: BUCKET.into(),
            region: REGION.into(),
            endpoint: Some(format!("http://{host}")),
            path_style: true,
            key: Some((ACCESS_KEY.into(), secret(SECRET_KEY))),
            session_token: None,
        }),
        "azblob" => Service::Azure(AzureOptions {
            account_url: secret(&format!("http://{host}/{ACCOUNT}")),
            account: ACCOUNT.into(),
            container: "cache".into(),
            key: Some(secret(ACCOUNT_KEY)),
        }),
        _ => Service::Actions(ActionsOptions { url: format!("http://{host}/"), token: secret(TOKEN) }),
    };
    let documents = vec![if kind == "gha" { "index#".to_owned() } else { "manifests/x/".to_owned() }];
    let layout = ObjectLayout { blobs: "blobs/".into(), documents, parallel: None, touch_after: 86_400 };
    let settings = HttpSettings { attempts: Some(2), ..HttpSettings::default() };
    let objects = service.open(&settings).expect("a client");
    Box::new(ObjectCache::new(kind.to_owned(), objects, layout))
}

#[test]
fn four_who_write_to_an_object_store_at_once_lose_nothing() -> Outcome {
    for Backend { kind, .. } in BACKENDS {
        let server = ObjectServer::start();
        let places: Vec<Box<dyn CachePlace>> = (0..4).map(|_| place(kind, server.host())).collect();
        write_at_once(&places, &RegistryAccess::default())?;
        assert_eq!(server.refused(), Vec::<String>::new(), "{kind}");
    }
    Ok(())
}

/// The places of a property test.
pub fn place_flags(server: &ObjectServer, project: usize) -> (String, String) {
    let spec = format!("{},name=p{project}", spec("s3", server.host()));
    (format!("{spec},mode=max"), spec)
}

/// Whether a build that names no such cache knows nothing of them: no variable is looked at, no file opened.
#[test]
fn a_broken_profile_is_of_no_interest_to_other_builds() {
    if !bases_or_skip("unused object stores") {
        return;
    }
    let lab = Lab::new();
    let context = lab.context(&files(PLAIN));
    let mut command = lab.rbuild();
    command.args(["build", "--progress=plain"]).args(lab.bases()).arg(Path::new(&context));
    command.env("AWS_PROFILE", "nobody").env("AWS_WEB_IDENTITY_TOKEN_FILE", "/none");
    let done = super::support::done(command.output().expect("rbuild starts"));
    assert_eq!(done.code, 0, "{}", done.err);
}
