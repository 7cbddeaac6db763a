//! What a git that does all that a hostile repository wants can still touch. `alias` stands for whatever hole
//! makes it run the repository's commands.

use std::error::Error;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cancel::Cancel;
use crate::registry::Roots;
use crate::sandbox::{Confinement, landlock_abi};

use super::git_program::{Call, GitOptions, Program};
use super::git_reach::Place;
use super::git_url::GitUrl;

type Outcome = Result<(), Box<dyn Error>>;

struct Lab {
    dir: tempfile::TempDir,
    home: PathBuf,
    cancel: Cancel,
    url: GitUrl,
    limits: Confinement,
}

impl Lab {
    /// `None`, saying why, where nothing keeps git in.
    fn new(test: &str) -> Result<Option<Self>, Box<dyn Error>> {
        if landlock_abi().is_none() {
            println!("SKIPPED {test}: the kernel has no Landlock");
            return Ok(None);
        }
        let dir = tempfile::tempdir()?;
        for name in ["home", "outside", "repository"] {
            fs::create_dir(dir.path().join(name))?;
        }
        fs::write(dir.path().join("outside/secret"), "canary")?;
        let path = std::env::var_os("PATH").unwrap_or_default();
        let limits = Confinement::of_program(&path, &["git", "ssh"]);
        let url = GitUrl::parse("https://example.test/x.git")?;
        let lab = Lab { home: dir.path().join("home"), dir, cancel: Cancel::new()?, url, limits };
        lab.plain(&["init", "-q", "--bare", "."])?;
        Ok(Some(lab))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// git without limits, in the repository.
    fn plain(&self, arguments: &[&str]) -> Result<String, Box<dyn Error>> {
        let output = Command::new("git").args(arguments).current_dir(self.path("repository")).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() { Ok(text) } else { Err(format!("git {arguments:?}").into()) }
    }

    fn program<'a>(&'a self, options: &'a GitOptions, limits: &'a Confinement) -> Program<'a> {
        Program {
            options,
            url: &self.url,
            auth: None,
            place: Place::named(&self.url),
            home: &self.home,
            limits,
            cancel: &self.cancel,
        }
    }

    /// What rbuild's git prints in the repository.
    fn git(&self, options: &GitOptions, call: Call) -> Result<Result<String, String>, Box<dyn Error>> {
        let call = call.git_dir(&self.path("repository"));
        let done = self.program(options, &self.limits).attempt(&call)?;
        Ok(done.map(|output| String::from_utf8_lossy(&output).into_owned()))
    }

    fn options(&self) -> GitOptions {
        GitOptions { search_path: std::env::var_os("PATH"), ..GitOptions::default() }
    }
}

/// A call in which git runs `script`.
fn obeying(script: &str) -> Call {
    Call::new(["-c".to_owned(), format!("alias.obey=!{script}"), "obey".to_owned()])
}

#[test]
fn a_git_that_obeys_a_repository_reads_and_writes_nothing_outside() -> Outcome {
    let Some(lab) = Lab::new("a_git_that_obeys_a_repository_reads_and_writes_nothing_outside")? else {
        return Ok(());
    };
    let outside = lab.path("outside");
    let place = outside.display();
    let scripts = [
        format!("cat {place}/secret"),
        format!("echo x >{place}/new"),
        format!("ln {place}/secret $GIT_DIR/link"),
        format!("mkdir {place}/dir"),
        format!("mv {place}/secret {place}/moved"),
        format!("ls {place}"),
        "cat /proc/$PPID/environ".to_owned(),
    ];
    let plain = lab.plain(&["-c", &format!("alias.obey=!{}", scripts[0]), "obey"])?;
    assert_eq!(plain, "canary");
    for script in &scripts {
        for call in [obeying(script), obeying(script).remote()] {
            let done = lab.git(&lab.options(), call)?;
            assert!(done.is_err(), "{script}: {done:?}");
        }
    }
    assert_eq!(fs::read_dir(&outside)?.count(), 1);
    assert_eq!(fs::read_to_string(outside.join("secret"))?, "canary");
    let inside = "echo x >$GIT_DIR/new && cat $GIT_DIR/new";
    assert_eq!(lab.git(&lab.options(), obeying(inside))?, Ok("x\n".into()));
    Ok(())
}

