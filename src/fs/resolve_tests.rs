use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicUsize;

use proptest::prelude::*;

use super::*;

const BENEATH: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_MAGICLINKS);
const BENEATH_WITHOUT_LINKS: ResolveFlags = BENEATH.union(ResolveFlags::NO_SYMLINKS);
const IN_ROOT: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);
const UNCONFINED: ResolveFlags = ResolveFlags::NO_MAGICLINKS;
const NEW: Mode = Mode::RUSR.union(Mode::WUSR);

/// What is made at one name of a random tree, if it can be made.
#[derive(Clone, Debug)]
enum Node {
    Dir(String),
    File(String),
    Link(String, String),
}

fn make(root: &Path, nodes: &[Node]) {
    fs::create_dir_all(root).expect("the root");
    for node in nodes {
        // What lies below a file or over something else is left out, in both trees.
        let _ = match node {
            Node::Dir(path) => fs::create_dir_all(root.join(path)),
            Node::File(path) => fs::File::create_new(root.join(path)).map(drop),
            Node::Link(path, target) => symlink(target, root.join(path)),
        };
    }
}

fn name() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["a", "b", "c"])
}

fn place() -> impl Strategy<Value = String> {
    prop::collection::vec(name(), 1..4).prop_map(|names| names.join("/"))
}

/// Any spelling: relative or not, with `.`, `..`, several slashes and slashes at the end.
fn spelling() -> impl Strategy<Value = String> {
    let part = prop::sample::select(vec!["a", "b", "c", "..", "..", ".", "", "gone"]);
    (prop::sample::select(vec!["", "", "", "/"]), prop::collection::vec(part, 1..7), any::<bool>())
        .prop_map(|(start, parts, ends)| format!("{start}{}{}", parts.join("/"), if ends { "/" } else { "" }))
}

fn node() -> impl Strategy<Value = Node> {
    prop_oneof![
        2 => place().prop_map(Node::Dir),
        1 => place().prop_map(Node::File),
        3 => (place(), spelling().prop_filter("a link has a target", |target| !target.is_empty()))
            .prop_map(|(path, target)| Node::Link(path, target)),
    ]
}

fn flags() -> impl Strategy<Value = OFlags> {
    let read = OFlags::RDONLY | OFlags::NONBLOCK;
    let write = OFlags::WRONLY | OFlags::CREATE;
    prop::sample::select(vec![
        read,
        read | OFlags::NOFOLLOW,
        read | OFlags::DIRECTORY,
        OFlags::PATH,
        OFlags::PATH | OFlags::DIRECTORY,
        OFlags::PATH | OFlags::NOFOLLOW,
        OFlags::PATH | OFlags::NOFOLLOW | OFlags::DIRECTORY,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW,
        write,
        write | OFlags::NOFOLLOW,
        write | OFlags::EXCL,
        write | OFlags::EXCL | OFlags::NOFOLLOW,
    ])
}

fn top(path: &Path) -> OwnedFd {
    rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).expect("opens")
}

/// Where a descriptor leads, as seen from the directory that holds the tree.
fn outcome(opened: Result<OwnedFd, Errno>, above: &Path) -> Result<PathBuf, Errno> {
    use std::os::fd::AsRawFd as _;
    let opened = opened?;
    let link = fs::read_link(format!("/proc/self/fd/{}", opened.as_raw_fd())).expect("its link");
    Ok(link.strip_prefix(above).map(Path::to_owned).unwrap_or(link))
}

fn by_kernel(
    dir: &OwnedFd,
    path: &str,
    flags: OFlags,
    mode: Mode,
    resolve: ResolveFlags,
) -> Result<OwnedFd, Errno> {
    loop {
        match rustix::fs::openat2(dir, path, flags | OFlags::CLOEXEC, mode, resolve) {
            // Other programs rename and mount meanwhile (openat2(2)).
            Err(Errno::AGAIN) => {}
            outcome => return outcome,
        }
    }
}

