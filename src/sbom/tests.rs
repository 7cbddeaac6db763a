//! Readers against files made here by the rules of their formats, whole, cut and changed.

use std::io::Write as _;

use crate::snapshot::FileReader;

use super::elf::Elf;
use super::package::{Ecosystem, Package};
use super::text::Found;
use super::{apk, cargo, composer, dotnet, gem, golang, java, lock, npm, python};

/// A 64-bit little-endian ELF file with these sections behind its header.
pub(super) fn elf(sections: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out = b"\x7fELF\x02\x01\x01".to_vec();
    out.resize(64, 0);
    let mut names = vec![0u8];
    let mut headers = vec![[0u8; 64]];
    let mut add = |name: &str, offset: usize, size: usize, names: &mut Vec<u8>| {
        let mut header = [0u8; 64];
        header[0..4].copy_from_slice(&(names.len() as u32).to_le_bytes());
        header[0x18..0x20].copy_from_slice(&(offset as u64).to_le_bytes());
        header[0x20..0x28].copy_from_slice(&(size as u64).to_le_bytes());
        names.extend_from_slice(name.as_bytes());
        names.push(0);
        headers.push(header);
    };
    for (name, content) in sections {
        out.resize(out.len().next_multiple_of(16), 0);
        add(name, out.len(), content.len(), &mut names);
        out.extend_from_slice(content);
    }
    let length = names.len() + ".shstrtab".len() + 1;
    add(".shstrtab", out.len(), length, &mut names);
    out.extend_from_slice(&names);
    let table = out.len() as u64;
    out[0x28..0x30].copy_from_slice(&table.to_le_bytes());
    out[0x3a..0x3c].copy_from_slice(&64u16.to_le_bytes());
    out[0x3c..0x3e].copy_from_slice(&(headers.len() as u16).to_le_bytes());
    out[0x3e..0x40].copy_from_slice(&(headers.len() as u16 - 1).to_le_bytes());
    headers.iter().for_each(|header| out.extend_from_slice(header));
    out
}

/// The section that Go's linker writes since 1.18.
pub(super) fn go_section(version: &str, modules: &str) -> Vec<u8> {
    let mut out = b"\xff Go buildinf:\x08\x02".to_vec();
    out.resize(32, 0);
    let info = format!("0123456789abcdef{modules}0123456789abcdef");
    for text in [version, &info] {
        let mut length = text.len();
        while length >= 0x80 {
            out.push(length as u8 | 0x80);
            length >>= 7;
        }
        out.push(length as u8);
        out.extend_from_slice(text.as_bytes());
    }
    out
}

/// A zip archive; every second member is deflated.
pub(super) fn zip(members: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for (at, (name, content)) in members.iter().enumerate() {
        let mut packed = content.to_vec();
        let method = (at % 2 * 8) as u16;
        if method == 8 {
            let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(content).unwrap();
            packed = encoder.finish().unwrap();
        }
        let offset = out.len() as u32;
        let facts = |to: &mut Vec<u8>| {
            to.extend_from_slice(&method.to_le_bytes());
            to.extend_from_slice(&[0; 4]);
            to.extend_from_slice(&crc32fast::hash(content).to_le_bytes());
            to.extend_from_slice(&(packed.len() as u32).to_le_bytes());
            to.extend_from_slice(&(content.len() as u32).to_le_bytes());
            to.extend_from_slice(&(name.len() as u16).to_le_bytes());
        };
        out.extend_from_slice(b"PK\x03\x04\x14\0\0\0");
        facts(&mut out);
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(&packed);
        directory.extend_from_slice(b"PK\x01\x02\x14\0\x14\0\0\0");
        facts(&mut directory);
        directory.extend_from_slice(&[0; 12]);
        directory.extend_from_slice(&offset.to_le_bytes());
        directory.extend_from_slice(name.as_bytes());
    }
    let (at, size, count) = (out.len() as u32, directory.len() as u32, members.len() as u16);
    out.extend_from_slice(&directory);
    out.extend_from_slice(b"PK\x05\x06\0\0\0\0");
    out.extend_from_slice(&count.to_le_bytes());
    out.extend_from_slice(&count.to_le_bytes());
    out.extend_from_slice(&size.to_le_bytes());
    out.extend_from_slice(&at.to_le_bytes());
    out.extend_from_slice(&[0; 2]);
    out
}

fn listed(found: &Found) -> Vec<String> {
    found.packages.iter().map(|package| format!("{} {}", package.full_name(), package.version)).collect()
}

fn program(bytes: &[u8]) -> Option<Found> {
    let mut file = FileReader::of(bytes);
    let elf = Elf::read(&mut file).unwrap()?;
    golang::build_info(&mut file, &elf).unwrap().or_else(|| cargo::auditable(&mut file, &elf).unwrap())
}