#[test]
fn a_git_that_obeys_a_repository_starts_nothing_from_it() -> Outcome {
    let Some(lab) = Lab::new("a_git_that_obeys_a_repository_starts_nothing_from_it")? else { return Ok(()) };
    let copy = lab.path("repository/env");
    let script = format!("cp $(command -v env) {0} && {0}", copy.display());
    lab.plain(&["-c", &format!("alias.obey=!{script}"), "obey"])?;
    fs::remove_file(&copy)?;
    let done = lab.git(&lab.options(), obeying(&script))?;
    assert!(done.is_err_and(|words| words.contains("ermission denied")));
    assert!(copy.exists());
    Ok(())
}

#[test]
fn a_script_in_place_of_git_works_or_says_what_to_do() -> Outcome {
    let test = "a_script_in_place_of_git_works_or_says_what_to_do";
    let Some(lab) = Lab::new(test)? else { return Ok(()) };
    let path = std::env::var_os("PATH").unwrap_or_default();
    let real = std::env::split_paths(&path).map(|dir| dir.join("git")).find(|file| file.is_file());
    let real = real.and_then(|file| file.canonicalize().ok()).ok_or("no git")?;
    let (programs, elsewhere) = (lab.path("user/bin"), lab.path("outside/bin"));
    fs::create_dir_all(&programs)?;
    fs::create_dir_all(&elsewhere)?;
    fs::copy(&real, elsewhere.join("git"))?;
    let check = |dir: &Path| -> Result<(), Box<dyn Error>> {
        let mut search_path = dir.to_owned().into_os_string();
        search_path.push(":");
        search_path.push(&path);
        let limits = Confinement::of_program(&search_path, &["git", "ssh"]);
        let options = GitOptions { search_path: Some(search_path), ..GitOptions::default() };
        Ok(lab.program(&options, &limits).check_version()?)
    };
    let script = |starts: &Path| -> Outcome {
        let file = programs.join("git");
        fs::write(&file, format!("#!/bin/sh\nexec '{}' \"$@\"\n", starts.display()))?;
        Ok(fs::set_permissions(&file, fs::Permissions::from_mode(0o755))?)
    };
    script(&elsewhere.join("git"))?;
    let error = check(&programs).err().ok_or("it started what lies elsewhere")?.to_string();
    assert!(error.contains("ermission denied") && error.contains("first on PATH"), "{error}");
    check(&elsewhere)?;
    if !real.starts_with("/usr") {
        println!("SKIPPED part of {test}: git is not in /usr");
        return Ok(());
    }
    script(&real)?;
    check(&programs)
}

#[test]
fn signals_and_connections_do_not_leave_a_git_without_the_network() -> Outcome {
    let Some(lab) = Lab::new("signals_and_connections_do_not_leave_a_git_without_the_network")? else {
        return Ok(());
    };
    let kill = format!("kill -0 {}", std::process::id());
    lab.plain(&["-c", &format!("alias.obey=!{kill}"), "obey"])?;
    if landlock_abi() >= Some(6) {
        assert!(lab.git(&lab.options(), obeying(&kill))?.is_err());
    }
    let listener = TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let address = format!("git://{}/x", listener.local_addr()?);
    let script = format!("timeout 5 git ls-remote {address}");
    assert!(lab.git(&lab.options(), obeying(&script))?.is_err());
    assert!(listener.accept().is_err());
    assert!(lab.git(&lab.options(), obeying(&format!("{script} & sleep 1; kill $!")).remote())?.is_ok());
    assert!(listener.accept().is_ok());
    Ok(())
}

