//! Tokens of well-known shapes: a prefix, an alphabet, a length, and a checksum where the shape has one.

/// A shape.
pub(super) struct Shape {
    pub(super) prefix: &'static str,
    kind: &'static str,
    /// Bytes behind the prefix: least and most.
    length: (usize, usize),
    alphabet: fn(u8) -> bool,
    check: fn(&str) -> bool,
    /// Whether `check` is a checksum.
    checked: bool,
}

fn word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
}

fn dashed(byte: u8) -> bool {
    word(byte) || matches!(byte, b'-' | b'_')
}

fn dotted(byte: u8) -> bool {
    dashed(byte) || byte == b'.'
}

fn hex(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

fn upper(byte: u8) -> bool {
    byte.is_ascii_uppercase() || byte.is_ascii_digit()
}

/// One whose end is a checksum.
const fn checked(shape: Shape) -> Shape {
    Shape { checked: true, ..shape }
}

const fn shape(
    prefix: &'static str,
    kind: &'static str,
    length: (usize, usize),
    alphabet: fn(u8) -> bool,
    check: fn(&str) -> bool,
) -> Shape {
    Shape { prefix, kind, length, alphabet, check, checked: false }
}

pub(super) const SHAPES: &[Shape] = &[
    checked(shape("ghp_", "a GitHub token", (36, 36), word, has_crc)),
    checked(shape("gho_", "a GitHub token", (36, 36), word, has_crc)),
    checked(shape("ghu_", "a GitHub token", (36, 36), word, has_crc)),
    checked(shape("ghs_", "a GitHub token", (36, 36), word, has_crc)),
    checked(shape("ghr_", "a GitHub token", (36, 36), word, has_crc)),
    shape("github_pat_", "a GitHub token", (82, 82), dashed, is_random),
    checked(shape("npm_", "an npm token", (36, 36), word, has_crc)),
    shape("glpat-", "a GitLab token", (20, 300), dotted, is_random),
    shape("pypi-AgEIcHlwaS5vcmc", "a PyPI token", (50, 400), dashed, is_random),
    shape("pypi-AgENdGVzdC5weXBpLm9yZw", "a PyPI token", (50, 400), dashed, is_random),
    shape("xoxb-", "a Slack token", (40, 120), dashed, is_random),
    shape("xoxp-", "a Slack token", (40, 120), dashed, is_random),
    shape("xoxe-", "a Slack token", (40, 200), dashed, is_random),
    shape("sk_live_", "a Stripe key", (24, 120), word, is_random),
    shape("rk_live_", "a Stripe key", (24, 120), word, is_random),
    shape("SG.", "a SendGrid key", (66, 66), dotted, is_random),
    shape("dckr_pat_", "a Docker Hub token", (27, 32), dashed, is_random),
    shape("dop_v1_", "a DigitalOcean token", (64, 64), hex, is_random),
    shape("hvs.", "a Vault token", (90, 200), dashed, is_random),
    shape("hf_", "a Hugging Face token", (34, 34), word, is_random),
    shape("sk-ant-api03-", "an API key", (93, 120), dashed, is_random),
    shape("sk-proj-", "an API key", (60, 200), dashed, is_random),
    shape("rubygems_", "a RubyGems key", (48, 48), hex, is_random),
    shape("shpat_", "a Shopify token", (32, 32), hex, is_random),
    checked(shape("AGE-SECRET-KEY-1", "an age key", (58, 58), upper, is_bech32)),
];

impl Shape {
    /// Whether what fits is hardly ever there by chance.
    pub(super) fn has_checksum(&self) -> bool {
        self.checked
    }
}

/// What a prefix begins, between the rest of its line before and behind it.
pub(super) fn fits(shape: &Shape, before: &[u8], rest: &[u8]) -> Option<&'static str> {
    // A longer word that only contains the prefix is something else.
    if before.last().copied().is_some_and(dashed) {
        return None;
    }
    let length = rest.iter().take_while(|byte| (shape.alphabet)(**byte)).count();
    let body = std::str::from_utf8(&rest[..length]).ok()?;
    let fits = (shape.length.0..=shape.length.1).contains(&length);
    (fits && (shape.check)(body)).then_some(shape.kind)
}

/// GitHub's and npm's tokens end with the CRC-32 of the rest in base 62, six digits.
fn has_crc(body: &str) -> bool {
    const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let Some((random, sum)) = body.split_at_checked(body.len().saturating_sub(6)) else { return false };
    let mut rest = u64::from(crc32fast::hash(random.as_bytes()));
    let mut digits = [b'0'; 6];
    for digit in digits.iter_mut().rev() {
        *digit = DIGITS[(rest % 62) as usize];
        rest /= 62;
    }
    sum.as_bytes() == digits
}

/// The checksum of BIP 173, by which age's keys end. The prefix is upper case here, and counted in lower case.
fn is_bech32(body: &str) -> bool {
    const DIGITS: &[u8; 32] = b"QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L";
    let prefix = b"age-secret-key-";
    let values: Option<Vec<u32>> =
        body.bytes().map(|byte| DIGITS.iter().position(|digit| *digit == byte).map(|at| at as u32)).collect();
    let Some(values) = values else { return false };
    let high = prefix.iter().map(|byte| u32::from(byte >> 5));
    let low = prefix.iter().map(|byte| u32::from(byte & 31));
    let mut sum = 1u32;
    for value in high.chain([0]).chain(low).chain(values) {
        let top = sum >> 25;
        sum = (sum & 0x01ff_ffff) << 5 ^ value;
        for (bit, term) in
            [0x3b6a_57b2, 0x2650_8e6d, 0x1ea1_19fa, 0x3d42_33dd, 0x2a14_62b3].into_iter().enumerate()
        {
            if top >> bit & 1 == 1 {
                sum ^= term;
            }
        }
    }
    sum == 1
}

/// Whether something looks drawn by lot, and not like a placeholder or a word.
pub(super) fn is_random(text: &str) -> bool {
    text.len() >= 12 && entropy(text) >= 3.0 && !is_placeholder(text)
}

/// Shannon entropy, in bits for each byte.
fn entropy(text: &str) -> f64 {
    let mut counts = [0u32; 256];
    text.bytes().for_each(|byte| counts[usize::from(byte)] += 1);
    let all = text.len().max(1) as f64;
    counts
        .iter()
        .filter(|count| **count > 0)
        .map(|count| f64::from(*count) / all)
        .map(|share| -share * share.log2())
        .sum()
}

/// What stands where a secret is to be put, or where it comes from.
pub(super) fn is_placeholder(value: &str) -> bool {
    const WORDS: &[&str] = &[
        "example",
        "placeholder",
        "changeme",
        "change_me",
        "change-me",
        "your",
        "xxxx",
        "dummy",
        "redacted",
        "insert",
        "replace",
        "sample",
        "secret_here",
        "todo",
        "fixme",
        "0123456789",
        "abcdefgh",
        "12345678",
        "foobar",
        "fake",
        "****",
        "....",
        "not-a-",
        "notasecret",
    ];
    let folded = value.to_lowercase();
    let refers = value.contains("${") || value.starts_with(['$', '<', '%', '@', '/']) || value.contains("{{");
    let same = value.bytes().collect::<std::collections::BTreeSet<u8>>().len() < 4;
    refers || same || WORDS.iter().any(|word| folded.contains(word))
}
