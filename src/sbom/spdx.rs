//! SPDX 2.3 as JSON.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::document::Document;
use super::license;
use super::package::{Ecosystem, Package};

const IMAGE: &str = "SPDXRef-image";
const NONE: &str = "NOASSERTION";

pub(super) fn render(document: &Document<'_>) -> Value {
    let inventory = document.inventory;
    let mut licenses = BTreeMap::new();
    let mut packages = vec![image(document)];
    let mut relationships = vec![relationship("SPDXRef-DOCUMENT", "DESCRIBES", IMAGE)];
    let files: BTreeMap<&str, String> = inventory
        .files
        .iter()
        .enumerate()
        .map(|(at, file)| (file.path.as_str(), format!("SPDXRef-file-{at}")))
        .collect();
    for (package, id) in inventory.packages.iter().zip(document.ids()) {
        let id = format!("SPDXRef-{id}");
        packages.push(self::package(document, package, &id, &mut licenses));
        relationships.push(relationship(IMAGE, "CONTAINS", &id));
        for path in &package.found_in {
            if let Some(file) = files.get(path.as_str()) {
                let mut found = relationship(&id, "OTHER", file);
                found["comment"] = json!("evident-by: the package was found in this file");
                relationships.push(found);
            }
        }
    }
    let uuid = document.uuid("spdx");
    let mut out = json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": document.subject.name,
        "documentNamespace": format!("urn:uuid:{uuid}"),
        "creationInfo": {
            "created": document.created(),
            "creators": [format!("Tool: rbuild-{}", document.facts.version)],
        },
        "packages": packages,
    });
    if !inventory.files.is_empty() {
        let list = inventory.files.iter().zip(0..).map(|(file, at)| {
            let layer = inventory.layers.get(file.layer).map(|layer| layer.diff_id.to_string()).unwrap_or_default();
            json!({
                "SPDXID": format!("SPDXRef-file-{at}"),
                "fileName": format!("./{}", file.path),
                "checksums": [{ "algorithm": "SHA1", "checksumValue": file.sha1 }, { "algorithm": "SHA256", "checksumValue": file.digest.hex() }],
                "licenseConcluded": NONE,
                "copyrightText": NONE,
                "comment": format!("layerID: {layer}"),
            })
        });
        out["files"] = list.collect();
    }
    out["relationships"] = Value::Array(relationships);
    if !licenses.is_empty() {
        out["hasExtractedLicensingInfos"] = licenses
            .iter()
            .map(|(id, stated)| json!({ "licenseId": id, "name": stated, "extractedText": stated }))
            .collect();
    }
    if !inventory.notes.is_empty() {
        let lines: Vec<String> =
            inventory.notes.iter().map(|note| format!("/{}: {}", note.path, note.text)).collect();
        out["comment"] = json!(format!("Some files could not be read as they should:\n{}", lines.join("\n")));
    }
    out
}

fn relationship(from: &str, kind: &str, to: &str) -> Value {
    json!({ "spdxElementId": from, "relationshipType": kind, "relatedSpdxElement": to })
}

fn image(document: &Document<'_>) -> Value {
    let subject = document.subject;
    let mut out = Map::new();
    out.insert("SPDXID".into(), json!(IMAGE));
    out.insert("name".into(), json!(subject.name));
    if let Some(version) = document.version() {
        out.insert("versionInfo".into(), json!(version));
    }
    out.insert("supplier".into(), json!(NONE));
    out.insert("downloadLocation".into(), json!(NONE));
    out.insert("filesAnalyzed".into(), json!(false));
    out.insert("licenseConcluded".into(), json!(NONE));
    out.insert("licenseDeclared".into(), json!(NONE));
    out.insert("copyrightText".into(), json!(NONE));
    out.insert("primaryPackagePurpose".into(), json!("CONTAINER"));
    if let Some(digest) = subject.digest {
        out.insert("checksums".into(), json!([{ "algorithm": "SHA256", "checksumValue": digest.hex() }]));
    }
    if let Some(purl) = document.purl() {
        out.insert("externalRefs".into(), json!([reference("PACKAGE-MANAGER", "purl", &purl)]));
    }
    let layers = (0..document.inventory.layers.len()).map(|layer| document.layer_text(layer));
    let layers: Vec<String> =
        std::iter::once(format!("platform {}", subject.platform)).chain(layers).collect();
    out.insert("comment".into(), json!(layers.join("\n")));
    Value::Object(out)
}

