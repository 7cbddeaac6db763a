//! Pushing to servers that misbehave.

use std::sync::{Mutex, PoisonError};

use super::bench::{Bench, Outcome};
use super::fault_server::{FaultServer, Received, head, reply};
use super::origins::{Origin, note};
use super::push_bench::{SMALL, Shared, Trouble, arrives, fails, image, large, once, push, start};
use super::*;
use crate::digest::Digest;
use crate::image::{Descriptor, Family};

#[test]
fn an_image_goes_in_few_requests_and_the_tag_comes_last() -> Outcome {
    let (server, report, slept) = arrives(|_, _| None)?;
    let manifest = report.sent_bytes - (large().len() + SMALL.len() + 2) as u64;
    assert!(manifest > 100 && manifest < 1000, "{manifest}");
    assert_eq!((report.uploaded, report.existed, report.mounted), (3, 0, 0));
    assert!(slept.is_empty());
    let requests = server.requests();
    let methods: Vec<&str> = requests.iter().map(|request| request.method.as_str()).collect();
    let small = ["HEAD", "POST", "PUT"];
    let large = ["HEAD", "POST", "PATCH", "PUT"];
    let expected = [&["HEAD", "HEAD"][..], &small, &large, &small, &["PUT"]].concat();
    assert_eq!(methods, expected);
    assert!(requests.last().is_some_and(|last| last.path == "/v2/a/b/manifests/1"));
    let whole = requests.iter().find(|request| request.method == "PATCH").ok_or("no PATCH")?;
    assert_eq!(whole.header("content-range"), None);
    Ok(())
}

#[test]
fn what_is_there_is_not_sent_again() -> Outcome {
    let model = Shared::default();
    let server = start(&model, |_, _| None)?;
    let bench = Bench::new(&server)?;
    let top = image(&bench)?;
    push(&bench, &top)?;
    let before = server.requests().len();
    let again = push(&bench, &top)?;
    assert_eq!((again.sent_bytes, again.uploaded), (0, 0));
    assert_eq!(server.requests().len(), before + 1);
    // Another tag needs the manifest only; without it, the blobs are looked for.
    model.lock().unwrap_or_else(PoisonError::into_inner).manifests.remove("1");
    let tagged = push(&bench, &top)?;
    assert_eq!(tagged.sent_bytes, top.size);
    model.lock().unwrap_or_else(PoisonError::into_inner).manifests.clear();
    let found = push(&bench, &top)?;
    assert_eq!((found.existed, found.uploaded, found.sent_bytes), (3, 0, top.size));
    Ok(())
}

#[test]
fn an_index_whose_images_only_the_registry_has_is_pushed() -> Outcome {
    let model = Shared::default();
    let server = start(&model, |_, _| None)?;
    let bench = Bench::new(&server)?;
    let child = image(&bench)?;
    let index =
        serde_json::json!({"schemaVersion": 2, "mediaType": Family::Oci.index(), "manifests": [child]});
    let index = index.to_string();
    bench.store.put_blob(index.as_bytes())?;
    let top = Descriptor::of(Family::Oci.index(), index.as_bytes());
    push(&bench, &child)?;
    std::fs::remove_file(bench.store.blob_path(&child.digest))?;
    assert_eq!(push(&bench, &top)?.sent_bytes, top.size);
    let mut model = model.lock().unwrap_or_else(PoisonError::into_inner);
    assert_eq!(model.manifests.get("1"), Some(&index));
    model.manifests.clear();
    drop(model);
    assert!(push(&bench, &top).is_err_and(|error| error.to_string().contains("no registry is known")));
    Ok(())
}

#[test]
fn blobs_of_another_repository_are_mounted_and_the_rest_is_sent() -> Outcome {
    let model = Shared::default();
    model.lock().unwrap_or_else(PoisonError::into_inner).others.push("base/x".into());
    let server = start(&model, |_, _| None)?;
    let bench = Bench::new(&server)?;
    let top = image(&bench)?;
    let from = |repository: &str, content: &str| {
        let origin = Origin { host: server.host(), repository: repository.to_owned() };
        note(&bench.store, &Digest::of(content.as_bytes()), &origin)
    };
    from("base/x", &large())?;
    from("gone/y", SMALL)?;
    let report = push(&bench, &top)?;
    assert_eq!((report.mounted, report.uploaded), (1, 2));
    // The refused mount opened an upload, which was used.
    assert_eq!(server.requests().iter().filter(|request| request.method == "POST").count(), 3);
    Ok(())
}

