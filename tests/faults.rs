//! What registries and networks do wrong, done to the real program: what it makes of it, what the user
//! sees, that the store stays whole, and that the next try works. `docs/images.md` has the table;
//! `RBUILD_WRITE_DOCS=1` writes it anew.

#[path = "support/proxy.rs"]
mod proxy;
#[path = "support/registry.rs"]
mod registry;
mod support;

use std::fs;
use std::path::Path;
use std::time::Duration;

use proxy::{Harm, Passed, Proxy, Rule};
use registry::{TestRegistry, USER};
use support::{Done, Lab, has, skip};

/// More than is sent in one request, so that uploads have something to go on with.
const NOISE: usize = 6 << 20;

/// Harms every request that fits.
const ALWAYS: usize = usize::MAX;

/// An image in a registry, one in a store, and how they are called.
struct Scene {
    server: TestRegistry,
    lab: Lab,
    layer: String,
    digest: String,
}

fn scene(test: &str) -> Option<Scene> {
    if !has("skopeo") {
        skip(test, "skopeo is not installed");
        return None;
    }
    let Some(server) = TestRegistry::start().expect("a registry that starts") else {
        skip(test, "docker-registry is not installed");
        return None;
    };
    let lab = Lab::new();
    let context = lab.context(&[("Dockerfile", "FROM scratch\nCOPY big /\nCOPY Dockerfile /d\n")]);
    let mut state = 7u64;
    let noise = (0..NOISE / 8).flat_map(|_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 8).to_le_bytes()
    });
    fs::write(context.join("big"), noise.collect::<Vec<u8>>()).expect("write");
    let name = format!("{}/app:1", server.host());
    let built = lab.run(["build", "-t", &name, &context.display().to_string()]);
    assert_eq!(built.code, 0, "{}", built.err);
    let pushed = lab.run(["push", &name]);
    assert_eq!(pushed.code, 0, "{}", pushed.err);
    let at = pushed.out.find("sha256:").expect("a digest");
    let digest = pushed.out[at..at + 71].to_owned();
    let manifest = lab.store().join("blobs/sha256").join(&digest[7..]);
    let manifest: serde_json::Value =
        serde_json::from_slice(&fs::read(manifest).expect("manifest")).expect("JSON");
    let layer = manifest["layers"][0]["digest"].as_str().expect("digest").to_owned();
    Some(Scene { server, lab, layer, digest })
}

/// What has to come of a case.
enum Ends {
    /// It works, after this.
    Well(&'static str),
    /// It fails with the verb's exit code and says all of this.
    Badly(&'static [&'static str]),
}

struct Case {
    what: &'static str,
    rules: Vec<Rule>,
    ends: Ends,
    /// Requests that were harmed: tries, as far as the harm lasts.
    tries: usize,
    /// Whether there are credentials to answer 401 with.
    signed_in: bool,
}

fn rule(method: &'static str, part: &str, harm: Harm, times: usize) -> Rule {
    Rule { method, part: part.to_owned(), harm, after: 0, times }
}

fn case(what: &'static str, rule: Rule, tries: usize, ends: Ends) -> Case {
    Case { what, rules: vec![rule], ends, tries, signed_in: false }
}

/// A line of the table.
struct Row {
    verb: &'static str,
    what: &'static str,
    result: String,
    said: String,
}

