//! What a misspelt variable may have been meant to be.

/// Longer names are not compared: nobody mistypes them, and the comparison costs their product.
const LONGEST: usize = 64;

/// The known name nearest to `name`, as BuildKit's linter chooses it: less than three edits away, the first of
/// equally near ones. Names of one letter get none, since every short name is near to them.
pub(super) fn near<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wanted: Vec<char> = name.chars().collect();
    if !(2..=LONGEST).contains(&wanted.len()) {
        return None;
    }
    let mut best = (3, None);
    for candidate in known {
        let letters: Vec<char> = candidate.chars().take(LONGEST + 1).collect();
        if candidate == name {
            return None;
        }
        if letters.len().abs_diff(wanted.len()) >= best.0 {
            continue;
        }
        let edits = distance(&wanted, &letters);
        if edits < best.0 {
            best = (edits, Some(candidate));
        }
    }
    best.1
}

/// Levenshtein's.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, left) in a.iter().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, right) in b.iter().enumerate() {
            let cost = (diagonal + usize::from(left != right)).min(row[j] + 1).min(row[j + 1] + 1);
            diagonal = std::mem::replace(&mut row[j + 1], cost);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::near;

    #[test]
    fn two_edits_are_near_and_three_are_not() {
        for (name, known, expected) in [
            ("PATHH", &["PATH"][..], Some("PATH")),
            ("NVM_DIR", &["HOME_DIR"], None),
            ("MANPATH", &["PATH"], None),
            ("PTAH", &["PATH"], Some("PATH")),
            ("path", &["PATH"], None),
            ("AB", &["AC", "AD"], Some("AC")),
            ("ABC", &["AXY", "ABX"], Some("ABX")),
            ("ABC", &["ABX", "ABC"], None),
            ("A", &["B"], None),
            ("", &["B"], None),
        ] {
            assert_eq!(near(name, known.iter().copied()), expected, "{name}");
        }
        let long = "x".repeat(100_000);
        assert_eq!(near(&long, ["x"]), None);
        assert_eq!(near("xy", [long.as_str()]), None);
    }
}
