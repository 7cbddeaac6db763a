use proptest::prelude::*;

use super::git_url::{check_reference, clean_subdir};
use super::*;

const SHA: &str = "0123456789abcdef0123456789abcdef01234567";

fn git(text: &str) -> Option<GitUrl> {
    match add_source(text) {
        Ok(SourceKind::Git(url)) => Some(url),
        _ => None,
    }
}

/// Remote, reference, subdirectory.
fn parts(text: &str) -> (String, String, String) {
    let url = match context_source(text) {
        Ok(SourceKind::Git(url)) => url,
        other => panic!("{text}: {other:?}"),
    };
    (url.to_string(), url.reference.unwrap_or_default(), url.subdir.unwrap_or_default())
}

fn kind(source: Result<SourceKind, RemoteError>) -> &'static str {
    match source {
        Ok(SourceKind::Git(_)) => "git",
        Ok(SourceKind::Http(_)) => "http",
        Ok(SourceKind::None) => "none",
        Err(_) => "error",
    }
}

#[test]
fn what_a_source_is_follows_the_reference() {
    for (text, add, context) in [
        ("https://example.test/a.git", "git", "git"),
        ("https://example.test/a.git#main", "git", "git"),
        ("https://example.test/a.git?ref=main", "git", "git"),
        ("https://example.test/a.gi%74", "git", "git"),
        ("HTTPS://example.test/a.git", "git", "git"),
        ("https://example.test/a.git/", "http", "http"),
        ("https://example.test/a?x=.git", "http", "http"),
        ("https://example.test/a.tar.gz", "http", "http"),
        ("http://example.test", "http", "http"),
        ("git://example.test/a", "git", "git"),
        ("ssh://git@example.test:22/a", "git", "git"),
        ("git@example.test:a/b", "git", "git"),
        ("u@a.b:c", "git", "git"),
        ("a.example:c", "none", "none"),
        ("a:b", "none", "none"),
        ("github.com/a/b", "none", "git"),
        ("github.com", "none", "none"),
        ("./github.com/a", "none", "none"),
        ("../x.git", "none", "none"),
        ("x.git", "none", "none"),
        ("file:///tmp/x.git", "none", "none"),
        ("ftp://example.test/x", "none", "none"),
        ("ext::sh -c id", "none", "none"),
        ("ext::u@h:p", "none", "none"),
        ("-u@h:p", "none", "none"),
        ("u@-h:p", "none", "none"),
        ("u@h:", "error", "error"),
        ("u@h::p", "error", "error"),
        ("u@h:-p", "error", "error"),
        ("http://", "error", "error"),
        ("http:///x", "error", "error"),
        ("http://a b/x", "error", "error"),
        ("http://h:/x", "http", "http"),
        ("https://h:/a.git", "git", "git"),
        ("http://:/x", "error", "error"),
        ("http://h::/x", "error", "error"),
        ("http://h:99999/x", "error", "error"),
        ("http://h:0/x", "error", "error"),
        ("ssh://-oProxyCommand=id/x", "error", "error"),
        ("ssh://-oProxyCommand=id@h/x", "error", "error"),
        ("ssh://u:p@h/x", "error", "error"),
        ("ssh://h", "error", "error"),
        ("git://u@h/x", "error", "error"),
        ("https://h/a.git\n", "error", "error"),
        ("https://h/\u{7}.git", "error", "error"),
    ] {
        assert_eq!(kind(add_source(text)), add, "ADD {text:?}");
        assert_eq!(kind(context_source(text)), context, "context {text:?}");
    }
}