#[test]
fn a_broken_transfer_goes_on_where_it_stopped() -> Outcome {
    let (server, report, slept) = arrives(once("PATCH", Trouble::Drop(1234)))?;
    assert_eq!(slept, [300]);
    let requests = server.requests();
    let patches: Vec<_> = requests.iter().filter(|request| request.method == "PATCH").collect();
    let ranges: Vec<_> = patches.iter().filter_map(|patch| patch.header("content-range")).collect();
    assert_eq!(ranges, ["1234-3199"]);
    assert_eq!(report.uploaded, 3);
    Ok(())
}

#[test]
fn pieces_get_smaller_where_nothing_of_a_large_one_is_kept() -> Outcome {
    let (server, ..) = arrives(once("PATCH", Trouble::Drop(0)))?;
    let requests = server.requests();
    let ranges: Vec<_> = requests.iter().filter_map(|patch| patch.header("content-range")).collect();
    assert_eq!(ranges, ["0-999", "1000-1999", "2000-2999", "3000-3199"]);
    let (server, _, slept) = arrives(|_, request| {
        (request.body.len() > 500 && request.method == "PATCH").then_some(Trouble::Status(413))
    })?;
    assert!(slept.is_empty());
    assert!(server.requests().iter().any(|request| request.header("content-range") == Some("0-399")));
    Ok(())
}

/// Of registries that keep the bytes and count them wrongly: always the first, one too many, those of the
/// first piece, those of the last piece alone, nothing of sense.
#[test]
fn the_digest_counts_and_not_what_is_said_of_pieces() -> Outcome {
    for says in [(202, "0-0"), (202, "0-3200"), (202, "0-9"), (202, "2000-2999"), (200, "0-"), (200, "x")] {
        for limit in [usize::MAX, 1000] {
            let model = Shared::default();
            model.lock().unwrap_or_else(PoisonError::into_inner).says = Some(says);
            let server = start(&model, move |_, request| {
                (request.method == "PATCH" && request.body.len() > limit).then_some(Trouble::Status(413))
            })?;
            let bench = Bench::new(&server)?;
            let top = image(&bench)?;
            push(&bench, &top).map_err(|error| format!("{says:?} {limit}: {error}"))?;
            let model = model.lock().unwrap_or_else(PoisonError::into_inner);
            assert_eq!(model.blobs.get(&Digest::of(large().as_bytes()).to_string()), Some(&large()));
        }
    }
    Ok(())
}

#[test]
fn a_blob_that_is_there_after_all_is_not_sent_again() -> Outcome {
    for status in [Some(400), Some(409), Some(500), Some(504), None] {
        let finishes = |request: &Received| request.method == "PUT" && request.path.contains("/uploads/");
        let trouble = move |_: usize, request: &Received| {
            (finishes(request) && request.body.is_empty()).then_some(Trouble::Done(status))
        };
        let (server, _, slept) = arrives(trouble)?;
        assert!(slept.is_empty(), "{status:?} {slept:?}");
        assert_eq!(server.requests().iter().filter(|request| request.method == "PATCH").count(), 1);
    }
    Ok(())
}

#[test]
fn a_registry_that_is_still_at_work_is_asked_and_not_told_again() -> Outcome {
    let broken = Mutex::new(false);
    let (server, _, slept) = arrives(move |_, request| {
        let finishes =
            request.method == "PUT" && request.path.contains("/uploads/") && request.body.is_empty();
        let mut broken = broken.lock().unwrap_or_else(PoisonError::into_inner);
        (finishes && !std::mem::replace(&mut *broken, true)).then_some(Trouble::Drop(0))
    })?;
    // It never finished: then all is sent anew, to another place.
    assert_eq!(slept, [1000, 2000, 4000, 8000, 15_000, 30_000, 300]);
    let finishes = |request: &&Received| request.method == "PUT" && request.path.contains("/uploads/");
    let paths: Vec<String> = server.requests().iter().filter(finishes).map(|r| r.path.clone()).collect();
    let mut unique = paths.clone();
    unique.dedup();
    assert_eq!(unique, paths, "an upload was finished twice");
    Ok(())
}

#[test]
fn a_forgotten_upload_begins_anew() -> Outcome {
    for method in ["PATCH", "PUT"] {
        let (_, report, _) = arrives(once(method, Trouble::Forget))?;
        assert_eq!(report.uploaded, 3);
    }
    Ok(())
}

#[test]
fn passing_trouble_is_waited_out_at_every_step() -> Outcome {
    for method in ["HEAD", "POST", "PATCH", "PUT"] {
        for trouble in [Trouble::Status(500), Trouble::Status(503), Trouble::Drop(0), Trouble::Endless] {
            let (_, _, slept) = arrives(once(method, trouble))?;
            assert_eq!(slept, [300], "{method} {trouble:?}");
        }
        let (_, _, slept) = arrives(once(method, Trouble::TooMany))?;
        assert_eq!(slept, [2000], "{method}");
    }
    Ok(())
}