fn sign_in(lab: &Lab, host: &str) {
    use base64::Engine as _;
    let auth = base64::engine::general_purpose::STANDARD.encode(format!("{}:{}", USER.0, USER.1));
    let dir = lab.path().join("home/.docker");
    fs::create_dir_all(&dir).expect("mkdir");
    fs::write(dir.join("config.json"), format!(r#"{{"auths":{{"{host}":{{"auth":"{auth}"}}}}}}"#))
        .expect("write");
}

fn whole(lab: &Lab, what: &str) {
    let checked = lab.run(["fsck"]);
    assert_eq!(checked.code, 0, "{what}: {}{}", checked.out, checked.err);
}

/// The last line that a user sees, without what changes from run to run.
fn words(done: &Done, lab: &Lab, host: &str) -> String {
    let line = done.err.lines().find(|line| line.starts_with("error")).unwrap_or_default();
    let text = line.replace(host, "REGISTRY").replace(&lab.path().display().to_string(), "");
    let text = text.replace('|', "\\|").replace('`', "'");
    let text = replace_after(&text, "sha256:", |c| c.is_ascii_hexdigit(), "...");
    let text = replace_after(&text, "/uploads/", |c| c.is_ascii_hexdigit() || c == '-', "...");
    // Sizes of compressed layers change with the compressor.
    ["expected ", "bytes, got ", "got 0-"]
        .iter()
        .fold(text, |text, mark| replace_after(&text, mark, |c| c.is_ascii_digit(), "N"))
}

/// What follows `mark` and fits becomes `new`.
fn replace_after(text: &str, mark: &str, fits: fn(char) -> bool, new: &str) -> String {
    let mut parts = text.split(mark);
    let mut all = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let rest = part.trim_start_matches(fits);
        all.push_str(mark);
        if rest.len() < part.len() {
            all.push_str(new);
        }
        all.push_str(rest);
    }
    all
}

fn result(case: &Case, passed: &[Passed], done: &Done, code: i32, verb: &str) -> String {
    let harmed = passed.iter().filter(|passed| passed.harmed).count();
    let about = format!("{verb}, {}: {}{}\n{passed:#?}", case.what, done.out, done.err);
    assert_eq!(harmed, case.tries, "{about}");
    match case.ends {
        Ends::Well(how) => {
            assert_eq!(done.code, 0, "{about}");
            if how.contains("asks for the rest") {
                // Half a layer had come.
                let half = |range: &str| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok();
                let from = passed.iter().filter_map(|passed| half(passed.range.as_deref()?));
                assert!(from.max().is_some_and(|from: u64| from > 1 << 20), "{about}");
            }
            if how.contains("asks how much came") {
                let asked = |passed: &&Passed| passed.method == "GET" && passed.path.contains("/uploads/");
                assert!(passed.iter().any(|passed| asked(&passed)), "{about}");
            }
            how.to_owned()
        }
        Ends::Badly(words) => {
            assert_eq!(done.code, code, "{about}");
            for word in words {
                assert!(done.err.contains(word), "no {word:?} in {about}");
            }
            let tries = if harmed == 1 { "at once".to_owned() } else { format!("after {harmed} tries") };
            format!("fails {tries}, exit code {code}")
        }
    }
}

fn pull(scene: &Scene, case: &Case) -> Row {
    let proxy = Proxy::start(scene.server.host()).expect("a proxy");
    let (lab, host) = (Lab::new(), proxy.host());
    if case.signed_in {
        sign_in(&lab, &host);
    }
    let name = format!("{host}/app:1");
    proxy.harm(case.rules.clone());
    let done = lab.run(["pull", &name]);
    let result = result(case, &proxy.passed(), &done, 5, "pull");
    whole(&lab, case.what);
    proxy.harm(Vec::new());
    let again = lab.run(["pull", &name]);
    assert_eq!(again.code, 0, "{}: {}", case.what, again.err);
    assert!(again.out.contains(&scene.digest), "{}: {}", case.what, again.out);
    whole(&lab, case.what);
    Row { verb: "pull", what: case.what, result, said: words(&done, &lab, &host) }
}

/// The same under a build that unpacks layers while they come.
fn build_on(scene: &Scene, case: &Case) {
    let proxy = Proxy::start(scene.server.host()).expect("a proxy");
    let (lab, host) = (Lab::new(), proxy.host());
    if case.signed_in {
        sign_in(&lab, &host);
    }
    let dockerfile = format!("FROM {host}/app:1\nCOPY Dockerfile /new\n");
    let context = lab.context(&[("Dockerfile", &dockerfile)]);
    let files = lab.out("files");
    let build = || {
        let output = format!("type=local,dest={}", files.display());
        lab.run(["build", "-o", &output, &context.display().to_string()])
    };
    proxy.harm(case.rules.clone());
    let done = build();
    match case.ends {
        Ends::Well(_) => assert_eq!(done.code, 0, "{}: {}", case.what, done.err),
        Ends::Badly(words) => {
            assert_eq!(done.code, 5, "{}: {}", case.what, done.err);
            assert!(words.iter().all(|word| done.err.contains(word)), "{}: {}", case.what, done.err);
            let snapshots = fs::read_dir(lab.store().join("snapshots")).expect("snapshots").count();
            assert_eq!(snapshots, 0, "{}", case.what);
        }
    }
    whole(&lab, case.what);
    proxy.harm(Vec::new());
    let again = build();
    assert_eq!(again.code, 0, "{}: {}", case.what, again.err);
    assert_eq!(fs::metadata(files.join("big")).map(|meta| meta.len()).ok(), Some(NOISE as u64));
    whole(&lab, case.what);
}

fn push(scene: &Scene, case: &Case, number: usize) -> Row {
    let far = TestRegistry::start().expect("a registry that starts").expect("looked for before");
    let proxy = Proxy::start(far.host()).expect("a proxy");
    let (lab, host) = (&scene.lab, proxy.host());
    let one = Lab::new();
    if case.signed_in {
        sign_in(&one, &host);
    }
    let name = format!("{host}/app:{number}");
    let tagged = lab.run(["tag", &format!("{}/app:1", scene.server.host()), &name]);
    assert_eq!(tagged.code, 0, "{}", tagged.err);
    let other = Proxy::start(far.host()).expect("a proxy");
    let mut rules = case.rules.clone();
    for rule in &mut rules {
        if let Harm::Elsewhere(host) = &mut rule.harm
            && host.is_empty()
        {
            *host = other.host();
        }
    }
    proxy.harm(rules);
    let send = || {
        let mut command = lab.rbuild();
        command.args(["push", &name]).env("HOME", one.path().join("home"));
        support::done(command.output().expect("rbuild"))
    };
    let done = send();
    let result = result(case, &proxy.passed(), &done, 6, "push");
    proxy.harm(Vec::new());
    let again = send();
    assert_eq!(again.code, 0, "{}: {}", case.what, again.err);
    let remote = format!("docker://{}/app:{number}", far.host());
    let copy = format!("oci:{}", one.out("copy").display());
    // skopeo reads every byte and checks every digest.
    let args = ["--insecure-policy", "copy", "-q", "--src-tls-verify=false", &remote, &copy];
    support::tool("skopeo", &args.map(std::convert::AsRef::as_ref));
    let index = fs::read_to_string(one.out("copy").join("index.json")).expect("index");
    assert!(index.contains(&scene.digest), "{}: {index}", case.what);
    Row { verb: "push", what: case.what, result, said: words(&done, &one, &host) }
}

fn pulls(scene: &Scene, elsewhere: &str, nowhere: &str) -> Vec<Case> {
    let blob = scene.layer.as_str();
    let get = |what, harm, times, tries, ends| case(what, rule("GET", blob, harm, times), tries, ends);
    let manifest =
        |what, harm, times, tries, ends| case(what, rule("GET", "/manifests/", harm, times), tries, ends);
    let rest = || Ends::Well("asks for the rest, works");
    let again = || Ends::Well("tries again, works");
    let mut cases = vec![
        get("the connection breaks in a layer, once", Harm::Cut, 1, 1, rest()),
        get("the connection always breaks", Harm::Cut, ALWAYS, 5, Ends::Badly(&["the connection broke"])),
        get(
            "a layer is shorter than the manifest says",
            Harm::Shorter,
            ALWAYS,
            1,
            Ends::Badly(&["wrong size"]),
        ),
        get(
            "a layer is longer than the manifest says",
            Harm::Longer,
            ALWAYS,
            1,
            Ends::Badly(&["wrong size"]),
        ),
        get("one bit of a layer is wrong, once", Harm::Spoil, 1, 1, again()),
        get(
            "one bit of a layer is always wrong",
            Harm::Spoil,
            ALWAYS,
            2,
            Ends::Badly(&["does not match its digest"]),
        ),
        get("a pause in a layer", Harm::Pause(Duration::from_secs(2)), 1, 1, Ends::Well("waits, works")),
        get(
            "429 with Retry-After: 1",
            Harm::Refuse(429, "Retry-After: 1\r\n"),
            1,
            1,
            Ends::Well("waits as told, works"),
        ),
        get(
            "429 with Retry-After: 3600",
            Harm::Refuse(429, "Retry-After: 3600\r\n"),
            ALWAYS,
            1,
            Ends::Badly(&["429"]),
        ),
        get("500 twice", Harm::Refuse(500, ""), 2, 2, again()),
        get("503 always", Harm::Refuse(503, ""), ALWAYS, 5, Ends::Badly(&["503", "out of order"])),
        get("a layer without end", Harm::Endless, ALWAYS, 1, Ends::Badly(&["wrong size"])),
        get(
            "a redirect to another host",
            Harm::Elsewhere(elsewhere.to_owned()),
            1,
            1,
            Ends::Well("follows it, works"),
        ),
        get(
            "a redirect to a host that is down",
            Harm::Elsewhere(nowhere.to_owned()),
            ALWAYS,
            1,
            Ends::Badly(&["connection refused"]),
        ),
        manifest(
            "the manifest is not what its digest says",
            Harm::OtherDigest,
            ALWAYS,
            2,
            Ends::Badly(&["does not match its digest"]),
        ),
        manifest("one bit of the manifest is wrong, once", Harm::Spoil, 1, 1, again()),
        manifest("a manifest without end", Harm::Endless, ALWAYS, 1, Ends::Badly(&["larger than"])),
    ];
    let basic = "WWW-Authenticate: Basic realm=\"test\"\r\n";
    for (what, times, signed_in, ends) in [
        (
            "the connection breaks in a layer, then 401, with credentials",
            1,
            true,
            Ends::Well("signs in, asks for the rest, works"),
        ),
        (
            "the connection breaks in a layer, then 401, without",
            ALWAYS,
            false,
            Ends::Badly(&["401", "rbuild login"]),
        ),
    ] {
        let rules = vec![rule("GET", blob, Harm::Cut, 1), rule("GET", blob, Harm::Refuse(401, basic), times)];
        cases.push(Case { what, rules, ends, tries: 2, signed_in });
    }
    cases
}

fn pushes(nowhere: &str) -> Vec<Case> {
    let patch =
        |what, harm, times, tries, ends| case(what, rule("PATCH", "/uploads/", harm, times), tries, ends);
    let manifest =
        |what, harm, times, tries, ends| case(what, rule("PUT", "/manifests/", harm, times), tries, ends);
    let resumed = || Ends::Well("asks how much came, sends the rest, works");
    let again = || Ends::Well("tries again, works");
    let mut cases = vec![
        patch("the connection breaks in a layer, once", Harm::CutRequest, 1, 1, resumed()),
        patch(
            "one bit of a layer is wrong at the registry",
            Harm::SpoilRequest,
            ALWAYS,
            1,
            Ends::Badly(&["digest"]),
        ),
        patch(
            "a pause before the answer",
            Harm::Pause(Duration::from_secs(2)),
            1,
            1,
            Ends::Well("waits, works"),
        ),
        patch(
            "429 with Retry-After: 1",
            Harm::Refuse(429, "Retry-After: 1\r\n"),
            1,
            1,
            Ends::Well("waits as told, works"),
        ),
        patch("500 twice", Harm::Refuse(500, ""), 2, 2, again()),
        patch("503 always", Harm::Refuse(503, ""), ALWAYS, 5, Ends::Badly(&["503", "out of order"])),
        patch(
            "the registry claims to have more than was sent",
            Harm::OtherRange("0-99999999"),
            ALWAYS,
            1,
            Ends::Well("lets the digest decide, works"),
        ),
        patch(
            "a redirect to another host",
            Harm::Elsewhere(String::new()),
            1,
            1,
            Ends::Well("follows it, works"),
        ),
        patch(
            "a redirect to a host that is down",
            Harm::Elsewhere(nowhere.to_owned()),
            ALWAYS,
            1,
            Ends::Badly(&["connection refused"]),
        ),
        manifest(
            "the registry stored another manifest",
            Harm::OtherDigest,
            ALWAYS,
            2,
            Ends::Badly(&["does not match its digest"]),
        ),
        manifest("500 for the manifest, once", Harm::Refuse(500, ""), 1, 1, again()),
        manifest("an answer without end", Harm::Endless, 1, 1, Ends::Well("stops reading, works")),
    ];
    let basic = "WWW-Authenticate: Basic realm=\"test\"\r\n";
    let cut = rule("PATCH", "/uploads/", Harm::CutRequest, 1);
    let asks = |method, times| rule(method, "/blobs/", Harm::Refuse(401, basic), times);
    cases.push(Case {
        what: "the connection breaks in a layer, then 401, with credentials",
        rules: vec![cut.clone(), asks("GET", 1)],
        ends: resumed(),
        tries: 2,
        signed_in: true,
    });
    // The rule for HEAD lets the looks at the three blobs pass.
    let later = Rule { after: 3, ..asks("HEAD", ALWAYS) };
    cases.push(Case {
        what: "the connection breaks in a layer, then 401, without credentials",
        rules: vec![cut, asks("GET", ALWAYS), later],
        ends: Ends::Badly(&["401", "rbuild login"]),
        tries: 3,
        signed_in: false,
    });
    cases
}

/// Runs all cases, a few at a time.
fn all<T: Sync>(cases: &[T], run: impl Fn(usize, &T) -> Row + Sync) -> Vec<Row> {
    let next = std::sync::atomic::AtomicUsize::new(0);
    let rows = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    let Some(case) = cases.get(number) else { return };
                    let row = run(number, case);
                    rows.lock().expect("rows").push((number, row));
                }
            });
        }
    });
    let mut rows = rows.into_inner().expect("rows");
    rows.sort_by_key(|(number, _)| *number);
    rows.into_iter().map(|(_, row)| row).collect()
}