fn names(root: &Path) -> Vec<OsString> {
    let mut found = Vec::new();
    let mut rest = vec![root.to_owned()];
    while let Some(dir) = rest.pop() {
        for entry in fs::read_dir(dir).expect("lists") {
            let path = entry.expect("an entry").path();
            found.push(path.strip_prefix(root).expect("below").as_os_str().to_owned());
            if path.is_dir() && !path.is_symlink() {
                rest.push(path);
            }
        }
    }
    found.sort();
    found
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn by_hand_the_same_is_opened_and_the_same_refused(
        nodes in prop::collection::vec(node(), 1..14),
        asked in prop::collection::vec((spelling(), flags()), 20),
    ) {
        let dir = tempfile::tempdir().expect("directory");
        let place = dir.path().canonicalize().expect("its path");
        let (kernels, ours) = (place.join("1"), place.join("2"));
        for above in [&kernels, &ours] {
            make(&above.join("root"), &nodes);
        }
        let (kernels_top, our_top) = (top(&kernels.join("root")), top(&ours.join("root")));
        for (path, flags) in &asked {
            for resolve in [BENEATH, BENEATH_WITHOUT_LINKS, IN_ROOT, UNCONFINED] {
                let makes = flags.contains(OFlags::CREATE);
                if makes && resolve == UNCONFINED {
                    // It would make files elsewhere on this machine.
                    continue;
                }
                let mode = if makes { NEW } else { Mode::empty() };
                let expected = outcome(by_kernel(&kernels_top, path, *flags, mode, resolve), &kernels);
                let flags = *flags | OFlags::CLOEXEC;
                let found = open_by_hand(our_top.as_fd(), path.as_bytes(), flags, mode, resolve);
                prop_assert_eq!(outcome(found, &ours), expected, "{:?} {:?} {:?}", path, flags, resolve);
            }
        }
        prop_assert_eq!(names(&kernels), names(&ours));
    }
}

#[test]
fn links_are_followed_as_often_as_by_the_kernel() {
    let dir = tempfile::tempdir().expect("directory");
    fs::write(dir.path().join("0"), "").expect("write");
    for number in 1..=50 {
        symlink(format!("{}", number - 1), dir.path().join(number.to_string())).expect("link");
    }
    symlink("loop", dir.path().join("loop")).expect("link");
    let root = top(dir.path());
    for path in ["39", "40", "41", "50", "loop", "loop/x"] {
        for resolve in [BENEATH, IN_ROOT, UNCONFINED] {
            let expected = by_kernel(&root, path, OFlags::PATH, Mode::empty(), resolve).map(drop);
            let found = open_by_hand(root.as_fd(), path.as_bytes(), OFlags::PATH, Mode::empty(), resolve);
            assert_eq!(found.map(drop), expected, "{path} {resolve:?}");
        }
    }
}

#[test]
fn links_of_proc_and_other_mounts_are_refused_alike() {
    let machine = top(Path::new("/"));
    let mut refused = 0;
    for path in [
        "proc/self",
        "proc/self/status",
        "proc/thread-self/attr",
        "proc/mounts",
        "proc/net/dev",
        "proc/self/exe",
        "proc/self/cwd",
        "proc/self/root/etc",
        "proc/self/fd/0",
        "proc/self/ns/mnt",
        "/proc/self/root",
    ] {
        for resolve in [BENEATH, IN_ROOT, UNCONFINED, BENEATH | ResolveFlags::NO_XDEV] {
            for flags in [OFlags::PATH, OFlags::PATH | OFlags::NOFOLLOW] {
                let expected = by_kernel(&machine, path, flags, Mode::empty(), resolve).map(drop);
                let found = open_by_hand(machine.as_fd(), path.as_bytes(), flags, Mode::empty(), resolve);
                assert_eq!(found.map(drop), expected, "{path} {resolve:?} {flags:?}");
                refused += usize::from(expected.is_err());
            }
        }
    }
    assert!(refused > 20, "{refused}");
}

