//! Records: small results under the digest of what they follow from. Each says of which kind and version
//! it is and what it refers to, so that collection and checks need not understand its content.
//!
//! ```text
//! rbuild-record KIND VERSION CRC\n    the CRC-32 of everything behind this line
//! note TEXT\n                         for people
//! layer DIGEST\n                      references, one a line; see Edge
//! \n
//! CONTENT
//! ```
//!
//! Records of older versions begin with their content; they are read as before.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::digest::{ChainId, DiffId, Digest};

use super::open::{Store, StoreError};

const MAGIC: &str = "rbuild-record ";

/// The kinds of records.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum RecordKind {
    /// What a step gave, by its key.
    Step,
    /// The files that the digest of a step's input was made of.
    Listing,
    /// A digest that was computed before, by what it follows from.
    Memo,
    /// A layer, by the entries it is made of.
    Recipe,
    /// What the name of an image meant in its registry.
    Pulled,
    /// A file from an address.
    Download,
    /// The repositories that have a blob.
    Origins,
    /// The eStargz form of a layer.
    Estargz,
    /// The manifest of an image that was named before its layers were compressed.
    PackedImage,
    /// An image without a name, by its ID.
    Image,
    /// Secrets that were found in a layer, without the secrets.
    Secrets,
}

impl RecordKind {
    /// All of them.
    pub const ALL: [RecordKind; 11] = [
        RecordKind::Step,
        RecordKind::Listing,
        RecordKind::Memo,
        RecordKind::Recipe,
        RecordKind::Pulled,
        RecordKind::Download,
        RecordKind::Origins,
        RecordKind::Estargz,
        RecordKind::PackedImage,
        RecordKind::Image,
        RecordKind::Secrets,
    ];

    /// Its name on disk.
    pub fn name(self) -> &'static str {
        match self {
            RecordKind::Step => "step",
            RecordKind::Listing => "listing",
            RecordKind::Memo => "memo",
            RecordKind::Recipe => "recipe",
            RecordKind::Pulled => "pulled",
            RecordKind::Download => "download",
            RecordKind::Origins => "origins",
            RecordKind::Estargz => "estargz",
            RecordKind::PackedImage => "packed-image",
            RecordKind::Image => "image",
            RecordKind::Secrets => "secrets",
        }
    }

    /// The version of its content. Records of another version are misses.
    pub fn version(self) -> u32 {
        1
    }
}

/// What a record needs to be of use.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Edge {
    /// A layer as a blob, or else as the files on top of a chain (the chain with the layer).
    Layer(DiffId, Option<ChainId>),
    /// A blob that refers to nothing.
    Blob(Digest),
    /// A manifest or index with all that it refers to.
    Document(Digest),
    /// Another record. It may be missing.
    Record(Digest),
}

impl Edge {
    fn render(&self) -> String {
        match self {
            Edge::Layer(layer, None) => format!("layer {layer}\n"),
            Edge::Layer(layer, Some(chain)) => format!("layer {layer} {chain}\n"),
            Edge::Blob(blob) => format!("blob {blob}\n"),
            Edge::Document(document) => format!("document {document}\n"),
            Edge::Record(record) => format!("record {record}\n"),
        }
    }

    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let kind = words.next()?;
        let mut digest = || words.next().map(|word| Digest::parse(word).ok());
        let first = digest()??;
        match (kind, digest()) {
            ("layer", None) => Some(Edge::Layer(DiffId(first), None)),
            ("layer", Some(chain)) => Some(Edge::Layer(DiffId(first), Some(ChainId(chain?)))),
            ("blob", None) => Some(Edge::Blob(first)),
            ("document", None) => Some(Edge::Document(first)),
            ("record", None) => Some(Edge::Record(first)),
            _ => None,
        }
    }
}

/// The content of a record of one kind.
pub trait Recorded: Sized {
    /// Its kind.
    const KIND: RecordKind;

    /// What it refers to.
    fn edges(&self) -> Vec<Edge>;

    /// What it is, in a few words on one line.
    fn note(&self) -> String;

    /// Its bytes.
    fn to_bytes(&self) -> Vec<u8>;

