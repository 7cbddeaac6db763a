//! Which parts of a list are those of an earlier one.

/// For each of `new`, the position in `old` of what it was. Equal ones are paired in order, as many as possible;
/// what is left between two pairs is paired in order where `alike` says that one may have become the other.
pub(super) fn align(
    new: &[String],
    old: &[String],
    alike: impl Fn(usize, usize) -> bool,
) -> Vec<Option<usize>> {
    let front = new.iter().zip(old).take_while(|(a, b)| a == b).count();
    let rest = new.len().min(old.len()) - front;
    let back = new.iter().rev().zip(old.iter().rev()).take(rest).take_while(|(a, b)| a == b).count();
    let (new_end, old_end) = (new.len() - back, old.len() - back);
    let mut pairs: Vec<(usize, usize)> = (0..front).map(|at| (at, at)).collect();
    let middle = common(&new[front..new_end], &old[front..old_end]);
    pairs.extend(middle.into_iter().map(|(a, b)| (a + front, b + front)));
    pairs.extend((0..back).map(|at| (new_end + at, old_end + at)));
    let mut found = vec![None; new.len()];
    let (mut a, mut b) = (0, 0);
    for (next_a, next_b) in pairs.into_iter().chain([(new.len(), old.len())]) {
        let mut left: Vec<usize> = (b..next_b).collect();
        for (at, slot) in found.iter_mut().enumerate().take(next_a).skip(a) {
            if let Some(position) = left.iter().position(|other| alike(at, *other)) {
                *slot = left.drain(..=position).next_back();
            }
        }
        if let Some(slot) = found.get_mut(next_a) {
            *slot = Some(next_b);
        }
        (a, b) = (next_a + 1, next_b + 1);
    }
    found
}

/// A longest common subsequence, as pairs of positions. Lists too long for a table have none.
fn common(new: &[String], old: &[String]) -> Vec<(usize, usize)> {
    const MOST: usize = 4_000_000;
    if new.is_empty() || old.is_empty() || new.len().saturating_mul(old.len()) > MOST {
        return Vec::new();
    }
    let width = old.len() + 1;
    let mut best = vec![0_u32; (new.len() + 1) * width];
    for a in (0..new.len()).rev() {
        for b in (0..old.len()).rev() {
            best[a * width + b] = match new[a] == old[b] {
                true => best[(a + 1) * width + b + 1] + 1,
                false => best[(a + 1) * width + b].max(best[a * width + b + 1]),
            };
        }
    }
    let (mut a, mut b, mut pairs) = (0, 0, Vec::new());
    while a < new.len() && b < old.len() {
        if new[a] == old[b] {
            pairs.push((a, b));
            (a, b) = (a + 1, b + 1);
        } else if best[(a + 1) * width + b] >= best[a * width + b + 1] {
            a += 1;
        } else {
            b += 1;
        }
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn aligned(new: &str, old: &str) -> Vec<Option<usize>> {
        let list = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let (new, old) = (list(new), list(old));
        align(&new, &old, |a, b| new[a].as_bytes().first() == old[b].as_bytes().first())
    }

    #[test]
    fn equal_ones_are_paired_and_changed_ones_between_them() {
        assert_eq!(aligned("f r1 c1", "f r1 c1"), [Some(0), Some(1), Some(2)]);
        assert_eq!(aligned("f r2 c1", "f r1 c1"), [Some(0), Some(1), Some(2)]);
        assert_eq!(aligned("f x r1", "f r1"), [Some(0), None, Some(1)]);
        assert_eq!(aligned("f r1", "f x r1"), [Some(0), Some(2)]);
        assert_eq!(aligned("f c9 r1", "f r1 c1"), [Some(0), None, Some(1)]);
        assert_eq!(aligned("r1 r2 r3", "r1 r3"), [Some(0), None, Some(1)]);
    }
}