/// The table between its marks has to be this; or is made so.
fn documented(mark: &str, rows: &[Row], test: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/images.md");
    let text = fs::read_to_string(&path).expect("docs/images.md");
    let mut table =
        String::from("| what goes wrong | what rbuild does | what the user sees |\n| --- | --- | --- |\n");
    for row in rows {
        let said = if row.said.is_empty() { "nothing of it".to_owned() } else { format!("`{}`", row.said) };
        table.push_str(&format!("| {} | {} | {said} |\n", row.what, row.result));
        println!("{}: {}: {}: {said}", row.verb, row.what, row.result);
    }
    let (begin, end) = (format!("<!-- {mark}: `{test}` -->\n"), format!("<!-- end of {mark} -->"));
    let from = text.find(&begin).expect(&begin) + begin.len();
    let to = text.find(&end).expect(&end);
    if std::env::var_os("RBUILD_WRITE_DOCS").is_some() {
        let new = format!("{}\n{table}\n{}", &text[..from], &text[to..]);
        fs::write(&path, new).expect("write");
        return;
    }
    assert_eq!(text[from..to].trim(), table.trim(), "docs/images.md is not what happens");
}

#[test]
fn every_fault_of_a_pull_ends_as_documented() {
    let test = "every_fault_of_a_pull_ends_as_documented";
    let Some(scene) = scene(test) else { return };
    let elsewhere = Proxy::start(scene.server.host()).expect("a proxy");
    let nowhere = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("a port");
    let nowhere = nowhere.to_string();
    let cases = pulls(&scene, &elsewhere.host(), &nowhere);
    let mut rows = all(&cases, |_, case| {
        build_on(&scene, case);
        pull(&scene, case)
    });
    for row in &mut rows {
        row.said = row.said.replace(&nowhere, "OTHER");
    }
    let lab = Lab::new();
    let refused = lab.run(["pull", &format!("{nowhere}/app:1")]);
    assert_eq!(refused.code, 5, "{}", refused.err);
    whole(&lab, "refused");
    rows.push(Row {
        verb: "pull",
        what: "nobody listens",
        result: "fails at once, exit code 5".into(),
        said: words(&refused, &scene.lab, &nowhere),
    });
    documented("pull faults", &rows, test);
}

