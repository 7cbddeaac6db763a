//! Why a program could not be found or executed: what the root file system says about it.

use crate::snapshot::{Chain, NodeKind, Snapshots, Tree};
use crate::suggest::nearest;

/// How much of a program is read: its first line, or its ELF headers.
const HEAD: usize = 4096;
/// Larger files are not looked into.
const LARGEST: u64 = 64 << 20;
/// What shells and rbuild print behind the name of what they could not execute.
const ENDS: [&str; 6] = [
    "not found",
    "No such file or directory",
    "Permission denied",
    "Exec format error",
    "cannot execute binary file",
    "cannot execute",
];

/// A root file system as it was before the step.
pub(super) struct Scene<'a> {
    pub tree: &'a Tree,
    pub chain: &'a Chain,
    pub snapshots: &'a Snapshots,
    /// `PATH` of the step.
    pub search: &'a str,
    pub cwd: &'a str,
}

impl Scene<'_> {
    /// What may be behind exit code 126 or 127, from the last lines of output. `None` where the file system knows
    /// nothing that the exit code does not say.
    pub fn explain(&self, tail: &[String]) -> Option<String> {
        let program = tail.iter().rev().find_map(|line| blamed(line))?;
        if program.contains('/') {
            return self.explain_path(program);
        }
        let found = self.directories().find_map(|dir| {
            let path = format!("{dir}/{program}");
            self.tree.lookup(&self.tree.resolve(path.as_bytes()).ok()?).is_some().then_some(path)
        });
        match found {
            Some(path) => self.explain_path(&path),
            None => Some(self.missing(program)),
        }
    }

    fn directories(&self) -> impl Iterator<Item = &str> {
        self.search.split(':').filter(|dir| dir.starts_with('/')).map(|dir| dir.trim_end_matches('/'))
    }

    fn missing(&self, program: &str) -> String {
        let mut names: Vec<String> = Vec::new();
        for dir in self.directories() {
            let Ok(real) = self.tree.resolve(dir.as_bytes()) else { continue };
            let below = self.tree.below(&real).filter_map(|(path, _)| {
                let rest = path.strip_prefix(real.as_slice())?;
                let name = rest.strip_prefix(b"/").unwrap_or(rest);
                (!name.contains(&b'/')).then(|| String::from_utf8_lossy(name).into_owned())
            });
            names.extend(below);
        }
        let advice = advice(program, names.iter().map(String::as_str));
        format!("there is no program {program} in the image (PATH={}): {advice}", self.search)
    }

    fn explain_path(&self, path: &str) -> Option<String> {
        let whole = if path.starts_with('/') { path.to_owned() } else { format!("{}/{path}", self.cwd) };
        let real = self.tree.resolve(whole.as_bytes()).ok()?;
        let Some(node) = self.tree.lookup(&real) else {
            return Some(format!("there is no file {path} in the image before this step"));
        };
        let NodeKind::File { size, .. } = node.kind else {
            return node.is_dir().then(|| format!("{path} is a directory"));
        };
        if node.meta.mode & 0o111 == 0 {
            return Some(format!(
                "{path} has the mode {:04o}: it is not executable (COPY --chmod=755, or RUN chmod +x {path})",
                node.meta.mode & 0o7777
            ));
        }
        if size > LARGEST {
            return None;
        }
        let mut bytes = self.snapshots.read_file(self.chain, node, &real, LARGEST).ok()?;
        bytes.truncate(HEAD);
        match bytes.strip_prefix(b"#!") {
            Some(line) => self.explain_script(path, line),
            None => self.explain_elf(path, &bytes),
        }
    }

    fn explain_script(&self, path: &str, rest: &[u8]) -> Option<String> {
        let line = rest.split(|c| *c == b'\n').next().unwrap_or_default();
        if line.ends_with(b"\r") {
            return Some(format!(
                "{path} has Windows line ends: its first line names an interpreter that ends with a carriage return. \
                 Convert it (sed -i 's/\\r$//' FILE), and keep git from changing it: `*.sh text eol=lf` in .gitattributes"
            ));
        }
        let line = String::from_utf8_lossy(line).into_owned();
        let interpreter = line.split_whitespace().next()?;
        self.is_missing(interpreter)
            .then(|| format!("{path} is a script for {interpreter}, which is not in the image"))
    }

    fn explain_elf(&self, path: &str, bytes: &[u8]) -> Option<String> {
        if !bytes.starts_with(b"\x7fELF") {
            return bytes.is_empty().then(|| format!("{path} is empty"));
        }
        let machine = u16::from_le_bytes([*bytes.get(18)?, *bytes.get(19)?]);
        let (built, own) = (machine_name(machine)?, std::env::consts::ARCH);
        if built != own {
            return Some(format!(
                "{path} is a program for {built}, and this machine is {own}: build it for this one, or the image for \
                 that one (--platform)"
            ));
        }
        let loader = loader(bytes)?;
        self.is_missing(&loader).then(|| {
            format!(
                "{path} needs the loader {loader}, which is not in the image: it was built for another C library (glibc \
                 or musl); link it statically, or build it on an image of this kind"
            )
        })
    }

    fn is_missing(&self, path: &str) -> bool {
        self.tree.resolve(path.as_bytes()).is_ok_and(|real| self.tree.lookup(&real).is_none())
    }
}