    /// What bytes mean; also those of records that were written before records had kinds.
    fn from_bytes(bytes: &[u8]) -> Option<Self>;
}

/// A [`Recorded`] whose bytes are JSON.
pub trait RecordedAsJson: Serialize + DeserializeOwned {
    /// Its kind.
    const KIND: RecordKind;

    /// What it refers to.
    fn edges(&self) -> Vec<Edge>;

    /// What it is, in a few words on one line.
    fn note(&self) -> String;
}

impl<T: RecordedAsJson> Recorded for T {
    const KIND: RecordKind = <T as RecordedAsJson>::KIND;

    fn edges(&self) -> Vec<Edge> {
        RecordedAsJson::edges(self)
    }

    fn note(&self) -> String {
        RecordedAsJson::note(self)
    }

    fn to_bytes(&self) -> Vec<u8> {
        // What consists of strings, numbers and values always has a JSON form.
        serde_json::to_vec(self).unwrap_or_default()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }
}

/// What a record says of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RecordHead {
    /// Its kind; `None` where this version does not know it.
    pub kind: Option<RecordKind>,
    /// The version of its content.
    pub version: u32,
    /// What it is, for people.
    pub note: String,
    /// What it refers to.
    pub edges: Vec<Edge>,
}

/// What the bytes of a record turn out to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ParsedRecord<'a> {
    /// A whole record and its content.
    Whole(RecordHead, &'a [u8]),
    /// One that was written before records had kinds, or something else.
    Untyped,
    /// Half a record.
    Damaged,
}

/// Reads the head of a record.
pub fn parse_record(bytes: &[u8]) -> ParsedRecord<'_> {
    if !bytes.starts_with(MAGIC.as_bytes()) {
        return ParsedRecord::Untyped;
    }
    parse_typed(bytes).map_or(ParsedRecord::Damaged, |(head, content)| ParsedRecord::Whole(head, content))
}

fn parse_typed(bytes: &[u8]) -> Option<(RecordHead, &[u8])> {
    let (first, mut rest) = line(bytes)?;
    let mut words = first.strip_prefix(MAGIC)?.split(' ');
    let (kind, version, sum) = (words.next()?, words.next()?.parse().ok()?, words.next()?);
    if u32::from_str_radix(sum, 16) != Ok(crc32fast::hash(rest)) {
        return None;
    }
    let kind = RecordKind::ALL.into_iter().find(|known| known.name() == kind);
    let mut head = RecordHead { kind, version, note: String::new(), edges: Vec::new() };
    loop {
        let (text, behind) = line(rest)?;
        rest = behind;
        match text.strip_prefix("note ") {
            _ if text.is_empty() => return Some((head, rest)),
            Some(note) => note.clone_into(&mut head.note),
            None => head.edges.push(Edge::parse(text)?),
        }
    }
}

fn line(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let end = bytes.iter().position(|c| *c == b'\n')?;
    Some((std::str::from_utf8(&bytes[..end]).ok()?, &bytes[end + 1..]))
}

fn render<R: Recorded>(record: &R) -> Vec<u8> {
    let note: String = record.note().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let mut rest = if note.is_empty() { String::new() } else { format!("note {note}\n") };
    record.edges().iter().for_each(|edge| rest.push_str(&edge.render()));
    rest.push('\n');
    let mut rest = rest.into_bytes();
    rest.extend(record.to_bytes());
    let (kind, version) = (R::KIND.name(), R::KIND.version());
    [format!("{MAGIC}{kind} {version} {:08x}\n", crc32fast::hash(&rest)).into_bytes(), rest].concat()
}

impl Store {
    /// The record of a key. What is damaged, of another kind or of another version is a miss.
    pub fn record<R: Recorded>(&self, key: &Digest) -> Result<Option<R>, StoreError> {
        let Some(bytes) = self.record_bytes(key)? else { return Ok(None) };
        Ok(match parse_record(&bytes) {
            ParsedRecord::Whole(head, content)
                if (head.kind, head.version) == (Some(R::KIND), R::KIND.version()) =>
            {
                R::from_bytes(content)
            }
            ParsedRecord::Untyped => R::from_bytes(&bytes),
            _ => None,
        })
    }