#[test]
fn fragment_and_query_select_ref_and_directory() {
    let https = "https://example.test/a.git";
    let scp = "git@example.test:a/b.git";
    for (text, remote, reference, subdir) in [
        ("https://example.test/a.git", https, "", ""),
        ("https://example.test/a.git#", https, "", ""),
        ("https://example.test/a.git#main", https, "main", ""),
        ("https://example.test/a.git#main:sub/dir", https, "main", "sub/dir"),
        ("https://example.test/a.git#:sub/", https, "", "sub"),
        ("https://example.test/a.git#:/./sub//x/", https, "", "sub/x"),
        ("https://example.test/a.git#:/", https, "", ""),
        ("https://example.test/a.git#refs/pull/1/head", https, "refs/pull/1/head", ""),
        ("https://example.test/a.git#feat%2Fx", https, "feat/x", ""),
        ("https://user:pass@example.test/a.git#x", https, "x", ""),
        ("https://example.test/a.git?ref=main&subdir=s", https, "main", "s"),
        ("https://example.test/a.git?tag=v1", https, "refs/tags/v1", ""),
        ("https://example.test/a.git?tag=refs/tags/v1", https, "refs/tags/v1", ""),
        ("https://example.test/a.git?branch=b+c", "error", "", ""),
        ("https://example.test/a.git?branch=b%2Fc", https, "refs/heads/b/c", ""),
        ("https://example.test/a.git?ref=main#main:s", https, "main", "s"),
        ("https://example.test/a.git?commit=abc123", https, "", ""),
        ("https://example.test/a b.git", "https://example.test/a%20b.git", "", ""),
        ("https://example.test:8443/a.git", "https://example.test:8443/a.git", "", ""),
        ("http://[::1]:80/a.git", "http://[::1]:80/a.git", "", ""),
        ("git@example.test:a/b.git#main:s", scp, "main", "s"),
        ("git@example.test:a/b.git?branch=m", scp, "refs/heads/m", ""),
        ("git@example.test:/abs#x", "git@example.test:/abs", "x", ""),
        ("ssh://git@example.test/a#x:y", "ssh://git@example.test/a", "x", "y"),
        ("git://example.test/a#x", "git://example.test/a", "x", ""),
        ("github.com/a/b#main:s", "https://github.com/a/b", "main", "s"),
        ("github.com/a/b.git?ref=x", "https://github.com/a/b.git", "x", ""),
    ] {
        if remote == "error" {
            assert!(context_source(text).is_err(), "{text}");
            continue;
        }
        assert_eq!(parts(text), (remote.into(), reference.into(), subdir.into()), "{text}");
    }
}

