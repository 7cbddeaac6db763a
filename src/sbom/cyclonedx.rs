//! CycloneDX 1.6 as JSON.

use serde_json::{Map, Value, json};

use super::document::Document;
use super::license;
use super::package::{Ecosystem, Package};

pub(super) fn render(document: &Document<'_>) -> Value {
    let inventory = document.inventory;
    let ids = document.ids();
    let mut components: Vec<Value> =
        inventory.packages.iter().zip(&ids).map(|(package, id)| component(document, package, id)).collect();
    if let Some(distribution) = &inventory.distribution {
        let mut system = json!({ "type": "operating-system", "bom-ref": "os", "name": distribution.id });
        if !distribution.version.is_empty() {
            system["version"] = json!(distribution.version);
        }
        if !distribution.name.is_empty() {
            system["description"] = json!(distribution.name);
        }
        if let Some(cpe) = distribution.cpe.as_deref().filter(|cpe| cpe.starts_with("cpe:")) {
            system["cpe"] = json!(cpe);
        }
        components.push(system);
    }
    for (at, file) in inventory.files.iter().enumerate() {
        components.push(json!({
            "type": "file",
            "bom-ref": format!("file-{at}"),
            "name": format!("/{}", file.path),
            "hashes": [{ "alg": "SHA-256", "content": file.digest.hex() }],
            "properties": layer(document, file.layer),
        }));
    }
    let subject = document.subject;
    let mut image = json!({
        "type": "container",
        "bom-ref": "image",
        "name": subject.name,
    });
    if let Some(version) = document.version() {
        image["version"] = json!(version);
    }
    if let Some(digest) = subject.digest {
        image["hashes"] = json!([{ "alg": "SHA-256", "content": digest.hex() }]);
    }
    if let Some(purl) = document.purl() {
        image["purl"] = json!(purl);
    }
    let mut properties = vec![property("rbuild:platform", &subject.platform)];
    let notes =
        inventory.notes.iter().map(|note| property("rbuild:note", &format!("/{}: {}", note.path, note.text)));
    properties.extend(notes);
    json!({
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": format!("urn:uuid:{}", document.uuid("cyclonedx")),
        "version": 1,
        "metadata": {
            "timestamp": document.created(),
            "tools": { "components": [{
                "type": "application", "name": "rbuild", "version": document.facts.version,
            }] },
            "component": image,
            "properties": properties,
        },
        "components": components,
        "dependencies": [{ "ref": "image", "dependsOn": ids }],
    })
}

fn property(name: &str, value: &str) -> Value {
    json!({ "name": name, "value": value })
}

fn layer(document: &Document<'_>, layer: usize) -> Vec<Value> {
    let Some(origin) = document.inventory.layers.get(layer) else { return Vec::new() };
    let mut all = vec![
        property("rbuild:layer:index", &(layer + 1).to_string()),
        property("rbuild:layer:diffID", &origin.diff_id.to_string()),
    ];
    if !origin.created_by.is_empty() {
        all.push(property("rbuild:layer:createdBy", &origin.created_by));
    }
    all
}

fn component(document: &Document<'_>, package: &Package, id: &str) -> Value {
    let mut out = Map::new();
    out.insert("type".into(), json!("library"));
    out.insert("bom-ref".into(), json!(id));
    if let Some(supplier) = &package.supplier {
        out.insert("supplier".into(), json!({ "name": supplier }));
    }
    match (package.ecosystem, &package.namespace) {
        (Ecosystem::Maven | Ecosystem::Npm | Ecosystem::Composer, Some(group)) => {
            out.insert("group".into(), json!(group));
            out.insert("name".into(), json!(package.name));
        }
        _ => drop(out.insert("name".into(), json!(package.full_name()))),
    }
    if !package.version.is_empty() {
        out.insert("version".into(), json!(package.version));
    }
    let licenses = licenses(package);
    if !licenses.is_empty() {
        out.insert("licenses".into(), json!(licenses));
    }
    out.insert("cpe".into(), json!(package.cpe()));
    out.insert("purl".into(), json!(package.purl()));
    let mut properties: Vec<Value> =
        package.found_in.iter().map(|path| property("rbuild:location", &format!("/{path}"))).collect();
    properties.extend(layer(document, package.layer));
    out.insert("properties".into(), json!(properties));
    Value::Object(out)
}

/// Either one expression, or a list of licenses: a document may not mix them.
fn licenses(package: &Package) -> Vec<Value> {
    let compound =
        |stated: &str| license::identifier(stated).is_none() && license::expression(stated).is_some();
    if let [stated] = &package.licenses[..]
        && compound(stated)
    {
        return vec![json!({ "expression": license::expression(stated) })];
    }
    let one = |stated: &String| match license::identifier(stated) {
        Some(id) => json!({ "license": { "id": id } }),
        None => json!({ "license": { "name": stated } }),
    };
    let mut all: Vec<Value> = Vec::new();
    for license in package.licenses.iter().map(one) {
        if !all.contains(&license) {
            all.push(license);
        }
    }
    all
}
