//! Records that are signed: what only a key can tell.

use std::fs;
use std::path::{Path, PathBuf};

use p256::SecretKey;
use p256::pkcs8::{EncodePrivateKey as _, EncodePublicKey as _, LineEnding};
use serde_json::Value;

use super::support::{Lab, bases_or_skip};
use super::{EPOCH, PLAIN, built, files, fresh, read_layout, sizes, write_layout};

/// A pair of keys: the private and the public file.
fn keys(lab: &Lab, name: &str, number: u8) -> (PathBuf, PathBuf) {
    let (private, public) = (lab.out(&format!("{name}.key")), lab.out(&format!("{name}.pub")));
    let key = SecretKey::from_slice(&[number; 32]).expect("a number of the field");
    fs::write(&private, key.to_pkcs8_pem(LineEnding::LF).expect("PEM").as_bytes()).expect("write");
    let text = key.public_key().to_public_key_pem(LineEnding::LF).expect("PEM");
    fs::write(&public, text).expect("write");
    (private, public)
}

/// Rewrites the document of a cache in a directory.
fn tamper(dir: &Path, change: impl Fn(&mut Value)) {
    let mut document = read_layout(dir).document;
    change(&mut document);
    write_layout(dir, document.to_string().as_bytes(), &sizes(&document));
}

#[test]
fn records_that_the_key_did_not_sign_are_not_used() {
    if !bases_or_skip("signed caches") {
        return;
    }
    let lab = Lab::new();
    let (private, public) = keys(&lab, "ci", 7);
    let (other, stranger) = keys(&lab, "other", 8);
    // The two steps of the image have the same text, so that what they made is mixed up unseen.
    let dockerfile = format!("{PLAIN}RUN cat /done >/more\n");
    let context = lab.context(&files(&dockerfile));
    let dir = lab.out("cache");
    let (right, ..) = built(&context, &[EPOCH, "--no-cache"]);
    let to = format!("--cache-to=type=local,dest={},mode=max", dir.display());
    let signed = format!("{to},sign={}", private.display());
    let plain = format!("--cache-from=type=local,src={}", dir.display());
    let from = |key: &Path| format!("{plain},verify={}", key.display());
    built(&context, &[EPOCH, &signed]);
    let (image, counts, err) = built(&context, &[EPOCH, &from(&public), &signed]);
    assert_eq!((image.as_str(), counts), (right.as_str(), (5, 5)), "{err}");
    assert!(err.contains("nothing new") && !err.contains("warning"), "{err}");
    let said = "are not signed by the key that verify= names";
    let (image, counts, err) = built(&context, &[EPOCH, &from(&stranger)]);
    assert_eq!((image.as_str(), counts), (right.as_str(), (0, 5)), "{err}");
    assert!(err.contains(said), "{err}");
    let spec = |key: &Path| format!("type=local,src={},verify={}", dir.display(), key.display());
    assert_eq!(lab.run(["cache", "verify", "-q", &spec(&public)]).code, 0);
    assert_eq!(lab.run(["cache", "verify", "-q", &spec(&stranger)]).code, 5);
    // Who has no key adds to the cache and takes nothing from it.
    let more = lab.context(&files(&format!("{dockerfile}WORKDIR /w\n")));
    built(&more, &[EPOCH, &to]);
    let (_, counts, err) = built(&more, &[EPOCH, &from(&public)]);
    assert_eq!(counts, (5, 6), "{err}");
    assert!(err.contains(said), "{err}");
    // A private key that signed something else.
    let forged = lab.out("forged");
    built(
        &context,
        &[
            EPOCH,
            &format!("--cache-to=type=local,dest={},mode=max,sign={}", forged.display(), other.display()),
        ],
    );
    let source = format!("--cache-from=type=local,src={},verify={}", forged.display(), public.display());
    let (image, counts, _) = built(&context, &[EPOCH, &source]);
    assert_eq!((image.as_str(), counts), (right.as_str(), (0, 5)));
}

#[test]
fn a_valid_layer_in_the_place_of_another_is_found_out_by_the_signature() {
    if !bases_or_skip("swapped records") {
        return;
    }
    let lab = Lab::new();
    let (private, public) = keys(&lab, "ci", 7);
    let context = lab.context(&files(PLAIN));
    let (right, ..) = built(&context, &[EPOCH, "--no-cache"]);
    type Change = fn(&mut Value);
    let cases: [(&str, Change); 3] = [
        ("layers and their diff IDs", |document| {
            let entries = document["entries"].as_array_mut().expect("entries");
            let whole: Vec<Value> = entries.clone();
            for (at, entry) in entries.iter_mut().enumerate() {
                let next = &whole[(at + 1) % whole.len()];
                entry["layer"] = next["layer"].clone();
                entry["diffId"] = next["diffId"].clone();
            }
        }),
        ("signatures", |document| {
            let entries = document["entries"].as_array_mut().expect("entries");
            let first = entries[0]["signature"].clone();
            entries.iter_mut().skip(1).for_each(|entry| entry["signature"] = first.clone());
        }),
        ("times and answers", |document| {
            let entries = document["entries"].as_array_mut().expect("entries");
            entries.iter_mut().for_each(|entry| entry["created"] = 7.into());
            let answers = document["answers"].as_array_mut().expect("answers");
            let zeros = format!("sha256:{}", "0".repeat(64));
            answers.iter_mut().for_each(|answer| answer["value"] = zeros.clone().into());
        }),
    ];
    for (what, change) in cases {
        let dir = lab.out("cache");
        let _ = fs::remove_dir_all(&dir);
        let key = private.display();
        built(
            &context,
            &[EPOCH, &format!("--cache-to=type=local,dest={},mode=max,sign={key}", dir.display())],
        );
        tamper(&dir, change);
        let from = format!("--cache-from=type=local,src={},verify={}", dir.display(), public.display());
        let (image, (cached, _), err) = built(&context, &[EPOCH, &from]);
        assert_eq!(image, right, "{what}: {err}");
        assert!(cached <= 1 && err.contains("are not signed by the key"), "{what}: {cached}: {err}");
    }
}

#[test]
fn what_a_signature_cannot_vouch_for_is_refused() {
    let lab = Lab::new();
    let (private, public) = keys(&lab, "ci", 7);
    let context = lab.context(&[("Dockerfile", "FROM scratch\nCOPY a /\n"), ("a", "x")]);
    let sign = |key: &Path| format!("--cache-to=type=local,dest=c,sign={}", key.display());
    for (flags, said) in [
        (
            vec![sign(&private), "--cache-from=type=local,src=c".to_owned()],
            "would vouch for what comes from c",
        ),
        (vec![sign(&public)], "cannot use the key"),
        (vec![sign(Path::new("none.key"))], "cannot read the key none.key"),
        (vec![format!("--cache-from=type=local,src=c,verify={}", private.display())], "cannot use the key"),
        (vec![format!("--cache-to=type=inline,sign={}", private.display())], "does not go with type=inline"),
    ] {
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let (_, done) = fresh(&context, &flags);
        assert_eq!(done.code, 2, "{flags:?}: {}", done.err);
        assert!(done.err.contains(said), "{said}: {}", done.err);
    }
}