#[test]
fn query_options_are_read_and_conflicts_and_strangers_refused() {
    let Some(url) = git(&format!(
        "https://h/a.git?commit={SHA}&submodules=false&keep-git-dir&mtime=commit&fetch-by-commit=1&ref=x"
    )) else {
        panic!("not git")
    };
    assert_eq!(url.checksum.as_deref(), Some(SHA));
    assert_eq!((url.submodules, url.keep_git_dir), (Some(false), Some(true)));
    assert_eq!((url.times, url.fetch_by_commit), (FileTimes::Commit, true));
    assert_eq!(git("https://h/a.git?checksum=ABC123").and_then(|url| url.checksum), Some("abc123".into()));
    for (query, reason) in [
        ("zork=1", "unexpected query \"zork\""),
        ("zork", "unexpected query \"zork\""),
        ("ref=", "query \"ref\" has no value"),
        ("ref=a&ref=b", "query \"ref\" has multiple values"),
        ("ref=a#b", "ref conflicts: \"b\" vs \"a\""),
        ("ref=a&tag=b", "ref conflicts: \"a\" vs \"refs/tags/b\""),
        ("tag=a&branch=a", "branch conflicts with tag"),
        ("subdir=a#:b", "subdir conflicts: \"b\" vs \"a\""),
        ("commit=abc&checksum=def", "checksum conflicts: \"abc\" vs \"def\""),
        ("commit=zz", "invalid checksum zz for Git URL, expected hex commit hash"),
        ("submodules=zz", "invalid submodules value: \"zz\""),
        ("keep-git-dir=2", "invalid keep-git-dir value: \"2\""),
        ("mtime=now", "invalid mtime value: \"now\""),
        ("fetch-by-commit=true", "fetch-by-commit needs commit="),
        ("commit=abc&fetch-by-commit=true", "fetch-by-commit needs commit="),
        ("subdir=../x", "must not contain \"..\""),
        ("ref=--upload-pack%3Did", "invalid ref"),
    ] {
        let text = format!("https://user:hunter2@h/a.git?{query}");
        let error = add_source(&text).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains(reason), "{query}: {error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
}

#[test]
fn refs_are_never_options_or_patterns() {
    for good in ["main", "v1.2", "a/b", "refs/heads/x", "HEAD", "#x", "a-b", "é"] {
        assert!(check_reference(good).is_ok(), "{good}");
    }
    for bad in [
        "",
        "-x",
        "--upload-pack=id",
        "a b",
        "a..b",
        "a:b",
        "a*",
        "a~1",
        "a^",
        "a?",
        "a[",
        "a\\b",
        "@",
        "a@{1}",
    ] {
        assert!(check_reference(bad).is_err(), "{bad}");
    }
    for bad in ["/a", "a/", "a//b", ".a", "a/.b", "a.lock", "a.", "a\nb"] {
        assert!(check_reference(bad).is_err(), "{bad}");
    }
}

#[test]
fn directories_never_lead_out() {
    for (text, clean) in
        [("a", Some("a")), ("/a/b/", Some("a/b")), ("./a/.", Some("a")), ("", None), ("/", None), (".", None)]
    {
        assert_eq!(
            clean_subdir(text).map(|dir| dir.unwrap_or_default()),
            Ok(clean.unwrap_or_default().into())
        );
    }
    for bad in ["..", "a/..", "../a", "/../a", "a/../../b", ".git", "a/.GIT/hooks", "a\0b", "a\nb"] {
        assert!(clean_subdir(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn credentials_are_never_shown() {
    for (text, shown) in [
        ("https://user:hunter2@h/a?b#c", "https://h/a?b#c"),
        ("https://user:hun@ter2@h:1/a", "https://h:1/a"),
        ("https://hunter2@h", "https://h"),
        ("https://h/a@b", "https://h/a@b"),
        ("git@h:p", "git@h:p"),
        ("plain/path", "plain/path"),
    ] {
        assert_eq!(without_credentials(text), shown);
    }
    let git = git("https://user:hunter2@h/a.git");
    assert!(!format!("{git:?}").contains("hunter2"));
    let http = HttpUrl::parse("https://user:hunter2@h/a").map(|url| format!("{url} {url:?}"));
    assert_eq!(http.ok().as_deref(), Some("https://h/a https://h/a"));
}

#[test]
fn the_name_of_a_download_is_the_end_of_its_path() {
    for (text, name) in [
        ("https://h/a/b.txt?x=/y", "b.txt"),
        ("https://h/a/b%20c.txt#d", "b c.txt"),
        ("https://h/dir/", "dir"),
        ("https://h/", "__unnamed__"),
        ("https://h", "__unnamed__"),
        ("https://h?x", "__unnamed__"),
        ("https://h/..", "__unnamed__"),
        ("https://h/a%2Fb", "b"),
        ("https://h/%00", "__unnamed__"),
        ("https://h/é b", "é b"),
    ] {
        assert_eq!(HttpUrl::parse(text).map(|url| url.file_name()).ok().as_deref(), Some(name), "{text}");
    }
    assert_eq!(
        HttpUrl::parse("http://[::1]:8/x").map(|url| url.host().to_owned()).ok().as_deref(),
        Some("::1")
    );
}

#[test]
fn checksums_are_of_three_kinds() {
    let hex = |length| "a".repeat(length);
    for good in [format!("sha256:{}", hex(64)), format!("sha384:{}", hex(96)), format!("sha512:{}", hex(128))]
    {
        assert_eq!(Checksum::parse(&good).map(|sum| sum.to_string()).ok(), Some(good));
    }
    for bad in [
        "",
        "sha256:",
        "md5:aa",
        &hex(64),
        &format!("sha256:{}", "A".repeat(64)),
        &format!("sha512:{}", hex(64)),
    ] {
        assert!(Checksum::parse(bad).is_err(), "{bad}");
    }
}

proptest! {
    #[test]
    fn any_text_is_read_without_panic_and_refs_stay_names(
        head in "(https?://|ssh://|git://|u@h:|github.com/)?",
        tail in "[a-z@:/?#=&%.~+ -]{0,30}(\\.git)?[#?]?[a-z@:/=&%.-]{0,20}",
    ) {
        for source in [add_source(&format!("{head}{tail}")), context_source(&format!("{head}{tail}"))] {
            if let Ok(SourceKind::Git(url)) = source {
                prop_assert!(!url.remote.starts_with('-'));
                prop_assert!(!url.reference.is_some_and(|name| name.starts_with('-')));
                prop_assert!(!url.subdir.is_some_and(|dir| dir.split('/').any(|part| part == "..")));
            }
        }
    }
}
