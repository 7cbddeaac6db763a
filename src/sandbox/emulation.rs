//! Programs of other processors: whether the kernel knows how to run them.

use std::path::Path;

/// Where the kernel lists its interpreters.
const BINFMT: &str = "/proc/sys/fs/binfmt_misc";

/// Why programs of a platform cannot be executed on this machine; `None` where they can. Names are
/// those of images: `linux`, `amd64`, `arm64`...
pub fn obstacle(os: &str, architecture: &str) -> Option<String> {
    obstacle_for(os, architecture, std::env::consts::ARCH, Path::new(BINFMT))
}

fn obstacle_for(os: &str, architecture: &str, host: &str, binfmt: &Path) -> Option<String> {
    if os != "linux" && !os.is_empty() {
        return Some(format!("programs for {os} cannot be executed on Linux"));
    }
    let native = match host {
        "x86_64" => ["amd64", "386"].contains(&architecture),
        "aarch64" => architecture == "arm64",
        "x86" => architecture == "386",
        "powerpc64" => ["ppc64", "ppc64le"].contains(&architecture),
        other => other == architecture,
    };
    if native || architecture.is_empty() {
        return None;
    }
    let name = qemu_name(architecture);
    if let Ok(entry) = std::fs::read_to_string(binfmt.join(format!("qemu-{name}"))) {
        let enabled = entry.lines().next() == Some("enabled");
        let flags = entry.lines().find_map(|line| line.strip_prefix("flags:")).unwrap_or_default();
        if enabled && flags.contains('F') {
            return None;
        }
        return Some(format!(
            "the emulator qemu-{name} is registered with the kernel, but {}",
            if enabled {
                "without the F flag, so it is not found inside a root file system; register it anew \
                 (Debian and Ubuntu: reinstall qemu-user-static)"
            } else {
                "disabled"
            }
        ));
    }
    Some(format!(
        "programs for linux/{architecture} need an emulator, and none is registered with the kernel: install \
         qemu-user-static (Debian, Ubuntu, Fedora), or register qemu-{name} in {BINFMT} with the F flag"
    ))
}

/// QEMU's name of an architecture.
fn qemu_name(architecture: &str) -> &str {
    match architecture {
        "arm64" => "aarch64",
        "amd64" => "x86_64",
        "386" => "i386",
        "mips64le" => "mips64el",
        "loong64" => "loongarch64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_run_here_is_explained() {
        let dir = tempfile::tempdir().expect("directory");
        let check = |architecture: &str| obstacle_for("linux", architecture, "x86_64", dir.path());
        assert_eq!((check("amd64"), check("386")), (None, None));
        assert!(check("arm64").is_some_and(|text| text.contains("qemu-user-static")));
        let entry = dir.path().join("qemu-aarch64");
        std::fs::write(&entry, "enabled\ninterpreter /usr/bin/qemu\nflags: OC\n").expect("write");
        assert!(check("arm64").is_some_and(|text| text.contains("F flag")));
        std::fs::write(&entry, "enabled\ninterpreter /usr/bin/qemu\nflags: OCF\n").expect("write");
        assert_eq!(check("arm64"), None);
        assert!(obstacle_for("windows", "amd64", "x86_64", dir.path()).is_some());
    }
}
