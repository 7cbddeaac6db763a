//! What one file holds.
//!
//! Every rule has a fixed part: the label of a key, the prefix of a token, the name of a variable. One pass over the
//! file finds those, and only the lines around them are looked at. Files of tools and of environment variables, which
//! are small, are also read line by line.

use std::sync::OnceLock;

use aho_corasick::{AhoCorasick, MatchKind};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use memchr::{memchr, memchr_iter, memrchr};
use serde_json::Value;

use super::keys::{self, Key};
use super::lines::{assignment, is_secret_name, is_secret_value, password_in_address};
use super::names::{Class, Tool};
use super::tokens::{self, SHAPES, is_placeholder};

/// Findings of one file that are kept.
const MOST: usize = 20;
/// Longer lines are generated: only what has a checksum counts there.
const MAX_LINE: usize = 4096;
/// A file with a NUL among its first bytes is not text.
const HEAD: usize = 8000;

/// Names of the secret half of a key pair of AWS.
const AWS: &[&str] = &[
    "aws_secret_access_key",
    "AWS_SECRET_ACCESS_KEY",
    "aws_secret_key",
    "AWS_SECRET_KEY",
    "awsSecretKey",
    "awsSecretAccessKey",
    "secretAccessKey",
    "SecretAccessKey",
];

/// What a fixed part begins.
#[derive(Clone, Copy)]
enum Mark {
    Key,
    Token(usize),
    Aws,
}

/// The fixed parts of all rules, in one automaton.
struct Marks {
    automaton: AhoCorasick,
    meaning: Vec<Mark>,
}

fn marks() -> Option<&'static Marks> {
    static MARKS: OnceLock<Option<Marks>> = OnceLock::new();
    let make = || {
        let mut all = vec![(keys::BEGIN, Mark::Key)];
        all.extend(SHAPES.iter().enumerate().map(|(at, shape)| (shape.prefix, Mark::Token(at))));
        all.extend(AWS.iter().map(|name| (*name, Mark::Aws)));
        let (parts, meaning): (Vec<_>, Vec<_>) = all.into_iter().unzip();
        let automaton = AhoCorasick::builder().match_kind(MatchKind::LeftmostFirst).build(parts).ok()?;
        Some(Marks { automaton, meaning })
    };
    MARKS.get_or_init(make).as_ref()
}

/// Line numbers from 1, and kinds; one of each line.
pub(super) fn find(class: Class, content: &[u8]) -> Vec<(usize, &'static str)> {
    if memchr(0, &content[..content.len().min(HEAD)]).is_some() {
        return Vec::new();
    }
    let mut found = match class {
        Class::Credentials(Tool::Docker) => docker(content),
        Class::Credentials(_) | Class::Environment => lines(class, content),
        Class::Key | Class::Text => Vec::new(),
    };
    found.extend(marked(content));
    found.sort_by_key(|(line, _)| *line);
    found.dedup_by_key(|(line, _)| *line);
    found.truncate(MOST);
    found
}

/// Keys and tokens, by their fixed parts.
fn marked(content: &[u8]) -> Vec<(usize, &'static str)> {
    let Some(marks) = marks() else { return Vec::new() };
    let mut found = Vec::new();
    // Up to where lines are counted, and where the last finding ends.
    let (mut line, mut counted, mut done) = (1, 0, 0);
    for hit in marks.automaton.find_iter(content) {
        if found.len() >= MOST {
            break;
        }
        if hit.start() < done {
            continue;
        }
        let begin = memrchr(b'\n', &content[..hit.start()]).map_or(0, |at| at + 1);
        let end = memchr(b'\n', &content[hit.end()..]).map_or(content.len(), |at| hit.end() + at);
        let is_long = end - begin > MAX_LINE;
        let (before, rest) = (&content[begin..hit.start()], &content[hit.end()..end]);
        let kind = match marks.meaning[hit.pattern().as_usize()] {
            Mark::Key if is_long => None,
            Mark::Key => keys::read(&content[hit.start()..]).map(|Key { kind, length }| {
                done = hit.start() + length;
                kind
            }),
            Mark::Token(at) => {
                let shape = &SHAPES[at];
                (!is_long || shape.has_checksum()).then(|| tokens::fits(shape, before, rest)).flatten()
            }
            Mark::Aws if is_long => None,
            Mark::Aws => aws(rest),
        };
        let Some(kind) = kind else { continue };
        line += memchr_iter(b'\n', &content[counted..begin]).count();
        counted = begin;
        done = done.max(end);
        found.push((line, kind));
    }
    found
}

