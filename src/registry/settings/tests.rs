//! What the files mean, and what is made of what they should not contain.

use super::*;

type Outcome = Result<(), RegistryError>;

fn applied(text: &str, host: &str, repository: &str) -> Result<RegistryOptions, RegistryError> {
    let mut options = RegistryOptions::default();
    Settings::parse(Path::new("/etc/x/registries.toml"), text)?.apply(host, repository, &mut options)?;
    Ok(options)
}

#[test]
fn mirrors_and_ways_to_reach_a_host_are_read() -> Outcome {
    let text = r#"
        [registry."reg.example.test"]
        mirrors = ["m.example.test:5000/cache", "https://n.example.test"]
        ca = "own.pem"
        [registry."m.example.test:5000"]
        http = true
    "#;
    let options = applied(text, "reg.example.test", "a/b")?;
    let [first, second] = options.mirrors.as_slice() else { panic!("{options:?}") };
    assert!(first.http && first.address == "m.example.test:5000/cache");
    assert_eq!(second, &Location::from("https://n.example.test"));
    let location = options.location.unwrap_or_default();
    assert_eq!(location.ca.as_deref(), Some(Path::new("/etc/x/own.pem")));
    assert_eq!(applied(text, "other.example.test", "a")?.mirrors, []);
    assert!(applied(text, "m.example.test:5000", "a")?.location.is_some_and(|location| location.http));
    Ok(())
}

#[test]
fn containers_registries_are_read() -> Outcome {
    let text = r#"
        unqualified-search-registries = ["reg.example.test"]
        [[registry]]
        prefix = "reg.example.test/team"
        location = "inner.example.test/moved"
        [[registry.mirror]]
        location = "m.example.test/cache"
        insecure = true
        pull-from-mirror = "digest-only"
        [[registry]]
        location = "bad.example.test"
        blocked = true
        [[registry]]
        prefix = "*.local.test"
        [[registry.mirror]]
        location = "m.example.test"
        [[registry]]
        location = "plain.example.test"
        insecure = true
    "#;
    let options = applied(text, "reg.example.test", "team/app")?;
    let moved = options.location.unwrap_or_default();
    assert_eq!((moved.address.as_str(), moved.strip.as_str()), ("inner.example.test/moved", "team"));
    assert!(options.mirrors.iter().all(|mirror| mirror.insecure && mirror.digest_only));
    assert_eq!(applied(text, "reg.example.test", "teams")?.location, None);
    assert!(matches!(applied(text, "bad.example.test", "a"), Err(RegistryError::Blocked { .. })));
    assert_eq!(applied(text, "a.local.test:5000", "a")?.mirrors.len(), 1);
    assert_eq!(applied(text, "local.test", "a")?.mirrors.len(), 0);
    assert!(applied(text, "plain.example.test", "a")?.location.is_some_and(|at| at.insecure));
    Ok(())
}

#[test]
fn sources_can_be_kept_off_this_machine() -> Outcome {
    let read = |text: &str| Settings::parse(Path::new("/etc/x/registries.toml"), text);
    assert_eq!(read("source-network = \"remote\"")?.source_network(), SourceNetwork::Remote);
    assert_eq!(read("")?.source_network(), SourceNetwork::Any);
    Ok(())
}

#[test]
fn mistakes_are_named() {
    for (text, word) in [
        ("[registry.\"a.test\"]\nmirror = []", "mirror"),
        ("[registry.\"a.test/b\"]\n", "a.test/b"),
        ("nonsense", "nonsense"),
        ("source-network = \"none\"", "remote"),
    ] {
        let error = applied(text, "a.test", "b").err().map(|error| error.to_string());
        assert!(error.as_deref().is_some_and(|error| error.contains(word)), "{text}: {error:?}");
    }
}

fn noticed(
    text: &str,
    host: &str,
    repository: &str,
) -> Result<(RegistryOptions, Vec<String>), RegistryError> {
    let mut options = RegistryOptions::default();
    let settings = Settings::parse(Path::new("/etc/x/registries.conf"), text)?;
    let notices = settings.apply(host, repository, &mut options)?;
    Ok((options, notices))
}

