//! Small things that every build does: `cargo bench --bench micro`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use rbuild::cache::{Input, KeyInputs, Record, Records};
use rbuild::context::ignore::IgnoreRules;
use rbuild::digest::{ChainId, DiffId, Digest};
use rbuild::dockerfile::{Expander, parse};
use rbuild::store::Store;

fn main() {
    divan::main();
}

/// 2,000 instructions of the usual kinds.
fn dockerfile() -> String {
    let mut text = String::from("# syntax=docker/dockerfile:1\nARG VERSION=1\nFROM busybox AS base\n");
    for number in 0..400 {
        let _ = writeln!(
            text,
            "ENV V{number}=\"${{VERSION:-0}}.{number}\" PATH=$PATH:/opt/{number}\n\
             RUN --mount=type=cache,target=/c{number} set -e; \\\n    echo $V{number} \\\n    && true\n\
             COPY --chown=app:app src{number} /srv/{number}/\nLABEL a{number}=b c='d e'\nWORKDIR /srv/{number}"
        );
    }
    text
}

#[divan::bench]
fn parse_2000_instructions(bencher: Bencher) {
    let text = dockerfile();
    bencher.counter(BytesCount::new(text.len())).bench(|| parse("Dockerfile", black_box(text.as_bytes())));
}

#[divan::bench]
fn expand_words(bencher: Bencher) {
    let variables: BTreeMap<String, String> =
        (0..50).map(|number| (format!("V{number}"), format!("value {number}"))).collect();
    let words =
        ["plain", "$V1/$V2", "${V3:-x}${V99:+y}", "'single $V4'", "\"a ${V5#value } b\"", "${V6//e/E}"];
    let expander = Expander::new('\\');
    bencher.counter(ItemsCount::new(words.len())).bench(|| {
        for word in words {
            let _ = black_box(expander.word(black_box(word), &variables));
        }
    });
}

#[divan::bench]
fn match_1000_paths_against_an_ignore_file(bencher: Bencher) {
    let text = "node_modules\n**/*.log\n!keep/*.log\ntarget/*\n.git\ndocs/**/draft-*\n*.tmp\nbuild/[a-c]?\n";
    let rules = IgnoreRules::parse(".dockerignore", text.as_bytes()).expect("rules");
    let paths: Vec<String> = (0..1000)
        .map(|number| format!("src/module{}/part{}/file{number}.rs", number % 17, number % 5))
        .collect();
    bencher.counter(ItemsCount::new(paths.len())).bench(|| {
        for path in &paths {
            let _ = black_box(rules.matched(black_box(path.as_bytes())));
        }
    });
}

#[divan::bench(args = [4 << 10, 1 << 20])]
fn digest(bencher: Bencher, size: usize) {
    let bytes = vec![7u8; size];
    bencher.counter(BytesCount::new(size)).bench(|| Digest::of(black_box(&bytes)));
}

#[divan::bench]
fn look_up_one_of_1000_records(bencher: Bencher) {
    let dir = tempfile::tempdir().expect("directory");
    let records = Records::new(Store::open(dir.path()).expect("store"));
    let inputs = |number: u32| KeyInputs {
        definition: serde_json::json!({ "run": ["/bin/sh", "-c", number.to_string()] }),
        parent: ChainId::scratch(),
        inputs: vec![Input { name: "context: src".into(), digest: Digest::of(&number.to_le_bytes()) }],
    };
    for number in 0..1000u32 {
        let diff_id = DiffId(Digest::of(&number.to_le_bytes()));
        let record = Record { diff_id, inputs: inputs(number), step: "RUN".into(), created: 0 };
        records.put(&record).expect("record");
    }
    let mut next = 0u32;
    bencher.bench_local(|| {
        next = (next + 7) % 1000;
        records.get(&inputs(next).key()).expect("look-up").expect("record")
    });
}
