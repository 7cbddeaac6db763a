//! Rules for JSON that is not trusted to have any shape: descriptors, annotations, lists of texts.

use std::collections::BTreeSet;

use base64::Engine as _;
use serde_json::{Map, Value};

use crate::digest::Digest;
use crate::image::Descriptor;

use super::report::Report;

/// A JSON object with its place, for messages.
pub(super) struct Object<'a> {
    pub place: String,
    pub fields: &'a Map<String, Value>,
}

impl<'a> Object<'a> {
    /// The object, or a problem.
    pub fn of(value: &'a Value, place: &str, report: &mut Report) -> Option<Self> {
        match value.as_object() {
            Some(fields) => Some(Object { place: place.to_owned(), fields }),
            None => {
                report.add(place, format!("is {}, not an object", kind(value)));
                None
            }
        }
    }

    /// The place of a field.
    pub fn at(&self, name: &str) -> String {
        format!("{}: {name}", self.place)
    }

    /// A field that is there and not null.
    pub fn get(&self, name: &str) -> Option<&'a Value> {
        self.fields.get(name).filter(|value| !value.is_null())
    }

    /// A text that has to be there and not empty.
    pub fn required_text(&self, name: &str, report: &mut Report) -> Option<&'a str> {
        match self.get(name) {
            None => report.add(&self.place, format!("{name} is missing")),
            Some(Value::String(text)) if text.is_empty() => report.add(self.at(name), "is empty"),
            Some(Value::String(text)) => return Some(text),
            Some(other) => report.add(self.at(name), format!("is {}, not a text", kind(other))),
        }
        None
    }

    /// A text that may be left out.
    pub fn text(&self, name: &str, report: &mut Report) -> Option<&'a str> {
        match self.get(name)? {
            Value::String(text) => Some(text),
            other => {
                report.add(self.at(name), format!("is {}, not a text", kind(other)));
                None
            }
        }
    }

    /// A list that may be left out.
    pub fn list(&self, name: &str, report: &mut Report) -> Option<&'a Vec<Value>> {
        match self.get(name)? {
            Value::Array(list) => Some(list),
            other => {
                report.add(self.at(name), format!("is {}, not a list", kind(other)));
                None
            }
        }
    }

    /// A list of texts that may be left out.
    pub fn texts(&self, name: &str, report: &mut Report) -> Vec<&'a str> {
        let mut texts = Vec::new();
        for (at, item) in self.list(name, report).into_iter().flatten().enumerate() {
            match item.as_str() {
                Some(text) => texts.push(text),
                None => {
                    report.add(self.at(&format!("{name}[{at}]")), format!("is {}, not a text", kind(item)))
                }
            }
        }
        texts
    }

    /// A map whose values are texts: annotations, labels.
    pub fn text_map(&self, name: &str, report: &mut Report) {
        let Some(value) = self.get(name) else { return };
        let Some(map) = Object::of(value, &self.at(name), report) else { return };
        for (key, value) in map.fields {
            if key.is_empty() {
                report.add(&map.place, "has an entry without a name");
            }
            if !value.is_string() {
                report.add(map.at(&format!("{key:?}")), format!("is {}, not a text", kind(value)));
            }
        }
    }
}

/// What a JSON value is, in words.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// Checks a descriptor (image-spec descriptor.md); gives it where its three required fields are sound.
pub(super) fn descriptor(value: &Value, place: &str, report: &mut Report) -> Option<Descriptor> {
    let object = Object::of(value, place, report)?;
    let media_type = object.required_text("mediaType", report);
    if let Some(text) = media_type.filter(|text| !is_media_type(text)) {
        report.add(object.at("mediaType"), format!("{text:?} is no media type"));
    }
    let digest = object.required_text("digest", report).and_then(|text| {
        let parsed = Digest::parse(text);
        if parsed.is_err() {
            report.add(object.at("digest"), format!("{text:?} is not sha256: and 64 lower-case hex digits"));
        }
        parsed.ok()
    });
    let size = size(&object, report);
    object.text_map("annotations", report);
    object.text("artifactType", report);
    for url in object.texts("urls", report) {
        if !url.contains("://") {
            report.add(object.at("urls"), format!("{url:?} is no absolute address"));
        }
    }
    if let (Some(data), Some(digest), Some(size)) = (object.text("data", report), digest, size) {
        data_field(&object, data, &digest, size, report);
    }
    if let Some(platform) = object.get("platform") {
        self::platform(platform, &object.at("platform"), report);
    }
    let mut descriptor = Descriptor::new(media_type?, digest?, size?);
    // What was found wrong above is left out here, so that the rest can still be read.
    let annotations = object.get("annotations").cloned().unwrap_or_default();
    descriptor.annotations = serde_json::from_value(annotations).unwrap_or_default();
    descriptor.platform = object.get("platform").and_then(|value| serde_json::from_value(value.clone()).ok());
    Some(descriptor)
}

fn size(object: &Object<'_>, report: &mut Report) -> Option<u64> {
    match object.get("size") {
        None => report.add(&object.place, "size is missing"),
        Some(Value::Number(number)) if number.as_u64().is_some() => return number.as_u64(),
        Some(Value::Number(number)) => {
            report.add(object.at("size"), format!("{number} is no number of bytes"));
        }
        Some(other) => report.add(object.at("size"), format!("is {}, not a number", kind(other))),
    }
    None
}

fn data_field(object: &Object<'_>, data: &str, digest: &Digest, size: u64, report: &mut Report) {
    match base64::engine::general_purpose::STANDARD.decode(data) {
        Err(_) => report.add(object.at("data"), "is not base64"),
        Ok(bytes) if bytes.len() as u64 != size || Digest::of(&bytes) != *digest => {
            report.add(object.at("data"), "is not the blob that the descriptor names");
        }
        Ok(_) => {}
    }
}

/// Checks a platform object (image-spec image-index.md).
pub(super) fn platform(value: &Value, place: &str, report: &mut Report) {
    let Some(object) = Object::of(value, place, report) else { return };
    object.required_text("os", report);
    object.required_text("architecture", report);
    object.text("variant", report);
    object.text("os.version", report);
    object.texts("os.features", report);
}

/// RFC 6838, 4.2: a type and a subtype of restricted characters.
fn is_media_type(text: &str) -> bool {
    let plain = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphanumeric())
            && part.len() <= 127
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "!#$&-^_.+".contains(c))
    };
    text.split_once('/').is_some_and(|(kind, sub)| plain(kind) && plain(sub))
}

/// Whether a text is a time as RFC 3339 writes it.
pub(super) fn is_rfc3339(text: &str) -> bool {
    let zone = text.ends_with(['Z', 'z'])
        || text.len() > 6 && matches!(text.as_bytes().get(text.len() - 6), Some(b'+' | b'-'));
    let separated = matches!(text.as_bytes().get(10), Some(b'T' | b't'));
    zone && separated && text.is_ascii() && (text.parse::<jiff::Timestamp>().is_ok() || is_zero_time(text))
}

/// Go's zero time, which tools write for "unknown".
fn is_zero_time(text: &str) -> bool {
    text == "0001-01-01T00:00:00Z"
}

/// Texts that come twice, each once.
pub(super) fn repeated<'a>(texts: impl IntoIterator<Item = &'a str>) -> BTreeSet<&'a str> {
    let mut seen = BTreeSet::new();
    texts.into_iter().filter(|text| !seen.insert(*text)).collect()
}