#[test]
fn wildcards_cover_subdomains_and_lead_elsewhere() -> Outcome {
    let text = r#"
        [[registry]]
        prefix = "*.wide.test"
        location = "inner.test/moved"
        [[registry]]
        prefix = "*.wide.test/team"
        location = "team.test"
        [[registry]]
        prefix = "*.plain.test"
        insecure = true
        [[registry]]
        prefix = "*.port.test"
        location = "inner.test"
        [[registry.mirror]]
        location = "m.test"
    "#;
    let at = |host: &str, repository: &str| {
        let location = applied(text, host, repository)?.location.unwrap_or_default();
        Ok::<_, RegistryError>((location.address, location.strip, location.insecure))
    };
    let to = |address: &str, strip: &str, insecure| (address.to_owned(), strip.to_owned(), insecure);
    assert_eq!(at("a.b.wide.test", "x/y")?, to("inner.test/moved", "", false));
    assert_eq!(at("a.wide.test", "team/y")?, to("team.test", "team", false));
    assert_eq!(at("a.wide.test", "teams/y")?, to("inner.test/moved", "", false));
    assert_eq!(at("wide.test", "x")?, to("", "", false));
    assert_eq!(at("b.plain.test:5000", "x")?, to("b.plain.test:5000", "", true));
    // The port is no part of the prefix, so it stays.
    assert_eq!(at("b.port.test:5000", "x")?, to("inner.test:5000", "", false));
    assert_eq!(applied(text, "b.port.test:5000", "x")?.mirrors, ["m.test:5000".into()]);
    assert!(at("b.wide.test:5000", "x").is_err());
    Ok(())
}

#[test]
fn a_prefix_without_a_port_covers_all_ports() -> Outcome {
    let text = "[[registry]]\nlocation = \"plain.test\"\ninsecure = true";
    let at = |host: &str| Ok::<_, RegistryError>(applied(text, host, "x")?.location.map(|at| at.address));
    assert_eq!(at("plain.test:5000")?.as_deref(), Some("plain.test:5000"));
    assert_eq!(at("plain.test.org")?, None);
    // In registries.toml a host is one with its port.
    assert_eq!(applied("[registry.\"plain.test\"]\nhttp = true", "plain.test:5000", "x")?.location, None);
    Ok(())
}

#[test]
fn mirrors_may_be_for_tags_or_digests_alone() -> Outcome {
    let mirror = |usage: &str| {
        format!("[[registry]]\nlocation = \"a.test\"\n[[registry.mirror]]\nlocation = \"m.test\"\n{usage}")
    };
    for (usage, expected) in [
        ("", (false, false)),
        ("pull-from-mirror = \"all\"", (false, false)),
        ("pull-from-mirror = \"digest-only\"", (true, false)),
        ("pull-from-mirror = \"tag-only\"", (false, true)),
    ] {
        let (options, notices) = noticed(&mirror(usage), "a.test", "x")?;
        let found: Vec<_> = options.mirrors.iter().map(|at| (at.digest_only, at.tag_only)).collect();
        assert_eq!((found, notices), (vec![expected], vec![]), "{usage}");
    }
    // What is not understood keeps a mirror from being asked for what it may not serve.
    let (options, notices) = noticed(&mirror("pull-from-mirror = \"some\""), "a.test", "x")?;
    assert!(options.mirrors.is_empty() && notices[0].contains("some"), "{notices:?}");
    Ok(())
}

#[test]
fn version_1_lists_insecure_and_blocked_registries() -> Outcome {
    let text = "[registries.search]\nregistries = ['x.test']\n[registries.insecure]\nregistries = \
                ['plain.test', 'bad.test']\n[registries.block]\nregistries = ['bad.test']\n";
    let (options, notices) = noticed(text, "plain.test", "a")?;
    assert!(options.location.is_some_and(|at| at.insecure) && notices.is_empty());
    assert!(matches!(applied(text, "bad.test", "a"), Err(RegistryError::Blocked { .. })));
    assert_eq!(applied(text, "x.test", "a")?.location, None);
    Ok(())
}

