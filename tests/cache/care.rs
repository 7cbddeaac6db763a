//! `rbuild cache`: looking into caches, checking and moving them.

use std::fs;

use rbuild::digest::Digest;
use serde_json::Value;

use super::registry::Setup;
use super::support::{Lab, bases_or_skip};
use super::{EPOCH, PLAIN, built, damage, files, read_layout, start, swapped, write_layout};

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn the_steps_of_a_cache_are_listed_wherever_it_is() {
    let Some(server) = start("cache ls", Setup::default()) else { return };
    let lab = Lab::new();
    let context = lab.context(&files(PLAIN));
    let dir = lab.out("cache").display().to_string();
    let name = format!("{}/app:cache", server.host());
    let to = [format!("--cache-to={name},mode=max"), format!("--cache-to=type=local,dest={dir},mode=max")];
    built(&context, &[EPOCH, &to[0].replace("--cache-to=", "--cache-to=type=registry,ref="), &to[1]]);
    for cache in
        [name.as_str(), dir.as_str(), &format!("type=local,src={dir}"), &format!("type=registry,ref={name}")]
    {
        let done = lab.run(["cache", "ls", "-q", cache]);
        assert_eq!(done.code, 0, "{}", done.err);
        assert!(done.out.starts_with("STEP "), "{}", done.out);
        for step in ["COPY src /src", "RUN cat /src/* >/out", "COPY --from=build /out /copied/"] {
            assert!(done.out.lines().any(|line| line.contains(step)), "{step}: {}", done.out);
        }
        assert_eq!(done.out.lines().count(), 5, "{}", done.out);
        let rows = lab.run(["cache", "ls", "-q", "--format=json", cache]).out;
        let rows: Vec<Value> = rows.lines().map(json).collect();
        assert_eq!(rows.len(), 4);
        assert!(rows.iter().all(|row| row["Layer"].as_str().is_some_and(|text| Digest::parse(text).is_ok())));
        let document = json(&lab.run(["cache", "show", "-q", "--format=json", cache]).out);
        assert_eq!((&document["steps"], &document["layers"]), (&4.into(), &4.into()), "{document}");
        let done = lab.run(["cache", "show", "-q", cache, "RUN cat /src"]);
        assert!(done.out.contains("Steps:    1") && done.out.contains("Diff ID:"), "{}", done.out);
        let done = lab.run(["cache", "show", "-q", cache, "RUN nothing"]);
        assert_eq!(done.code, 2, "{}", done.err);
        let done = lab.run(["cache", "verify", "-q", cache]);
        assert_eq!(done.code, 0, "{}{}", done.out, done.err);
        assert!(done.out.contains("4 steps, 4 layers, all right"), "{}", done.out);
    }
}

#[test]
fn wrong_caches_are_named_with_what_is_wrong() {
    if !bases_or_skip("cache verify") {
        return;
    }
    let lab = Lab::new();
    let context = lab.context(&files(PLAIN));
    let dir = lab.out("cache");
    let path = dir.display().to_string();
    let done = lab.run(["cache", "ls", "-q", &path]);
    assert_eq!(done.code, 5, "{}", done.err);
    assert!(
        done.err.contains("cannot read the cache at") && done.err.contains("does not exist"),
        "{}",
        done.err
    );
    built(&context, &[EPOCH, &format!("--cache-to=type=local,dest={path},mode=max")]);
    let found = read_layout(&dir);
    let wrong = |said: &str| {
        let done = lab.run(["cache", "verify", "-q", &path]);
        assert_eq!(done.code, 5, "{}{}", done.out, done.err);
        assert!(done.out.contains(said), "{said}: {}{}", done.out, done.err);
        let document = json(&lab.run(["cache", "verify", "-q", "--format=json", &path]).out);
        let layers = document["layers"].as_array().expect("layers");
        layers.iter().filter(|layer| !layer["problem"].is_null()).count()
    };
    damage(&dir.join("blobs/sha256").join(found.layers[0].hex()));
    assert_eq!(wrong(&found.layers[0].to_string()), 1);
    fs::remove_file(dir.join("blobs/sha256").join(found.layers[1].hex())).expect("remove");
    assert_eq!(wrong(&found.layers[1].to_string()), 2);
    // Right blobs, but each of another step.
    fs::remove_dir_all(&dir).expect("remove");
    built(&context, &[EPOCH, &format!("--cache-to=type=local,dest={path},mode=max")]);
    let document = swapped(&found.document);
    write_layout(&dir, document.to_string().as_bytes(), &super::sizes(&document));
    assert_eq!(wrong("does not match the image: expected diff ID"), 4);
}

#[test]
fn caches_move_between_places_and_are_of_use_there() {
    let Some(server) = start("cache export", Setup::default()) else { return };
    let lab = Lab::new();
    let context = lab.context(&files(PLAIN));
    let (host, dir) = (server.host(), lab.out("cache").display().to_string());
    built(&context, &[EPOCH, &format!("--cache-to=type=registry,ref={host}/app:cache,mode=max")]);
    let (first, other) = (format!("{host}/app:cache"), format!("{host}/other:cache"));
    for (command, said) in [
        (["cache", "export", "-q", &first, &dir], "4 steps"),
        (["cache", "export", "-q", &first, &dir], "nothing new"),
        (["cache", "import", "-q", &dir, &other], "layers: 4 new"),
    ] {
        let done = lab.run(command);
        assert_eq!(done.code, 0, "{}", done.err);
        assert!(done.out.contains(said), "{command:?}: {}", done.out);
    }
    let (_, counts, err) = built(&context, &[EPOCH, &format!("--cache-from={other}")]);
    assert_eq!(counts, (4, 4), "{err}");
    let done = lab.run(["cache", "prune", "-q", "--max-size=1", &dir]);
    assert!(done.out.contains("4 steps dropped, 0 kept"), "{}{}", done.out, done.err);
    let done = lab.run(["cache", "prune", "-q", "--max-age=30d", &other]);
    assert!(done.out.contains("0 steps dropped, 4 kept"), "{}{}", done.out, done.err);
    let done = lab.run(["cache", "ls", "-q", &dir]);
    assert_eq!((done.code, done.out.lines().count()), (0, 1), "{}{}", done.out, done.err);
    let left = fs::read_dir(lab.out("cache").join("blobs/sha256")).expect("blobs").count();
    assert_eq!(left, 2, "manifest and document");
    let done = lab.run(["cache", "prune", "-q", &dir]);
    assert_eq!(done.code, 2, "{}", done.err);
}