#[test]
fn a_registry_that_stored_something_else_is_not_believed() -> Outcome {
    let (_, error) = fails(|_, request| {
        (request.method == "PUT" && request.path.contains("manifests")).then_some(Trouble::WrongDigest)
    })?;
    assert!(matches!(error, RegistryError::Mismatch { .. }), "{error}");
    Ok(())
}

#[test]
fn refusals_name_the_request_and_what_to_do() -> Outcome {
    for (method, status, words) in [
        ("POST", 401, "rbuild login"),
        ("POST", 403, "may not push"),
        ("POST", 405, "read-only"),
        ("PATCH", 413, "limits the size"),
        ("PUT", 429, "wait a while"),
    ] {
        let (_, error) =
            fails(move |_, request| (request.method == method).then_some(Trouble::Status(status)))?;
        let text = error.to_string();
        let asked = words != "rbuild login" || text.contains("without credentials");
        assert!(asked && (status == 401 || text.contains(words)), "{text}");
        for part in ["no, thank you", "NOPE", method, "/v2/a/b/blobs/uploads/"] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }
    Ok(())
}

#[test]
fn lasting_trouble_ends_the_push() -> Outcome {
    let (server, error) = fails(|_, request| (request.method == "PATCH").then_some(Trouble::Drop(0)))?;
    assert!(matches!(error, RegistryError::Unreachable(_)), "{error}");
    assert_eq!(server.requests().iter().filter(|request| request.method == "PATCH").count(), 5);
    Ok(())
}

#[test]
fn a_slow_upload_has_new_patience_with_every_step_it_makes() -> Outcome {
    // Each PATCH brings 300 bytes and breaks: more failures than attempts, but never in vain.
    let (_, _, slept) = arrives(|_, request| {
        (request.method == "PATCH" && request.body.len() > 300).then_some(Trouble::Drop(300))
    })?;
    assert!(slept.len() > 8 && slept.iter().all(|slept| *slept <= 600), "{slept:?}");
    Ok(())
}

#[test]
fn a_damaged_store_is_told_from_a_bad_registry() -> Outcome {
    let model = Shared::default();
    let server = start(&model, |_, _| None)?;
    let bench = Bench::new(&server)?;
    let top = image(&bench)?;
    let spoiled = large().replace("0123", "3210");
    std::fs::write(bench.store.blob_path(&Digest::of(large().as_bytes())), spoiled)?;
    let text = push(&bench, &top).err().ok_or("it is damaged")?.to_string();
    assert!(text.contains("the store") && text.contains("digest"), "{text}");
    std::fs::write(bench.store.blob_path(&Digest::of(large().as_bytes())), "short")?;
    let text = push(&bench, &top).err().ok_or("it is damaged")?.to_string();
    assert!(text.contains("5 bytes instead of 3200"), "{text}");
    Ok(())
}

#[test]
fn a_layer_that_is_not_here_streams_from_where_it_is() -> Outcome {
    let origin = FaultServer::start(|_, _, stream| reply(stream, 200, &[], large().as_bytes()))?;
    let model = Shared::default();
    let server = start(&model, once("PATCH", Trouble::Drop(1000)))?;
    let bench = Bench::new(&server)?;
    let top = image(&bench)?;
    let digest = Digest::of(large().as_bytes());
    std::fs::remove_file(bench.store.blob_path(&digest))?;
    let text = push(&bench, &top).err().ok_or("nobody has it")?.to_string();
    assert!(text.contains("no registry is known"), "{text}");
    note(&bench.store, &digest, &Origin { host: origin.host(), repository: "far/away".into() })?;
    assert_eq!(push(&bench, &top)?.uploaded, 2);
    assert!(!bench.store.has_blob(&digest));
    assert!(origin.count("/v2/far/away/blobs/") >= 1);
    let model = model.lock().unwrap_or_else(PoisonError::into_inner);
    assert_eq!(model.blobs.get(&digest.to_string()), Some(&large()));
    Ok(())
}

#[test]
fn a_cancelled_push_ends_at_once() -> Outcome {
    let model = Shared::default();
    let server = FaultServer::start(|_, request, stream| match request.method.as_str() {
        "HEAD" => head(stream, 404, &[], Some(0)),
        _ => std::io::Read::read(stream, &mut [0]).map(|_| ()),
    })?;
    drop(model);
    let bench = Bench::new(&server)?;
    let top = image(&bench)?;
    let cancel = bench.cancel.clone();
    let switch = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(100));
        cancel.cancel();
    });
    let begun = std::time::Instant::now();
    let error = push(&bench, &top).err().ok_or("it was cancelled")?;
    assert!(error.is_cancelled(), "{error}");
    assert!(begun.elapsed() < std::time::Duration::from_secs(300));
    switch.join().map_err(|_| "the switch panicked")?;
    Ok(())
}