/// What to do about a program that is in none of the directories of `PATH`; `names` are those that are.
fn advice<'a>(program: &str, names: impl IntoIterator<Item = &'a str>) -> String {
    /// Shorter names are one edit from many others.
    const SHORTEST: usize = 5;
    let base = match program {
        "apt-get" | "apt" | "dpkg" => "Debian",
        "apk" => "Alpine",
        "dnf" | "yum" | "microdnf" => "Fedora",
        "bash" => return "use sh, or install bash in an earlier step".to_owned(),
        _ => {
            let install = "install it in an earlier step, or build on an image that has it";
            return match nearest(program, names).filter(|_| program.chars().count() >= SHORTEST) {
                Some(near) => format!("{install}; did you mean {near}?"),
                None => install.to_owned(),
            };
        }
    };
    format!(
        "the image is not based on {base}: use its own package manager, or build on an image that has {program}"
    )
}

/// The program that a line of a shell, or of rbuild, is about.
fn blamed(line: &str) -> Option<&str> {
    let line = line.trim_end().trim_end_matches(|c: char| c == ')' || c.is_ascii_digit());
    let line = line.strip_suffix(" (os error ").unwrap_or(line);
    let line = line.strip_suffix(": required file not found").map_or(line, |rest| rest);
    let before = ENDS.iter().find_map(|end| line.strip_suffix(end)).unwrap_or(line);
    if before.len() == line.len() && !line.contains("exec ") {
        return None;
    }
    let before = before.trim_end().trim_end_matches(':');
    let name = before.rsplit(": ").next()?.trim();
    let name = name.strip_prefix("exec ").unwrap_or(name).trim_matches(|c| matches!(c, '\'' | '"' | '`'));
    (!name.is_empty() && !name.contains(char::is_whitespace) && name.len() < 256).then_some(name)
}

fn machine_name(machine: u16) -> Option<&'static str> {
    Some(match machine {
        3 => "x86",
        0x15 => "powerpc64",
        0x16 => "s390x",
        0x28 => "arm",
        0x3e => "x86_64",
        0xb7 => "aarch64",
        0xf3 => "riscv64",
        _ => return None,
    })
}

/// The loader that a 64-bit little-endian program names.
fn loader(bytes: &[u8]) -> Option<String> {
    const PT_INTERP: u32 = 3;
    if bytes.get(4..6)? != [2, 1] {
        return None;
    }
    let word = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    let half = |at: usize| Some(usize::from(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?)));
    let (start, size, count) = (usize::try_from(word(32)?).ok()?, half(54)?, half(56)?);
    for number in 0..count {
        let at = start.checked_add(number.checked_mul(size)?)?;
        let kind = u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?);
        if kind == PT_INTERP {
            let offset = usize::try_from(word(at + 8)?).ok()?;
            let text = bytes.get(offset..)?.split(|c| *c == 0).next()?;
            return String::from_utf8(text.to_vec()).ok();
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_that_a_line_blames_is_found() {
        for (line, wanted) in [
            ("/bin/sh: npm: not found", Some("npm")),
            ("/bin/sh: 1: npm: not found", Some("npm")),
            ("bash: line 1: ./run.sh: Permission denied", Some("./run.sh")),
            ("/bin/sh: /run.sh: not found", Some("/run.sh")),
            ("exec /no/such: No such file or directory (os error 2)", Some("/no/such")),
            ("sh: /prog: Exec format error", Some("/prog")),
            ("bash: /a.sh: cannot execute: required file not found", Some("/a.sh")),
            ("all is well", None),
            ("", None),
        ] {
            assert_eq!(blamed(line), wanted, "{line}");
        }
    }

    #[test]
    fn advice_about_a_missing_program_names_no_other_by_chance() {
        let names = ["ftpget", "cal", "sleep", "ash", "grep"];
        let install = "install it in an earlier step, or build on an image that has it";
        for (program, wanted) in [
            ("curl", install.to_owned()),
            ("npm", install.to_owned()),
            ("grpe", install.to_owned()),
            ("ftp-get", format!("{install}; did you mean ftpget?")),
            ("slepe", format!("{install}; did you mean sleep?")),
            ("slepes", install.to_owned()),
        ] {
            assert_eq!(advice(program, names), wanted, "{program}");
        }
        for (program, part) in [
            ("apt-get", "not based on Debian"),
            ("apk", "not based on Alpine"),
            ("yum", "not based on Fedora"),
            ("bash", "use sh"),
        ] {
            let said = advice(program, names);
            assert!(said.contains(part) && !said.contains("did you mean"), "{program}: {said}");
        }
    }

    #[test]
    fn any_bytes_are_looked_at() {
        for length in 0..80 {
            let mut bytes = b"\x7fELF\x02\x01".to_vec();
            bytes.resize(6 + length, 0xff);
            assert_eq!(loader(&bytes), None);
        }
    }
}
