//! Text formats of several package managers: paragraphs of fields.

/// Bytes as text; what is no UTF-8 is replaced.
pub(super) fn lossy(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

/// The fields of a paragraph as they are written, with continued lines.
#[derive(Debug, Default)]
pub(super) struct Paragraph<'a> {
    fields: Vec<(&'a str, String)>,
}

impl Paragraph<'_> {
    /// The first field of a name; upper and lower case are the same.
    pub(super) fn get(&self, name: &'static str) -> Option<&str> {
        self.all(name).next()
    }

    /// All fields of a name that are not empty.
    pub(super) fn all(&self, name: &'static str) -> impl Iterator<Item = &str> {
        let fields = self.fields.iter().filter(move |(key, _)| key.eq_ignore_ascii_case(name));
        fields.map(|(_, value)| value.trim()).filter(|value| !value.is_empty())
    }
}

/// Paragraphs as in Debian's control files: `Name: value`, continued by lines that begin with a blank, separated by
/// empty lines.
pub(super) fn paragraphs(text: &str) -> Vec<Paragraph<'_>> {
    let mut all = Vec::new();
    let mut current = Paragraph::default();
    for line in text.lines() {
        if line.trim().is_empty() {
            if !current.fields.is_empty() {
                all.push(std::mem::take(&mut current));
            }
            continue;
        }
        if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = current.fields.last_mut() {
                value.push('\n');
                value.push_str(line.trim());
            }
        } else if let Some((name, value)) = line.split_once(':') {
            current.fields.push((name.trim(), value.trim().to_owned()));
        }
    }
    if !current.fields.is_empty() {
        all.push(current);
    }
    all
}

/// What a reader found in one file.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) packages: Vec<super::package::Package>,
    /// What is wrong with the file.
    pub(super) problems: Vec<String>,
}

impl Found {
    pub(super) fn problem(text: impl Into<String>) -> Self {
        Found { packages: Vec::new(), problems: vec![text.into()] }
    }

    pub(super) fn one(package: super::package::Package) -> Self {
        Found { packages: vec![package], problems: Vec::new() }
    }
}
