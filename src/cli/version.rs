//! `rbuild version`.

use serde_json::json;

use super::args::VersionArgs;
use super::template;
use super::{Stop, print, print_json};

/// `rbuild version [--format FORMAT]`
pub(super) fn version(args: &VersionArgs) -> Result<u8, Stop> {
    let version = env!("CARGO_PKG_VERSION");
    let one = json!({ "Version": version, "Os": std::env::consts::OS, "Arch": std::env::consts::ARCH });
    // Scripts ask docker for either.
    let all = json!({ "Version": version, "Client": one, "Server": one });
    match args.format.as_deref().unwrap_or_default() {
        "" => print(&format!("rbuild {version}\n"))?,
        "json" => print_json(&format!("{all}\n"))?,
        format => print(&format!("{}\n", template::parse(format)?.render(&all)?))?,
    }
    Ok(0)
}
