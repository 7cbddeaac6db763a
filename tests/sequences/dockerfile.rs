//! Random stages on a common base. All that they do happens below `/t/w`.

use crate::context::{Context, Entry, Kind};
use crate::random::Random;

const NAMES: [&str; 7] = ["a", "b", "c", "a", "b", "d e", "l"];

/// What every stage begins with: directories with odd owners and modes, links to and out of them.
const START: &str = "mkdir -p /t/w/a/b /t/w/b/c /t/w/s && echo 1 > /t/w/a/f && echo 2 > /t/w/b/c/a && ln -s b /t/w/l && ln -s /t/w/a /t/w/b/l && ln -s nowhere /t/w/c && chmod 2775 /t/w/b && chown 3:4 /t/w/a \
&& chown 1000:2000 /t/w/b/c && chmod 1777 /t/w/s && mkfifo /t/w/s/p";

#[derive(Clone, Debug)]
pub enum Line {
    /// Commands of one RUN. Any of them may fail.
    Run(Vec<String>),
    Other(String),
}

#[derive(Clone, Debug)]
pub struct Stage {
    pub name: String,
    /// `busybox`, `debian`, or an earlier stage.
    pub base: String,
    pub lines: Vec<Line>,
}

impl Line {
    pub fn text(&self) -> String {
        match self {
            Line::Run(commands) => format!("RUN {{ {}; }} 2>/dev/null; true", commands.join("; ")),
            Line::Other(text) => text.clone(),
        }
    }
}

impl Stage {
    pub fn text(&self) -> String {
        let lines: Vec<String> = self.lines.iter().map(Line::text).collect();
        format!("FROM {} AS {}\n{}\n", self.base, self.name, lines.join("\n"))
    }

    /// Earlier stages that this one needs.
    pub fn needs<'a>(&'a self, all: &'a [Stage]) -> impl Iterator<Item = &'a Stage> {
        all.iter().filter(|other| {
            let from = format!("from={}", other.name);
            let takes = |line: &Line| line.text().split([' ', ',']).any(|word| word.ends_with(&from));
            other.name == self.base || self.lines.iter().any(takes)
        })
    }
}

/// Which instructions a stage may have.
#[derive(Clone, Copy)]
pub struct Kinds {
    /// `RUN --mount` of the context, whose files have the builder's owners.
    pub mounts_of_context: bool,
    /// Files of several names.
    pub hard_links: bool,
    /// What depends on the owners that a process sees, or on whether it can rename a directory of a lower layer.
    pub subtle: bool,
    /// Other users than root. With one ID they may write wherever root may.
    pub users: bool,
}

/// Makes `count` stages, named `s0`, `s1` and so on, behind their bases `base` and `dbase`.
pub fn stages(
    random: &mut Random,
    context: &Context,
    count: usize,
    kinds: Kinds,
    with_debian: bool,
) -> Vec<Stage> {
    let links = if kinds.hard_links { " && ln /t/w/a/f /t/w/b/f" } else { "" };
    let start = |name: &str, base: &str| Stage {
        name: name.into(),
        base: base.into(),
        lines: vec![Line::Other(format!("RUN {START}{links}"))],
    };
    let mut all = vec![start("base", "busybox")];
    if with_debian {
        all.push(start("dbase", "debian"));
    }
    let bases = all.len();
    for number in 0..count {
        let earlier = all.len() > bases && random.chance(20);
        let base = if earlier {
            all.len() - 1 - random.below((all.len() - bases).min(3))
        } else {
            random.below(bases)
        };
        let mut stage = Stage { name: format!("s{number}"), base: all[base].name.clone(), lines: Vec::new() };
        for _ in 0..random.between(2, 5) {
            let line = Maker { random, context, earlier: &all, kinds }.line();
            stage.lines.push(line);
        }
        all.push(stage);
    }
    all
}

struct Maker<'a> {
    random: &'a mut Random,
    context: &'a Context,
    earlier: &'a [Stage],
    kinds: Kinds,
}