fn auditable(json: &str) -> Vec<u8> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(json.as_bytes()).unwrap();
    elf(&[(".text", &[0; 64]), (".dep-v0", &encoder.finish().unwrap())])
}

const MODULES: &str = "path\texample.org/app\nmod\texample.org/app\t(devel)\t\ndep\tgolang.org/x/sys\tv0.1.0\th1:x=\n\
    dep\tgithub.com/old/thing\tv1.0.0\n=>\tgithub.com/new/thing\tv1.2.3\th1:y=\ndep\tlocal.org/m\tv0.0.0\n=>\t./m\t\n\
    build\tGOOS=linux\n";

#[test]
fn the_modules_of_a_go_program_are_those_it_was_linked_with() {
    let file = elf(&[(".text", &[0; 64]), (".go.buildinfo", &go_section("go1.22.1", MODULES))]);
    let found = program(&file).unwrap();
    let wanted =
        ["stdlib 1.22.1", "example.org/app ", "golang.org/x/sys v0.1.0", "github.com/new/thing v1.2.3"];
    assert_eq!(listed(&found), [&wanted[..], &["local.org/m v0.0.0"]].concat());
    let purl = found.packages[3].purl();
    assert_eq!(purl, "pkg:golang/github.com/new/thing@v1.2.3");
}

#[test]
fn crates_that_only_take_part_in_building_are_left_out() {
    let file = auditable(
        r#"{"packages":[{"name":"serde","version":"1.0.1","source":"crates.io"},
            {"name":"cc","version":"1.0.0","source":"crates.io","kind":"build"}]}"#,
    );
    assert_eq!(listed(&program(&file).unwrap()), ["serde 1.0.1"]);
    assert!(!program(&auditable("{")).unwrap().problems.is_empty());
}

#[test]
fn archives_in_java_archives_are_read() {
    let pom = b"groupId=org.example\nartifactId=inner\nversion=2.1\n";
    let inner = zip(&[("a", b""), ("META-INF/maven/org.example/inner/pom.properties", pom)]);
    let manifest = b"Manifest-Version: 1.0\r\nImplementation-Version: 9\r\nBundle-SymbolicName: org.sample.ou\r\n ter\r\n\r\nName: x\r\n";
    let outer = zip(&[("META-INF/MANIFEST.MF", manifest), ("BOOT-INF/lib/inner-2.1.jar", &inner)]);
    let found = java::archive(b"opt/outer.jar", &mut FileReader::of(&outer));
    assert_eq!(listed(&found), ["org.sample:outer 9", "org.example:inner 2.1"]);
    assert!(found.problems.is_empty(), "{found:?}");
    // A script that starts it, in front of it.
    let started = [b"#!/bin/sh\nexec java -jar $0\n".to_vec(), outer].concat();
    assert_eq!(java::archive(b"opt/outer.jar", &mut FileReader::of(&started)).packages, found.packages);
}

#[test]
fn an_archive_that_unpacks_to_far_more_than_it_says_is_stopped() {
    let bomb = vec![0u8; 4 << 20];
    let mut archive = zip(&[("a", b""), ("META-INF/MANIFEST.MF", &bomb)]);
    let found = java::archive(b"bomb-1.0.jar", &mut FileReader::of(&archive));
    assert!(found.problems[0].contains("MANIFEST.MF in it"), "{found:?}");
    assert_eq!(listed(&found), ["bomb 1.0"]);
    // It lies about its size.
    let size = (4u32 << 20).to_le_bytes();
    while let Some(at) = archive.windows(4).position(|window| window == size) {
        archive[at..at + 4].copy_from_slice(&10u32.to_le_bytes());
    }
    assert_eq!(java::archive(b"bomb-1.0.jar", &mut FileReader::of(&archive)).problems, found.problems);
    let mut nested = zip(&[("x", b"")]);
    for _ in 0..20 {
        nested = zip(&[("inner-1.jar", &nested)]);
    }
    let found = java::archive(b"deep.jar", &mut FileReader::of(&nested));
    assert!(found.packages.len() < 10 && found.problems[0].contains("nested too deeply"), "{found:?}");
}