#[test]
fn alternates_lead_to_what_rbuild_names_only() -> Outcome {
    let Some(lab) = Lab::new("alternates_lead_to_what_rbuild_names_only")? else { return Ok(()) };
    let other = lab.path("outside/other");
    let store =
        |arguments: &[&str]| Command::new("git").args(arguments).current_dir(lab.path("outside")).output();
    store(&["init", "-q", "--bare", "other"])?;
    let output = store(&["--git-dir=other", "hash-object", "-w", "secret"])?;
    let object = String::from_utf8(output.stdout)?.trim().to_owned();
    let objects = format!("{}\n", other.join("objects").display());
    fs::create_dir_all(lab.path("repository/objects/info"))?;
    fs::write(lab.path("repository/objects/info/alternates"), objects)?;
    assert_eq!(lab.plain(&["cat-file", "-p", &object])?, "canary");
    let read = || Call::new(["cat-file", "-p", &object]);
    assert!(lab.git(&lab.options(), read())?.is_err());
    assert_eq!(lab.git(&lab.options(), read().reads(&other))?, Ok("canary".into()));
    Ok(())
}

#[test]
fn a_git_that_fetches_reads_its_authorities_and_host_keys_and_reaches_the_agent() -> Outcome {
    let test = "a_git_that_fetches_reads_its_authorities_and_host_keys_and_reaches_the_agent";
    let Some(lab) = Lab::new(test)? else { return Ok(()) };
    let (authorities, hosts) = (lab.path("outside/ca.pem"), lab.path("outside/known_hosts"));
    fs::write(&authorities, "authorities")?;
    fs::write(&hosts, "hosts")?;
    let socket = lab.path("outside/agent");
    let agent = std::os::unix::net::UnixListener::bind(&socket)?;
    let options = GitOptions {
        roots: Roots::File(authorities.clone()),
        known_hosts: Some(hosts.clone()),
        ssh_agent: Some(socket),
        ..lab.options()
    };
    let read = format!("cat {} {}", authorities.display(), hosts.display());
    assert_eq!(lab.git(&options, obeying(&read).remote())?, Ok("authoritieshosts".into()));
    assert!(lab.git(&options, obeying(&read))?.is_err());
    let has = |name: &str| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|dir| dir.join(name).is_file())
    };
    if !has("ssh-add") {
        println!("SKIPPED part of {test}: ssh-add is not installed");
        return Ok(());
    }
    agent.set_nonblocking(true)?;
    let ask = "timeout 1 ssh-add -l; true";
    lab.git(&options, obeying(ask).remote())??;
    agent.accept()?;
    // A call that works on what is here gets neither the socket's name nor a way to it.
    let named = format!("SSH_AUTH_SOCK={} {ask}", lab.path("outside/agent").display());
    lab.git(&options, obeying(&named))??;
    assert!(agent.accept().is_err());
    Ok(())
}

/// The system's own settings are as readable as before.
#[test]
fn a_confined_git_finds_names_users_and_authorities_of_this_machine() -> Outcome {
    let test = "a_confined_git_finds_names_users_and_authorities_of_this_machine";
    let Some(lab) = Lab::new(test)? else { return Ok(()) };
    let files = [
        "/etc/passwd",
        "/etc/hosts",
        "/etc/resolv.conf",
        "/etc/nsswitch.conf",
        "/etc/ssl/certs/ca-certificates.crt",
    ];
    for file in files.iter().filter(|file| Path::new(file).is_file()) {
        let done = lab.git(&lab.options(), obeying(&format!("cat {file} >/dev/null")).remote())?;
        assert!(done.is_ok(), "{file}: {done:?}");
    }
    for file in ["/etc/shadow", "/etc/ssh/ssh_host_ed25519_key"] {
        let done = lab.git(&lab.options(), obeying(&format!("cat {file}")).remote())?;
        assert!(done.is_err(), "{file}");
    }
    Ok(())
}
