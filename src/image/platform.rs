//! Platforms: `os/architecture[/variant]`, their aliases, and which image serves which platform.

use std::cmp::Reverse;
use std::fmt;

/// A normalised platform. An empty variant is the architecture's base level.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Platform {
    /// GOOS name, such as `linux`.
    pub os: String,
    /// GOARCH name, such as `amd64`.
    pub architecture: String,
    /// CPU variant, such as `v7`; often empty.
    pub variant: String,
}

/// Why a text is no platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid platform {0:?}: expected os/architecture[/variant], such as linux/amd64 or linux/arm/v7")]
pub struct InvalidPlatform(pub String);

impl Platform {
    /// The arguments that every `FROM` sees without declaration: those of the platform that is built for
    /// and of the one that builds, and the target stage's name.
    pub fn arguments(target: &Self, build: &Self, stage: &str) -> [(&'static str, String); 11] {
        [
            ("BUILDPLATFORM", build.to_string()),
            ("BUILDOS", build.os.clone()),
            ("BUILDOSVERSION", String::new()),
            ("BUILDARCH", build.architecture.clone()),
            ("BUILDVARIANT", build.variant.clone()),
            ("TARGETPLATFORM", target.to_string()),
            ("TARGETOS", target.os.clone()),
            ("TARGETOSVERSION", String::new()),
            ("TARGETARCH", target.architecture.clone()),
            ("TARGETVARIANT", target.variant.clone()),
            ("TARGETSTAGE", stage.to_owned()),
        ]
    }

    /// Normalises the three parts: aliases such as `x86_64`, `aarch64` or `armhf` become GOARCH
    /// names, and variants that mean the default are dropped (`arm64/v8`, `amd64/v1`) or, for `arm`,
    /// written out (`v7`).
    pub fn new(os: &str, architecture: &str, variant: &str) -> Self {
        let os = match os.to_ascii_lowercase() {
            os if os == "macos" => "darwin".to_owned(),
            os => os,
        };
        let (architecture, variant) =
            normalize(&architecture.to_ascii_lowercase(), &variant.to_ascii_lowercase());
        Platform { os, architecture, variant }
    }

    /// Parses what users write: `os/arch[/variant]`, an architecture alone (for Linux), an operating
    /// system alone (for the host's architecture), or `local` for the host.
    pub fn parse(text: &str) -> Result<Self, InvalidPlatform> {
        let invalid = || InvalidPlatform(text.to_owned());
        let plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'-' | b'.');
        let parts: Vec<&str> = text.split('/').collect();
        if parts.iter().any(|part| part.is_empty() || !part.bytes().all(plain)) {
            return Err(invalid());
        }
        match parts[..] {
            ["local"] => Ok(Self::host()),
            [os] if is_known_os(os) => {
                let host = Self::host();
                Ok(Platform::new(os, &host.architecture, &host.variant))
            }
            [architecture] if is_known_architecture(architecture) => {
                Ok(Platform::new("linux", architecture, ""))
            }
            [os, architecture] => Ok(Platform::new(os, architecture, "")),
            [os, architecture, variant] => Ok(Platform::new(os, architecture, variant)),
            _ => Err(invalid()),
        }
    }

    /// The platform this program runs on.
    pub fn host() -> Self {
        Platform::new(std::env::consts::OS, std::env::consts::ARCH, "")
    }

    /// Whether an image of platform `have` runs on this one.
    pub fn accepts(&self, have: &Platform) -> bool {
        self.rank(have).is_some()
    }

    /// How well an image of platform `have` serves this one: `None` not at all, else the greater the
    /// better. The same variant is best; then, for `amd64`, `arm` and `arm64`, the highest variant
    /// below. `unknown/unknown`, which marks attestations, serves nothing.
    pub fn rank(&self, have: &Platform) -> Option<u32> {
        if have.os == "unknown" || have.architecture == "unknown" {
            return None;
        }
        if self.os != have.os || self.architecture != have.architecture {
            return None;
        }
        if self.variant == have.variant {
            return Some(u32::MAX);
        }
        let level = level(&self.architecture, &have.variant)?;
        (level <= self::level(&self.architecture, &self.variant)?).then_some(level)
    }

    /// The position of the platform that serves this one best; the first among equals.
    pub fn select<'a>(&self, have: impl IntoIterator<Item = Option<&'a Platform>>) -> Option<usize> {
        have.into_iter()
            .enumerate()
            .filter_map(|(at, platform)| Some((self.rank(platform?)?, Reverse(at))))
            .max()
            .map(|(_, Reverse(at))| at)
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if !self.variant.is_empty() {
            write!(f, "/{}", self.variant)?;
        }
        Ok(())
    }
}