#[test]
fn what_is_not_understood_is_noticed_where_it_counts() -> Outcome {
    let text = r#"
        credential-helpers = ["secretservice"]
        [[registry]]
        location = "a.test"
        insecure = "yes"
        colour = "green"
        [[registry]]
        prefix = "b.test/x:tag"
        location = "c.test"
        [[registry]]
        prefix = "b.test"
        location = "https://d.test"
        [[registry]]
        insecure = true
    "#;
    let everywhere = ["credential-helpers", "without prefix"];
    for (host, repository, words) in [
        ("a.test", "x", &["insecure", "colour"][..]),
        ("b.test", "x", &["b.test/x:tag names one image", "scheme"]),
        ("b.test", "y", &["scheme"]),
        ("other.test", "x", &[]),
    ] {
        let (options, notices) = noticed(text, host, repository)?;
        assert_eq!(options.location, None, "{host}");
        let words: Vec<_> = everywhere.iter().chain(words).collect();
        assert_eq!(notices.len(), words.len(), "{host}: {notices:?}");
        for word in words {
            assert!(notices.iter().any(|notice| notice.contains(word)), "{word}: {notices:?}");
        }
    }
    Ok(())
}

#[test]
fn short_names_stay_dockers_and_their_aliases_become_hints() -> Outcome {
    let text = "[aliases]\napp = 'corp.test/team/app'\nsame = 'docker.io/library/same'\nback = ''";
    let (options, notices) = noticed(text, "docker.io", "library/app")?;
    assert!(options.location.is_none() && notices[0].contains("corp.test/team/app"), "{notices:?}");
    assert!(options.alias.is_some_and(|alias| alias.contains("corp.test/team/app")));
    for name in ["library/same", "library/back", "library/other", "app"] {
        let (options, notices) = noticed(text, "docker.io", name)?;
        assert!(options.alias.is_none() && notices.is_empty(), "{name}: {notices:?}");
    }
    // Distributions come with long lists, which nobody chose.
    let list = Settings::parse(Path::new("/etc/x/000-shortnames.conf"), text)?;
    let mut options = RegistryOptions::default();
    assert_eq!(list.apply("docker.io", "library/app", &mut options)?, Vec::<String>::new());
    assert!(options.alias.is_some());
    Ok(())
}

/// Files of containers' tools below a directory, and the settings that they make.
fn of_files(files: &[(&str, &str)]) -> Result<Settings, Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    for (name, text) in files {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().ok_or("a name")?)?;
        std::fs::write(path, text)?;
    }
    let at = |name: &str| Some(dir.path().join(name));
    let files = ContainersFiles { user: at("user"), system: at("system") };
    Ok(Settings::read(None, &[dir.path().join("none.toml")], &files)?)
}

/// Where a host leads.
fn leads(settings: &Settings, host: &str) -> Result<String, RegistryError> {
    let mut options = RegistryOptions::default();
    settings.apply(host, "x", &mut options)?;
    Ok(options.location.map(|at| at.address).unwrap_or_default())
}

#[test]
fn drop_ins_replace_what_files_before_them_say() -> Result<(), Box<dyn std::error::Error>> {
    let registry = |prefix: &str, to: &str| format!("[[registry]]\nprefix = '{prefix}'\nlocation = '{to}'\n");
    let main = registry("a.test", "main.test") + &registry("b.test", "main.test");
    let (second, last) = (registry("b.test", "second.test"), registry("c.test", "user.test"));
    let first = registry("b.test", "first.test") + &registry("c.test", "first.test");
    let mut files = vec![
        ("system/registries.conf", main.as_str()),
        ("system/registries.conf.d/2.conf", &second),
        ("system/registries.conf.d/1.conf", &first),
        ("system/registries.conf.d/3.conf.bak", "nonsense"),
        ("user/registries.conf.d/0.conf", &last),
    ];
    let settings = of_files(&files)?;
    let found = ["a.test", "b.test", "c.test"].map(|host| leads(&settings, host).unwrap_or_default());
    assert_eq!(found, ["main.test", "second.test", "user.test"]);
    // The user's file stands for all of the machine's.
    files.push(("user/registries.conf", "unqualified-search-registries = ['a.test']"));
    let settings = of_files(&files)?;
    let found = ["a.test", "b.test", "c.test"].map(|host| leads(&settings, host).unwrap_or_default());
    assert_eq!(found, ["", "", "user.test"]);
    Ok(())
}

#[test]
fn a_broken_file_of_other_tools_fails_what_asks_a_registry_and_nothing_else()
-> Result<(), Box<dyn std::error::Error>> {
    for name in ["system/registries.conf", "user/registries.conf", "system/registries.conf.d/x.conf"] {
        let settings = of_files(&[(name, "[[registry]\n")])?;
        let error = leads(&settings, "a.test").err().ok_or("it was used")?.to_string();
        assert!(error.contains(name), "{error}");
    }
    Ok(())
}