    /// Writes the record of a key, replacing an earlier one.
    pub fn put_record<R: Recorded>(&self, key: &Digest, record: &R) -> Result<(), StoreError> {
        match R::KIND {
            RecordKind::Download => self.put_source_bytes(key, &render(record)),
            _ => self.put_record_bytes(key, &render(record)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Outcome = Result<(), Box<dyn std::error::Error>>;

    #[derive(PartialEq, Debug)]
    struct Text(String, Vec<Edge>);

    impl Recorded for Text {
        const KIND: RecordKind = RecordKind::Memo;

        fn edges(&self) -> Vec<Edge> {
            self.1.clone()
        }

        fn note(&self) -> String {
            "a\nnote".into()
        }

        fn to_bytes(&self) -> Vec<u8> {
            self.0.clone().into_bytes()
        }

        fn from_bytes(bytes: &[u8]) -> Option<Self> {
            String::from_utf8(bytes.to_vec()).ok().map(|text| Text(text, Vec::new()))
        }
    }

    fn every_edge() -> Vec<Edge> {
        let digest = |text: &str| Digest::of(text.as_bytes());
        vec![
            Edge::Layer(DiffId(digest("a")), None),
            Edge::Layer(DiffId(digest("b")), Some(ChainId(digest("c")))),
            Edge::Blob(digest("d")),
            Edge::Document(digest("e")),
            Edge::Record(digest("f")),
        ]
    }

    #[test]
    fn a_record_says_what_it_is_and_refers_to() -> Outcome {
        let dir = tempfile::tempdir()?;
        let store = Store::open(dir.path())?;
        let key = Digest::of(b"key");
        store.put_record(&key, &Text("one\n\ntwo".into(), every_edge()))?;
        assert_eq!(store.record::<Text>(&key)?, Some(Text("one\n\ntwo".into(), Vec::new())));
        let bytes = store.record_bytes(&key)?.unwrap_or_default();
        let ParsedRecord::Whole(head, content) = parse_record(&bytes) else { return Err("no head".into()) };
        assert_eq!((head.kind, head.note.as_str()), (Some(RecordKind::Memo), "a note"));
        assert_eq!((head.edges, content), (every_edge(), &b"one\n\ntwo"[..]));
        Ok(())
    }

    #[test]
    fn a_record_cut_short_anywhere_is_damaged_and_a_miss() -> Outcome {
        let dir = tempfile::tempdir()?;
        let store = Store::open(dir.path())?;
        let key = Digest::of(b"key");
        let whole = render(&Text("content".into(), every_edge()));
        for length in MAGIC.len()..whole.len() {
            assert_eq!(parse_record(&whole[..length]), ParsedRecord::Damaged, "{length}");
        }
        store.put_record_bytes(&key, &whole[..whole.len() - 1])?;
        assert_eq!(store.record::<Text>(&key)?, None);
        Ok(())
    }

    #[test]
    fn another_kind_or_version_is_a_miss_whose_references_are_known() -> Outcome {
        let dir = tempfile::tempdir()?;
        let store = Store::open(dir.path())?;
        let key = Digest::of(b"key");
        let whole = String::from_utf8(render(&Text("content".into(), every_edge())))?;
        for other in [whole.replacen("memo", "step", 1), whole.replacen("memo 1", "memo 9", 1), {
            whole.replacen("memo", "unheard-of", 1)
        }] {
            store.put_record_bytes(&key, other.as_bytes())?;
            assert_eq!(store.record::<Text>(&key)?, None, "{other}");
            let ParsedRecord::Whole(head, _) = parse_record(other.as_bytes()) else {
                return Err(other.into());
            };
            assert_eq!(head.edges, every_edge());
        }
        Ok(())
    }

    #[test]
    fn records_from_before_they_had_kinds_are_read() -> Outcome {
        let dir = tempfile::tempdir()?;
        let store = Store::open(dir.path())?;
        let key = Digest::of(b"key");
        store.put_record_bytes(&key, b"old")?;
        assert_eq!(store.record::<Text>(&key)?, Some(Text("old".into(), Vec::new())));
        Ok(())
    }
}
