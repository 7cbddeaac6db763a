//! Python distributions: `METADATA` of wheels, `PKG-INFO` of eggs.

use super::package::{Ecosystem, Package};
use super::text::{Found, lossy, paragraphs};

/// Reads core metadata: fields, an empty line, a description.
pub(super) fn metadata(bytes: &[u8]) -> Found {
    let text = lossy(bytes);
    let Some(fields) = paragraphs(&text).into_iter().next() else { return Found::problem("it is empty") };
    let (Some(name), Some(version)) = (fields.get("Name"), fields.get("Version")) else {
        return Found::problem("it has no name or no version");
    };
    let mut package = Package::new(Ecosystem::Python, name, version);
    if let Some(expression) = fields.get("License-Expression") {
        package.license(expression);
    } else {
        // Whole license texts are found here, too.
        if let Some(license) = fields.get("License").filter(|text| text.len() <= 100 && !text.contains('\n'))
        {
            package.license(license);
        }
        if package.licenses.is_empty() {
            for classifier in fields.all("Classifier").filter(|text| text.starts_with("License ::")) {
                let license = classifier.rsplit("::").next().unwrap_or_default().trim();
                if license != "OSI Approved" {
                    package.license(license);
                }
            }
        }
    }
    package.supplier = fields.get("Author").or(fields.get("Author-email")).map(str::to_owned);
    package.homepage = fields.get("Home-page").filter(|page| *page != "UNKNOWN").map(str::to_owned);
    Found::one(package)
}