fn normalize(architecture: &str, variant: &str) -> (String, String) {
    let (architecture, variant) = match architecture {
        "x86_64" | "x86-64" | "amd64" => ("amd64", if variant == "v1" { "" } else { variant }),
        "i386" | "i486" | "i586" | "i686" | "x86" | "386" => ("386", variant),
        "aarch64" | "arm64" => ("arm64", if matches!(variant, "8" | "v8" | "v8.0") { "" } else { variant }),
        "armhf" | "armv7" | "armv7l" => ("arm", "v7"),
        "armel" | "armv6" | "armv6l" => ("arm", "v6"),
        "arm" if variant.is_empty() => ("arm", "v7"),
        "powerpc64" => ("ppc64", variant),
        "powerpc64le" => ("ppc64le", variant),
        "loongarch64" => ("loong64", variant),
        other => (other, variant),
    };
    let variant = match variant.bytes().next() {
        Some(digit) if digit.is_ascii_digit() && matches!(architecture, "arm" | "arm64" | "amd64") => {
            format!("v{variant}")
        }
        _ => variant.to_owned(),
    };
    (architecture.to_owned(), variant)
}

/// A variant's place in the order of its architecture; each level runs all code of those below.
fn level(architecture: &str, variant: &str) -> Option<u32> {
    let variant = match (architecture, variant) {
        ("amd64", "") => "v1",
        ("arm", "") => "v7",
        ("arm64", "") => "v8",
        _ => variant,
    };
    let (major, minor) = match variant.strip_prefix('v')?.split_once('.') {
        Some((major, minor)) => (major.parse::<u32>().ok()?, minor.parse::<u32>().ok()?),
        None => (variant[1..].parse::<u32>().ok()?, 0),
    };
    match architecture {
        "amd64" | "arm" if minor == 0 && major < 100 => Some(major),
        // Armv9.x contains Armv8.(x+5), by the architecture's own definition.
        "arm64" if major == 8 && minor < 100 => Some(minor),
        "arm64" if major == 9 && minor < 100 => Some(minor + 5),
        _ => None,
    }
}

fn is_known_os(text: &str) -> bool {
    matches!(
        text.to_ascii_lowercase().as_str(),
        "linux" | "windows" | "darwin" | "macos" | "freebsd" | "netbsd" | "openbsd" | "solaris" | "wasip1"
    )
}

fn is_known_architecture(text: &str) -> bool {
    matches!(
        normalize(&text.to_ascii_lowercase(), "").0.as_str(),
        "386"
            | "amd64"
            | "arm"
            | "arm64"
            | "loong64"
            | "mips64le"
            | "mipsle"
            | "ppc64"
            | "ppc64le"
            | "riscv64"
            | "s390x"
            | "wasm"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        match Platform::parse(text) {
            Ok(platform) => platform,
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn aliases_become_go_names() {
        for (given, expected) in [
            ("linux/x86_64", "linux/amd64"),
            ("linux/amd64/v1", "linux/amd64"),
            ("linux/amd64/v3", "linux/amd64/v3"),
            ("linux/aarch64", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/arm64/8", "linux/arm64"),
            ("linux/arm64/v9", "linux/arm64/v9"),
            ("linux/armhf", "linux/arm/v7"),
            ("linux/armel", "linux/arm/v6"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/arm/6", "linux/arm/v6"),
            ("Linux/AMD64", "linux/amd64"),
            ("linux/i386", "linux/386"),
            ("arm64", "linux/arm64"),
            ("macos/arm64", "darwin/arm64"),
            ("linux/riscv64", "linux/riscv64"),
        ] {
            assert_eq!(platform(given).to_string(), expected, "{given}");
        }
        assert_eq!(platform("local"), Platform::host());
        assert_eq!(platform("linux").architecture, Platform::host().architecture);
    }

    #[test]
    fn what_is_no_platform_is_refused() {
        for bad in ["", "/", "linux/", "/amd64", "pdp11", "a/b/c/d", "linux/amd 64", "linux(1)/amd64"] {
            assert_eq!(Platform::parse(bad), Err(InvalidPlatform(bad.to_owned())));
        }
    }

    #[test]
    fn the_best_of_an_index_is_selected() {
        for (wanted, have, expected) in [
            ("linux/amd64", &["linux/arm64", "linux/amd64"][..], Some(1)),
            ("linux/amd64", &["linux/amd64/v2"], None),
            ("linux/amd64/v3", &["linux/amd64", "linux/amd64/v2", "linux/amd64/v4"], Some(1)),
            ("linux/arm/v7", &["linux/arm/v5", "linux/arm/v6"], Some(1)),
            ("linux/arm/v6", &["linux/arm/v7"], None),
            ("linux/arm/v6", &["linux/arm/v5", "linux/arm/v6"], Some(1)),
            ("linux/arm64", &["linux/arm/v7"], None),
            ("linux/arm64/v9", &["linux/arm64", "linux/arm64/v8.5", "linux/arm64/v8.6"], Some(1)),
            ("linux/amd64", &["linux/amd64", "linux/amd64"], Some(0)),
            ("linux/amd64", &["unknown/unknown", "windows/amd64"], None),
            ("unknown/unknown", &["unknown/unknown"], None),
            ("linux/mips64le/hardfloat", &["linux/mips64le/softfloat"], None),
        ] {
            let have: Vec<Platform> = have.iter().map(|text| platform(text)).collect();
            assert_eq!(platform(wanted).select(have.iter().map(Some)), expected, "{wanted}");
        }
    }
}
