//! "Did you mean": the nearest known word.

/// Longer words are not compared: nobody mistypes them, and the comparison costs their product.
const LONGEST: usize = 64;

/// The known word nearest to `word`, if it is near enough to be what was meant. Case is ignored, and
/// of equally near words the first wins. Distance is Levenshtein's with swapped neighbours as one edit.
pub fn suggest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let allowed = match word.chars().count() {
        0 => return None,
        1..=3 => 1,
        4..=6 => 2,
        _ => 3,
    };
    within(allowed, word, known)
}

/// The same for words among many others, of which some are near by chance: one edit away at most.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    within(1, word, known)
}

fn within<'a>(allowed: usize, word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wanted = folded(word)?;
    known
        .into_iter()
        .filter_map(|candidate| Some((distance(&wanted, &folded(candidate)?), candidate)))
        .filter(|(distance, candidate)| *distance <= allowed && *distance < candidate.chars().count())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

fn folded(word: &str) -> Option<Vec<char>> {
    (word.len() <= LONGEST).then(|| word.chars().flat_map(char::to_lowercase).collect())
}

fn distance(a: &[char], b: &[char]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut previous: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.iter().enumerate() {
        let mut current = vec![i + 1];
        for (j, cb) in b.iter().enumerate() {
            let mut cost = (previous[j] + usize::from(ca != cb)).min(previous[j + 1] + 1).min(current[j] + 1);
            if i > 0 && j > 0 && *ca == b[j - 1] && a[i - 1] == *cb {
                cost = cost.min(before[j - 1] + 1);
            }
            current.push(cost);
        }
        before = std::mem::replace(&mut previous, current);
    }
    previous[b.len()]
}

#[cfg(test)]
mod tests {
    use super::suggest;

    #[test]
    fn finds_the_nearest_word_whatever_its_case() {
        let known = ["FROM", "RUN", "COPY", "ENTRYPOINT", "ENV", "ADD"];
        for (word, expected) in [
            ("FORM", Some("FROM")),
            ("rnu", Some("RUN")),
            ("copie", Some("COPY")),
            ("ENTRIPOINT", Some("ENTRYPOINT")),
            ("entrypont", Some("ENTRYPOINT")),
            ("XYZZY", None),
            ("", None),
            ("ENVV", Some("ENV")),
            ("a", None),
        ] {
            assert_eq!(suggest(word, known), expected, "{word}");
        }
    }

    #[test]
    fn very_long_words_are_not_compared() {
        assert_eq!(suggest(&"x".repeat(100_000), ["x"]), None);
    }
}