fn reference(category: &str, kind: &str, locator: &str) -> Value {
    json!({ "referenceCategory": category, "referenceType": kind, "referenceLocator": locator })
}

fn package(
    document: &Document<'_>,
    package: &Package,
    id: &str,
    licenses: &mut BTreeMap<String, String>,
) -> Value {
    let mut out = Map::new();
    out.insert("SPDXID".into(), json!(id));
    out.insert("name".into(), json!(package.full_name()));
    if !package.version.is_empty() {
        out.insert("versionInfo".into(), json!(package.version));
    }
    out.insert("supplier".into(), json!(supplier(package)));
    out.insert("downloadLocation".into(), json!(NONE));
    out.insert("filesAnalyzed".into(), json!(false));
    if let Some(page) = package.homepage.as_deref().filter(|page| is_url(page)) {
        out.insert("homepage".into(), json!(page));
    }
    let paths: Vec<String> = package.found_in.iter().map(|path| format!("/{path}")).collect();
    let source = format!("found in {}; {}", paths.join(", "), document.layer_text(package.layer));
    out.insert("sourceInfo".into(), json!(source));
    out.insert("licenseConcluded".into(), json!(NONE));
    out.insert("licenseDeclared".into(), json!(declared(package, licenses)));
    out.insert("copyrightText".into(), json!(NONE));
    out.insert(
        "externalRefs".into(),
        json!([
            reference("SECURITY", "cpe23Type", &package.cpe()),
            reference("PACKAGE-MANAGER", "purl", &package.purl()),
        ]),
    );
    Value::Object(out)
}

fn is_url(text: &str) -> bool {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    rest.is_some_and(|rest| {
        !rest.is_empty() && rest.chars().all(|c| c.is_ascii_graphic() && !"<>\"{}|\\^`".contains(c))
    })
}

/// Maintainers of distributions are organizations to SPDX, authors of libraries people.
fn supplier(package: &Package) -> String {
    let Some(supplier) = &package.supplier else { return NONE.to_owned() };
    let line: String = supplier.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let (name, mail) = line.split_once('<').unwrap_or((&line, ""));
    let (name, mail) = (name.trim(), mail.trim().trim_end_matches('>'));
    let plain = |text: &str| text.replace(['(', ')'], " ").split_whitespace().collect::<Vec<_>>().join(" ");
    let (name, mail) = (plain(name), plain(mail));
    let name = if name.is_empty() { mail.clone() } else { name };
    if name.is_empty() {
        return NONE.to_owned();
    }
    let kind = match package.ecosystem {
        Ecosystem::Deb | Ecosystem::Apk | Ecosystem::Rpm => "Organization",
        _ => "Person",
    };
    let is_mail = mail.split_once('@').is_some_and(|(user, host)| {
        let fits = |text: &str| {
            !text.is_empty() && text.bytes().all(|c| c.is_ascii_alphanumeric() || b".-_+".contains(&c))
        };
        fits(user) && fits(host)
    });
    if is_mail { format!("{kind}: {name} ({mail})") } else { format!("{kind}: {name}") }
}

/// All licenses that are stated, as one expression.
fn declared(package: &Package, licenses: &mut BTreeMap<String, String>) -> String {
    let mut parts: Vec<String> = Vec::new();
    for stated in &package.licenses {
        let part = license::expression(stated).unwrap_or_else(|| {
            let id = license::reference(stated);
            licenses.insert(id.clone(), stated.clone());
            id
        });
        if !parts.contains(&part) {
            parts.push(part);
        }
    }
    match parts.len() {
        0 => NONE.to_owned(),
        1 => parts.remove(0),
        _ => {
            let group = |part: &String| if part.contains(' ') { format!("({part})") } else { part.clone() };
            parts.iter().map(group).collect::<Vec<_>>().join(" AND ")
        }
    }
}
