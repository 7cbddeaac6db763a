//! Downloads that cannot fit on the disk.

use crate::event::Events;
use crate::fs::{disk_space, free_space, shown_size};
use crate::image::Descriptor;
use crate::store::Store;

use crate::compress::CompressionAlgorithm;

/// Why blobs that are about to be downloaded cannot be kept, if that is certain: they are compressed, so no
/// file system makes them smaller, and together they are larger than what is free, blocks kept for root
/// included. Whether a build that fits at first runs out of space later, nobody can know.
pub(super) fn shortage<'a>(store: &Store, blobs: impl Iterator<Item = &'a Descriptor>) -> Option<String> {
    let compressed = |blob: &&Descriptor| {
        let of = crate::image::media_type::layer_compression(&blob.media_type);
        of.is_some_and(|of| of != CompressionAlgorithm::Uncompressed)
    };
    let needed = blobs.filter(compressed).fold(0u64, |sum, blob| sum.saturating_add(blob.size));
    let free = free_space(store.root()).ok()?;
    (needed > free).then(|| {
        format!(
            "no space left on device: the layers to download have {}, and the disk of the store {} has {} free; \
             free some space (`rbuild prune -a` may help), or choose another place with --root",
            shown_size(needed),
            store.root().display(),
            shown_size(free)
        )
    })
}

/// Warns where the disk of the store is so full that whoever runs the container may end it, below `percent`. What
/// counts for that is no secret of the node's disk alone: a limit of the pod cannot be seen from inside.
pub(super) fn warn(store: &Store, percent: Option<u8>, events: &Events) {
    let Some(percent) = percent else { return };
    let Ok((total, free)) = disk_space(store.root()) else { return };
    if is_scarce(total, free, percent) {
        events.warn(format!(
            "the disk of the store {} has {} of {} left, and Kubernetes evicts pods below {percent}%: free some space, \
             or mount a volume there",
            store.root().display(),
            shown_size(free),
            shown_size(total)
        ));
    }
}

fn is_scarce(total: u64, free: u64, percent: u8) -> bool {
    u128::from(free) * 100 < u128::from(total) * u128::from(percent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_scarce_below_the_part_that_is_named() {
        assert!(is_scarce(100, 9, 10) && !is_scarce(100, 10, 10) && !is_scarce(0, 0, 10));
        assert!(is_scarce(u64::MAX, 0, 1) && !is_scarce(u64::MAX, u64::MAX, 100));
    }

    #[test]
    fn only_what_certainly_does_not_fit_is_refused() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let store = Store::open(&dir.path().join("store"))?;
        let blob = |kind: &str, size: u64| Descriptor {
            size,
            ..Descriptor::of(format!("application/vnd.oci.image.layer.v1.tar{kind}"), b"")
        };
        let of = |blobs: &[Descriptor]| shortage(&store, blobs.iter());
        assert_eq!(of(&[blob("+gzip", 1), blob("+zstd", 1)]), None);
        // A file system may compress these.
        assert_eq!(of(&[blob("", u64::MAX)]), None);
        let half = u64::MAX / 2 + 1;
        for blobs in [[blob("+gzip", 1 << 60), blob("", 1)], [blob("+gzip", half), blob("+zstd", half)]] {
            let text = of(&blobs).ok_or("it cannot fit")?;
            assert!(text.contains("no space left") && text.contains("free"), "{text}");
        }
        Ok(())
    }
}
