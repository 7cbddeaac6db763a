//! Ports and platforms: rules about single values.

use crate::dockerfile::{Expander, Word};
use crate::image::{ImageConfig, Platform};

use super::finding::{Edit, Findings, Place};
use super::rule as rules;
use super::scope::{self, Scope};
use super::stages::Stages;

/// `EXPOSE`: lower-case protocols, and ports of the container alone.
pub(super) fn expose(
    expander: Expander,
    scope: &Scope,
    place: Place<'_>,
    words: &[Word],
    findings: &mut Findings<'_>,
) {
    for word in words {
        for port in scope::read_words(expander, &word.text, scope).unwrap_or_default() {
            let lower = match port.split_once('/') {
                Some((number, protocol)) => format!("{number}/{}", protocol.to_ascii_lowercase()),
                None => port.clone(),
            };
            if lower != port {
                let detail = format!("Defined protocol '{port}' in EXPOSE instruction should be lowercase");
                let literal = word.text == port && findings.dockerfile.source.slice(word.span) == port;
                let edits = if literal { vec![Edit::new(word.span, lower)] } else { Vec::new() };
                findings.add_with(&rules::EXPOSE_PROTO_CASING, place, detail, edits);
            }
            if maps(&port) {
                let detail = format!(
                    "EXPOSE instruction should not define an IP address or host-port mapping, found '{port}'"
                );
                findings.add(&rules::EXPOSE_INVALID_FORMAT, place, detail);
            }
        }
    }
}

/// Whether `[address:]host:container` has anything before the container's port. Empty parts are none, up to
/// the address, in which colons count.
fn maps(port: &str) -> bool {
    let Some((before, _)) = port.rsplit_once(':') else { return false };
    match before.rsplit_once(':') {
        Some((address, host)) => !address.is_empty() || !host.is_empty(),
        None => !before.is_empty(),
    }
}

/// An image of one platform only may be of another than was asked for.
pub(super) fn base_platform(
    stages: &Stages<'_>,
    name: &str,
    wanted: Option<&Platform>,
    image: &ImageConfig,
    place: Place<'_>,
    findings: &mut Findings<'_>,
) {
    let wanted = wanted.unwrap_or(stages.input.platform);
    if image.os.is_empty() || image.architecture.is_empty() {
        return;
    }
    let actual = Platform::new(&image.os, &image.architecture, &image.variant);
    if (&actual.os, &actual.architecture) != (&wanted.os, &wanted.architecture) {
        let detail = format!(
            "Base image {name} was pulled with platform \"{actual}\", expected \"{wanted}\" for current build"
        );
        findings.add(&rules::INVALID_BASE_IMAGE_PLATFORM, place, detail);
    }
}
