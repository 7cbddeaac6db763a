//! Which distribution an image is of.

use std::collections::BTreeMap;

use super::text::lossy;

/// What `os-release` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Distribution {
    /// `ID`, such as `debian`.
    pub id: String,
    /// `VERSION_ID`; empty for rolling ones.
    pub version: String,
    /// `PRETTY_NAME`.
    pub name: String,
    /// `CPE_NAME`.
    pub cpe: Option<String>,
}

impl Distribution {
    /// Reads the file (os-release(5)): assignments as a shell has them.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let text = lossy(bytes);
        let fields: BTreeMap<&str, String> = text
            .lines()
            .filter_map(|line| line.trim().split_once('='))
            .map(|(name, value)| (name, value.trim().trim_matches(['"', '\'']).replace('\\', "")))
            .collect();
        let get = |name: &str| fields.get(name).cloned().unwrap_or_default();
        let id = get("ID").to_lowercase();
        (!id.is_empty()).then(|| Distribution {
            id,
            version: get("VERSION_ID"),
            name: get("PRETTY_NAME"),
            cpe: fields.get("CPE_NAME").cloned(),
        })
    }

    /// The qualifier `distro` of package URLs.
    pub(super) fn qualifier(&self) -> String {
        if self.version.is_empty() { self.id.clone() } else { format!("{}-{}", self.id, self.version) }
    }
}