/// The secret half of a key pair of AWS, behind a name for it: 40 digits of base 64.
fn aws(rest: &[u8]) -> Option<&'static str> {
    let between = |byte: &u8| byte.is_ascii_whitespace() || b"=:\"'>".contains(byte);
    let digit = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'+');
    let gap = rest.iter().take_while(|byte| between(byte)).count();
    let digits = &rest[gap..];
    let length = digits.iter().take_while(|byte| digit(byte)).count();
    let value = std::str::from_utf8(&digits[..length]).ok()?;
    (length == 40 && tokens::is_random(value)).then_some("an AWS secret key")
}

/// What lines say of themselves, in a file where they may.
fn lines(class: Class, content: &[u8]) -> Vec<(usize, &'static str)> {
    let text = String::from_utf8_lossy(content);
    let says = |line: &str| match class {
        Class::Environment => assignment(line, &['='])
            .filter(|(name, value)| is_secret_name(name) && is_secret_value(value))
            .map(|_| "a password or key"),
        Class::Credentials(tool) => of_tool(tool, line),
        Class::Key | Class::Text => None,
    };
    let all = text.lines().enumerate().filter(|(_, line)| line.len() <= MAX_LINE);
    all.filter_map(|(at, line)| says(line).map(|kind| (at + 1, kind))).take(MOST).collect()
}

fn of_tool(tool: Tool, line: &str) -> Option<&'static str> {
    let has = |names: &[&str], separators: &[char]| {
        assignment(line, separators).is_some_and(|(name, value)| {
            let name = name.rsplit([':', '/']).next().unwrap_or(name).trim();
            names.iter().any(|known| known.eq_ignore_ascii_case(name))
                && value.len() >= 6
                && !is_placeholder(value)
        })
    };
    let found = match tool {
        Tool::Npm => {
            has(&["_authToken", "_auth", "_password"], &['='])
                || has(&["npmAuthToken", "npmAuthIdent"], &[':'])
        }
        Tool::Passwords => has(&["password"], &['=', ':']) || password_in_address(line),
        Tool::Netrc => {
            let mut words = line.split_whitespace().skip_while(|word| *word != "password").skip(1);
            words.next().is_some_and(|value| value.len() >= 4 && !is_placeholder(value))
        }
        Tool::Aws => has(&["aws_secret_access_key", "aws_session_token"], &['=']),
        Tool::Git => password_in_address(line),
        Tool::Postgres => {
            let fields: Vec<&str> = line.split(':').collect();
            !line.starts_with('#') && fields.len() == 5 && !is_placeholder(fields[4])
        }
        Tool::Kube => has(&["client-key-data", "token", "password"], &[':']),
        Tool::Tokens => {
            has(&["token", "oauth_token", "secret-key"], &['=', ':']) || line.contains("rubygems_api_key:")
        }
        Tool::Docker => false,
    };
    found.then_some("stored credentials")
}

/// The line of the first login in a configuration of Docker.
fn docker(content: &[u8]) -> Vec<(usize, &'static str)> {
    let login = || {
        let value: Value = serde_json::from_slice(content).ok()?;
        let hosts = value["auths"].as_object().or(value.as_object())?;
        let secret = |host: &Value| {
            ["auth", "identitytoken", "registrytoken", "password"].into_iter().find_map(|key| {
                let text = host[key].as_str().filter(|text| text.len() >= 6 && !is_placeholder(text))?;
                // `auth` is the user's name, a colon and the password.
                let decoded = STANDARD.decode(text).unwrap_or_default();
                let password = decoded.splitn(2, |byte| *byte == b':').nth(1);
                let is_real = key != "auth" || password.is_some_and(|password| !password.is_empty());
                is_real.then(|| text.to_owned())
            })
        };
        hosts.values().find_map(secret)
    };
    let Some(found) = login() else { return Vec::new() };
    let at = memchr::memmem::find(content, found.as_bytes()).unwrap_or(0);
    vec![(1 + memchr_iter(b'\n', &content[..at]).count(), "a registry's password")]
}