#[test]
fn in_one_mount_files_are_opened() {
    let proc = top(Path::new("/proc"));
    let resolve = BENEATH | ResolveFlags::NO_XDEV;
    let open =
        |path: &str| open_by_hand(proc.as_fd(), path.as_bytes(), OFlags::RDONLY, Mode::empty(), resolve);
    assert!(open("thread-self/status").is_ok());
    assert!(matches!(open("self/root/etc"), Err(Errno::LOOP)));
}

#[test]
fn new_files_are_made_where_a_process_names_them() {
    let dir = tempfile::tempdir().expect("directory");
    let root = top(dir.path());
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let absolute = dir.path().join("b");
    for path in [Path::new("a"), &absolute] {
        let open = || open_by_hand(root.as_fd(), path.as_os_str().as_bytes(), flags, NEW, UNCONFINED);
        assert!(open().is_ok());
        assert!(matches!(open(), Err(Errno::EXIST)));
    }
    assert_eq!(names(dir.path()), ["a", "b"]);
}

#[test]
fn impossible_paths_are_errors() {
    let dir = tempfile::tempdir().expect("directory");
    let root = top(dir.path());
    let long = "a/".repeat(PATH_MAX);
    let name = "a".repeat(300);
    for path in ["", "a\0b", &long, &name, "/", "//", "."] {
        for resolve in [BENEATH, IN_ROOT] {
            let expected = by_kernel(&root, path, OFlags::PATH, Mode::empty(), resolve).map(drop);
            let found = open_by_hand(root.as_fd(), path.as_bytes(), OFlags::PATH, Mode::empty(), resolve);
            assert_eq!(found.map(drop), expected, "{:.20} {resolve:?}", path);
        }
    }
}

/// `a/b` moves out and in again while `a/b/../secret` is looked up.
#[test]
fn a_directory_that_moves_leads_nobody_out() {
    let dir = tempfile::tempdir().expect("directory");
    fs::create_dir_all(dir.path().join("root/a/b/c")).expect("mkdir");
    fs::create_dir_all(dir.path().join("root/a/x")).expect("mkdir");
    fs::create_dir_all(dir.path().join("out/b")).expect("mkdir");
    fs::write(dir.path().join("out/secret"), "").expect("write");
    fs::write(dir.path().join("root/a/secret"), "").expect("write");
    let secret = fs::canonicalize(dir.path().join("out/secret")).expect("path");
    let root = top(&dir.path().join("root"));
    let (inside, outside) = (dir.path().join("root/a/b"), dir.path().join("out/c"));
    let found = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let look = scope.spawn(|| {
            for _ in 0..5_000 {
                for resolve in [BENEATH, IN_ROOT] {
                    let path = b"a/b/../secret";
                    let opened = open_by_hand(root.as_fd(), path, OFlags::PATH, Mode::empty(), resolve);
                    if let Ok(place) = outcome(opened, Path::new("/nowhere")) {
                        assert_ne!(place, secret);
                        found.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        });
        while !look.is_finished() {
            fs::rename(&inside, &outside).expect("out");
            fs::rename(&outside, &inside).expect("in");
        }
    });
    assert!(found.into_inner() > 0);
}

#[test]
fn the_kernels_own_refusals_stay_as_they_are() {
    let dir = tempfile::tempdir().expect("directory");
    let root = top(dir.path());
    let tries = AtomicUsize::new(0);
    let kernel = || {
        tries.fetch_add(1, Ordering::Relaxed);
        Err(Errno::PERM)
    };
    // It answers the probe, so the file is what may not be opened.
    let opened = open_either_way(root.as_fd(), kernel, || Ok(top(dir.path())));
    if !REFUSED.load(Ordering::Relaxed) {
        assert!(matches!(opened, Err(Errno::PERM)));
        assert_eq!(tries.into_inner(), 1);
    }
}