impl Maker<'_> {
    fn line(&mut self) -> Line {
        match self.random.below(100) {
            0..45 => Line::Run((0..self.random.between(1, 6)).map(|_| self.command()).collect()),
            45..52 => Line::Other(format!("WORKDIR {}", self.directory())),
            52..57 => {
                let user = self.random.pick(&["0", "0", "0", "1000", "5:6", "nobody", "root"]);
                Line::Other(format!("USER {}", if self.kinds.users { user } else { "0" }))
            }
            57..63 if self.kinds.subtle => self.mounted(),
            63..68 => {
                let flags = self.flags(false);
                Line::Other(format!("COPY {flags}<<{n} {}\nbody\n{n}", self.destination(), n = "E"))
            }
            _ => Line::Other(self.copy()),
        }
    }

    /// A path below `/t/w`, through links now and then.
    fn path(&mut self) -> String {
        let depth = self.random.between(1, 3);
        let names: Vec<&str> = (0..depth).map(|_| self.random.pick(&NAMES)).collect();
        format!("/t/w/{}", names.join("/"))
    }

    fn quoted(&mut self) -> String {
        format!("'{}'", self.path())
    }

    fn command(&mut self) -> String {
        let (p, q) = (self.quoted(), self.quoted());
        let mode = self.random.pick(&["700", "755", "1777", "2755", "600", "4711", "000", "555"]);
        let owners = ["7:8", "0:9", "1000:2000", "5"];
        // Busybox reads the group, and sets both.
        let owner = self.random.pick(&owners[..if self.kinds.subtle { 4 } else { 3 }]);
        let number = self.random.below(1_000_000_000);
        match self.random.below(24) {
            5 | 10 | 16 | 21 if !self.kinds.subtle => format!("chown -h {owner} {p}"),
            6 | 20 if !self.kinds.hard_links => format!("touch {p}"),
            0 | 1 => format!("mkdir -p {p}"),
            2 | 3 => format!("echo {number} > {p}"),
            4 => format!("rm -rf {p}"),
            5 => format!("mv {p} {q}"),
            6 => format!("ln {p} {q}"),
            7 => format!("ln -s {} {p}", self.random.pick(&["a", "../b", "/t/w/c", "nowhere", "."])),
            8 => format!("chmod {mode} {p}"),
            9 => format!("chown -h {owner} {p}"),
            10 => format!("cp -a {p} {q}"),
            11 => format!("mkfifo {p}"),
            12 => format!("echo z >> {p}"),
            13 => format!("touch -h -d @{number} {p}"),
            14 => format!("rm -rf {p} && mkdir {p}"),
            15 => format!("touch {p}/t; rm -f {p}/t"),
            16 => format!("mv -T {p} {q}"),
            17 => format!("ln -sfn ../{} {p}", self.random.pick(&NAMES[..5])),
            18 => format!("chmod -R {} {p}", self.random.pick(&["u+w", "go-rwx", "a+rX", "g+s"])),
            19 => format!("chown -R {owner} {p}"),
            20 => format!("rm -f {p}; ln -f {q} {p}"),
            21 => format!("mkdir -p {p} && mv {q} {p}/"),
            22 => format!("rm -rf /t/w && mkdir -m {mode} /t/w && echo {number} > {p}"),
            _ => format!("cp {p} {q}"),
        }
    }

    /// A RUN that copies from what is mounted for it.
    fn mounted(&mut self) -> Line {
        let source = self.random.pick(&["/t/w", "/t/w/a", "/t/w/b"]);
        let stage = self.random.element(self.earlier).name.clone();
        let mount = match self.random.below(4) {
            0 if self.kinds.mounts_of_context => "--mount=target=/m".to_owned(),
            1 => format!("--mount=type=tmpfs,target={}/x", self.directory().replace(' ', "")),
            2 => format!(
                "--mount=type=cache,target=/m,from={stage},source={source},id={}",
                self.random.below(1_000_000_000)
            ),
            _ => format!("--mount=from={stage},source={source},target=/m{}", self.random.pick(&["", ",rw"])),
        };
        let (to, more) = (self.quoted(), self.command());
        Line::Other(format!("RUN {mount} {{ cp -a /m {to}; echo x > /m/new; {more}; }} 2>/dev/null; true"))
    }

    fn directory(&mut self) -> String {
        let slash = self.random.pick(&["", "", "/", "/."]);
        match self.random.below(4) {
            0 => format!("{}{slash}", self.random.pick(&["a", "../b", "x/y", "l"])),
            _ => self.path().replace(' ', "\\ ") + slash,
        }
    }

    fn destination(&mut self) -> String {
        let slash = self.random.pick(&["", "/", "/", "/."]);
        format!("{}{slash}", self.path().replace("d e", "d"))
    }

    fn copy(&mut self) -> String {
        let from = self.random.chance(30).then(|| {
            // What is known to be there is in the bases.
            let stages = if self.random.chance(75) { &self.earlier[..1] } else { self.earlier };
            self.random.element(stages).name.clone()
        });
        let name = if from.is_none() && self.random.chance(35) { "ADD" } else { "COPY" };
        let mut flags = self.flags(true);
        if name == "ADD" {
            flags = flags.replace("--parents ", "");
        }
        if let Some(stage) = &from {
            flags += &format!("--from={stage} ");
        }
        let count = if self.random.chance(25) { 2 } else { 1 };
        let mut words: Vec<String> =
            (0..count).map(|_| if from.is_some() { self.path_in_stage() } else { self.source() }).collect();
        let mut destination = self.path();
        let several = count > 1 || words.iter().any(|word| word.contains(['*', '?', '[']));
        destination += if several { "/" } else { self.random.pick(&["", "/", "/", "/."]) };
        words.push(destination);
        if words.iter().any(|word| word.contains(' ')) || self.random.chance(10) {
            let quoted: Vec<String> =
                words.iter().map(|word| format!("\"{}\"", word.replace('\\', "\\\\"))).collect();
            format!("{name} {flags}[{}]", quoted.join(", "))
        } else {
            format!("{name} {flags}{}", words.join(" "))
        }
    }

    /// Flags of COPY and ADD, each with a blank behind.
    fn flags(&mut self, is_of_paths: bool) -> String {
        let mut flags = String::new();
        let mut add = |flag: &str| flags += &format!("{flag} ");
        let is_linked = self.random.chance(25);
        if is_linked {
            add("--link");
        }
        if self.random.chance(25) {
            // Names are those of the base; a linked copy has none.
            let owners = ["5:6", "7", "0:9", "nobody", "nobody:nogroup"];
            let known = if is_linked { 3 } else { 5 };
            add(&format!("--chown={}", self.random.pick(&owners[..known])));
        }
        if self.random.chance(22) {
            let modes = ["640", "u+x,g=", "0711", "2750", "777", "u=rwX,go=rX", "go-w", "a+s", "4755"];
            add(&format!("--chmod={}", self.random.pick(&modes)));
        }
        if is_of_paths && self.random.chance(18) {
            let pattern = self.random.pick(&["a", "**/a", "*/b", "b/*", "*.txt", "!a", "**", "t*", "f"]);
            add(&format!("--exclude={pattern}"));
        }
        if is_of_paths && self.random.chance(18) {
            add("--parents");
        }
        flags
    }

    /// Something in the context, or a pattern that matches it.
    fn source(&mut self) -> String {
        let entries = &self.context.entries;
        if entries.is_empty() || self.random.chance(10) {
            return self.random.pick(&[".", "*", "./", "*", ".", "**/a", "*/*"]).to_owned();
        }
        let entry: &Entry = self.random.element(entries);
        let path = entry.path.clone();
        let is_directory = matches!(entry.kind, Kind::Directory);
        match self.random.below(10) {
            0 if is_directory => path + "/",
            1 if is_directory => path + "/*",
            2 => as_pattern(self.random, &path),
            3 => format!("/{path}"),
            4 => format!("./{path}"),
            5 => match path.split_once('/') {
                Some((first, rest)) => format!("{first}/./{rest}"),
                None => path,
            },
            _ => path,
        }
    }

    fn path_in_stage(&mut self) -> String {
        let known = [
            "/t/w",
            "/t/w/a",
            "/t/w/b",
            "/t/w/*",
            "/t/w/l",
            "/t/w/a/f",
            "/t/w/b/c",
            "/t/w/b/l",
            "/t/./w/b/c",
            "/t/w/b/*",
            "/t/w/a/*",
            "/t/w/s",
            "/t/w/?",
        ];
        if self.random.chance(96) { self.random.pick(&known).to_owned() } else { self.path() }
    }
}

/// One letter of the path becomes a wildcard.
fn as_pattern(random: &mut Random, path: &str) -> String {
    let letters: Vec<char> = path.chars().collect();
    let at = random.below(letters.len());
    let wildcard = random.pick(&["*", "?", "[a-z]", "*"]);
    letters
        .iter()
        .enumerate()
        .map(|(index, c)| if index == at && *c != '/' { wildcard.to_owned() } else { c.to_string() })
        .collect()
}