#[test]
fn every_fault_of_a_push_ends_as_documented() {
    let test = "every_fault_of_a_push_ends_as_documented";
    let Some(scene) = scene(test) else { return };
    let nowhere = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("a port");
    let nowhere = nowhere.to_string();
    let cases = pushes(&nowhere);
    let mut rows = all(&cases, |number, case| push(&scene, case, number));
    for row in &mut rows {
        row.said = row.said.replace(&nowhere, "OTHER");
    }
    let name = format!("{nowhere}/app:1");
    let tagged = scene.lab.run(["tag", &format!("{}/app:1", scene.server.host()), &name]);
    assert_eq!(tagged.code, 0, "{}", tagged.err);
    let refused = scene.lab.run(["push", &name]);
    assert_eq!(refused.code, 6, "{}", refused.err);
    rows.push(Row {
        verb: "push",
        what: "nobody listens",
        result: "fails at once, exit code 6".into(),
        said: words(&refused, &scene.lab, &nowhere),
    });
    whole(&scene.lab, "all pushes");
    documented("push faults", &rows, test);
}

#[test]
fn a_push_on_a_known_base_moves_the_new_bytes_and_no_more() {
    let test = "a_push_on_a_known_base_moves_the_new_bytes_and_no_more";
    let Some(scene) = scene(test) else { return };
    let proxy = Proxy::start(scene.server.host()).expect("a proxy");
    let (lab, host) = (Lab::new(), proxy.host());
    let dockerfile = format!("FROM {host}/app:1\nCOPY Dockerfile /new\n");
    let context = lab.context(&[("Dockerfile", &dockerfile)]);
    let name = format!("{host}/team/next:1");
    let built = lab.run(["build", "-t", &name, &context.display().to_string()]);
    assert_eq!(built.code, 0, "{}", built.err);
    proxy.passed();
    let pushed = lab.run(["push", &name]);
    assert_eq!(pushed.code, 0, "{}", pushed.err);
    let at = pushed.out.find("sha256:").expect("a digest");
    let manifest = lab.store().join("blobs/sha256").join(&pushed.out[at + 7..at + 71]);
    let bytes = fs::read(manifest).expect("manifest");
    let manifest: serde_json::Value = serde_json::from_slice(&bytes).expect("JSON");
    let size = |part: &serde_json::Value| part["size"].as_u64().expect("a size");
    let layers = manifest["layers"].as_array().expect("layers");
    assert_eq!(layers.len(), 3);
    assert!(size(&layers[0]) > 5_000_000);
    let passed = proxy.passed();
    let sent: u64 = passed.iter().map(|passed| passed.sent).sum();
    assert_eq!(sent, size(&layers[2]) + size(&manifest["config"]) + bytes.len() as u64, "{passed:#?}");
    // Nothing at all the second time.
    assert_eq!(lab.run(["push", &name]).code, 0);
    let passed = proxy.passed();
    assert_eq!(passed.iter().map(|passed| passed.sent).sum::<u64>(), 0, "{passed:#?}");
}
