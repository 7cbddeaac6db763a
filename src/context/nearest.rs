//! Names that may have been meant.

use super::local::LocalContext;
use super::paths;

/// How many suggestions are given.
const MOST: usize = 3;

/// Existing, visible paths close to `path`, best first. Each component is taken as it is if it
/// exists, else by other case, else by few edits.
pub(super) fn nearest(context: &LocalContext, path: &[u8]) -> Vec<Vec<u8>> {
    let mut places: Vec<(usize, Vec<u8>)> = vec![(0, Vec::new())];
    for name in paths::components(path) {
        let mut next: Vec<(usize, Vec<u8>)> = Vec::new();
        for (cost, dir) in &places {
            let close = context.visible_names(dir).into_iter().filter_map(|candidate| {
                let distance = name_distance(name, &candidate)?;
                Some((cost + distance, paths::join(dir, &candidate)))
            });
            next.extend(close);
        }
        if next.is_empty() {
            break;
        }
        next.sort();
        next.truncate(MOST);
        places = next;
    }
    places.retain(|(cost, _)| *cost > 0);
    places.into_iter().map(|(_, place)| place).collect()
}

/// The one of `names` closest to `wanted`, if any is close.
pub(super) fn closest<'n>(wanted: &[u8], names: impl IntoIterator<Item = &'n [u8]>) -> Option<&'n [u8]> {
    names
        .into_iter()
        .filter(|name| *name != wanted)
        .filter_map(|name| Some((name_distance(wanted, name)?, name)))
        .min()
        .map(|(_, name)| name)
}

/// 0 for the same name, 1 for another case, else twice the number of edits that make one of the
/// other; `None` if that is more than a slip.
fn name_distance(wanted: &[u8], candidate: &[u8]) -> Option<usize> {
    if wanted == candidate {
        return Some(0);
    }
    let (wanted, candidate) = (wanted.to_ascii_lowercase(), candidate.to_ascii_lowercase());
    if wanted == candidate {
        return Some(1);
    }
    let limit = (wanted.len() / 3).clamp(1, 3);
    if wanted.len().abs_diff(candidate.len()) > limit || wanted.len() > 255 {
        return None;
    }
    let edits = edit_distance(&wanted, &candidate);
    // Below three letters nearly everything is one edit away.
    (edits <= limit && wanted.len() > 2).then_some(edits * 2)
}

/// Insertions, deletions, replacements and swaps of neighbours (optimal string alignment).
fn edit_distance(a: &[u8], b: &[u8]) -> usize {
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut row = Vec::with_capacity(last.len());
        row.push(i + 1);
        for (j, y) in b.iter().enumerate() {
            let at = |row: &[usize], column: usize| row.get(column).copied().unwrap_or(usize::MAX / 2);
            let mut best =
                (at(&last, j) + usize::from(x != y)).min(at(&last, j + 1) + 1).min(at(&row, j) + 1);
            let swapped = i > 0 && j > 0 && a.get(i - 1) == Some(y) && b.get(j - 1) == Some(x);
            if swapped {
                best = best.min(at(&before_last, j - 1) + 1);
            }
            row.push(best);
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last.last().copied().unwrap_or(a.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_are_counted() {
        for (a, b, edits) in [
            ("", "", 0),
            ("abc", "abc", 0),
            ("abc", "abd", 1),
            ("abc", "acb", 1),
            ("abc", "ab", 1),
            ("", "abc", 3),
        ] {
            assert_eq!(edit_distance(a.as_bytes(), b.as_bytes()), edits, "{a} {b}");
        }
    }

    #[test]
    fn other_case_is_closer_than_any_edit_and_strangers_are_not_close() {
        assert_eq!(name_distance(b"Main.go", b"main.go"), Some(1));
        assert!(name_distance(b"main.go", b"mani.go") > Some(1));
        assert_eq!(name_distance(b"main.go", b"other"), None);
        assert_eq!(name_distance(b"a", b"b"), None);
        assert_eq!(closest(b"package.json", [&b"src"[..], b"pakage.json"]), Some(&b"pakage.json"[..]));
    }
}
