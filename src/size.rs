//! Sizes as Docker writes them.

/// `64m`, `1GiB`, `1024`: bytes, in binary units whatever the spelling (Docker's `RAMInBytes`).
/// `None` for anything else, negative numbers and what is too large.
pub fn bytes(text: &str) -> Option<u64> {
    let lower = text.trim().to_lowercase();
    let digits_end = lower.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(lower.len());
    let number: f64 = lower.get(..digits_end)?.parse().ok()?;
    let factor: u64 = match lower.get(digits_end..)?.trim() {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        "t" | "tb" | "tib" => 1 << 40,
        _ => return None,
    };
    let bytes = number * factor as f64;
    (0.0..9.0e18).contains(&bytes).then_some(bytes as u64)
}