#[test]
fn cut_and_changed_files_give_notes_and_never_a_panic() {
    let go = elf(&[(".text", &[0; 64]), (".go.buildinfo", &go_section("go1.22.1", MODULES))]);
    let rust = auditable(r#"{"packages":[{"name":"serde","version":"1.0.1"}]}"#);
    let pom = b"groupId=g\nartifactId=a\nversion=1\n";
    let inner = zip(&[("META-INF/maven/g/a/pom.properties", pom)]);
    let jar = zip(&[("META-INF/MANIFEST.MF", b"A: b\n"), ("lib/a.jar", &inner)]);
    for whole in [&go, &rust, &jar] {
        for cut in 0..whole.len() {
            let _ = (program(&whole[..cut]), java::archive(b"a.jar", &mut FileReader::of(&whole[..cut])));
            let mut changed = whole.clone();
            changed[cut] ^= 0x80;
            let _ = (program(&changed), java::archive(b"a.jar", &mut FileReader::of(&changed)));
        }
    }
    assert!(!java::archive(b"a.jar", &mut FileReader::of(&jar[..jar.len() - 1])).problems.is_empty());
}

#[test]
fn text_formats_are_read_as_their_managers_write_them() {
    let apk_text = b"C:Q1x=\nP:musl\nV:1.2.5-r0\nA:x86_64\nL:MIT\no:musl\nm:A <a@example.org>\nF:lib\n\nP:zlib\nV:1.3\n\n";
    assert_eq!(listed(&apk::installed(apk_text)), ["musl 1.2.5-r0", "zlib 1.3"]);
    let wheel = b"Metadata-Version: 2.1\nName: Foo_Bar\nVersion: 1.0\nLicense: UNKNOWN TEXT\nClassifier: License :: OSI Approved :: MIT License\n\nName: body\n";
    let found = python::metadata(wheel);
    assert_eq!(found.packages[0].purl(), "pkg:pypi/foo-bar@1.0");
    let module = br#"{"name":"@scope/thing","version":"1.0.0","license":{"type":"MIT"}}"#;
    assert_eq!(npm::package_json(module).packages[0].purl(), "pkg:npm/%40scope/thing@1.0.0");
    assert!(npm::package_json(br#"{"type":"module"}"#).packages.is_empty());
    let spec = b"Gem::Specification.new do |s|\n  s.name = \"rake\".freeze\n  s.version = \"13.0.6\"\n  s.licenses = [\"MIT\".freeze]\n  s.required_ruby_version = Gem::Requirement.new(\">= 2\")\nend\n";
    let found = gem::specification(spec);
    assert_eq!(
        (listed(&found), &found.packages[0].licenses),
        (vec!["rake 13.0.6".into()], &vec!["MIT".into()])
    );
    let vendor =
        br#"{"packages":[{"name":"monolog/monolog","version":"2.9.1","license":["MIT"]}],"dev":false}"#;
    assert_eq!(listed(&composer::installed(vendor)), ["monolog/monolog 2.9.1"]);
    let deps = b"\xef\xbb\xbf{\"libraries\":{\"App/1.0.0\":{\"type\":\"project\"},\"Newtonsoft.Json/13.0.1\":{\"type\":\"package\"}}}";
    assert_eq!(listed(&dotnet::deps(deps)), ["Newtonsoft.Json 13.0.1"]);
}

#[test]
fn lock_files_of_every_version_list_what_is_no_development_tool() {
    let new = br#"{"packages":{"":{"name":"app"},"node_modules/a":{"version":"1.0.0"},
        "node_modules/a/node_modules/@s/b":{"version":"2.0.0"},"node_modules/c":{"version":"3.0.0","dev":true}}}"#;
    assert_eq!(listed(&lock::package_lock(new)), ["a 1.0.0", "@s/b 2.0.0"]);
    let old = br#"{"dependencies":{"a":{"version":"1.0.0","dependencies":{"b":{"version":"2.0.0"}}}}}"#;
    assert_eq!(listed(&lock::package_lock(old)), ["a 1.0.0", "b 2.0.0"]);
    let yarn = b"# yarn lockfile v1\n\n\"@s/b@^2.0.0\", \"@s/b@^2.1.0\":\n  version \"2.1.0\"\n\na@^1:\n  version \"1.0.0\"\n  dependencies:\n    version \"9\"\n";
    assert_eq!(listed(&lock::yarn(yarn)), ["@s/b 2.1.0", "a 1.0.0"]);
    let berry = b"__metadata:\n  version: 6\n\n\"a@npm:^1\":\n  version: 1.0.1\n\n\"app@workspace:.\":\n  version: 0.0.0-use.local\n";
    assert_eq!(listed(&lock::yarn(berry)), ["a 1.0.1"]);
}

#[test]
fn package_urls_and_cpes_escape_what_has_a_meaning() {
    let mut package = Package::new(Ecosystem::Deb, "libstdc++6", "1:2.3+b1~x");
    package.namespace = Some("debian".into());
    package.qualifiers.insert("arch", "amd64".into());
    assert_eq!(package.purl(), "pkg:deb/debian/libstdc%2B%2B6@1:2.3%2Bb1~x?arch=amd64");
    assert_eq!(package.cpe(), "cpe:2.3:a:libstdc\\+\\+6:libstdc\\+\\+6:1\\:2.3\\+b1\\~x:*:*:*:*:*:*:*");
}
