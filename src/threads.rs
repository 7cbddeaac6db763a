//! Several threads for one work, on machines that may have none to give: what cannot be done side by
//! side is done one after another.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;

/// Memory that one more thread of work may need: buffers, a compressor's tables, and its share of what waits.
const MEMORY_OF_ONE: u64 = 64 << 20;

/// How many threads work on one thing: one for each processor that this process may use, and no more than its memory
/// has room for. A large machine may give a container little of it.
pub fn workers() -> usize {
    let processors = thread::available_parallelism().map_or(2, usize::from);
    fitting(processors, crate::memory::limit())
}

/// Memory that a step may need where it is limited, at the least.
const MEMORY_OF_A_STEP: u64 = 256 << 20;

/// How many steps work at the same time: `most`, and no more than the container's memory has room for.
pub fn steps(most: usize) -> usize {
    steps_in(most, crate::memory::limit())
}

fn steps_in(most: usize, memory: Option<u64>) -> usize {
    let room = memory.map_or(u64::MAX, |memory| memory / MEMORY_OF_A_STEP);
    usize::try_from(room).unwrap_or(usize::MAX).min(most).max(1)
}

fn fitting(processors: usize, memory: Option<u64>) -> usize {
    let room = memory.map_or(u64::MAX, |memory| memory / MEMORY_OF_ONE);
    usize::try_from(room).unwrap_or(usize::MAX).min(processors).max(1)
}

/// Does `work` on up to `count` threads at once, of which this one is the first. Each call of it takes
/// what there is to do until there is nothing left.
pub fn crew(count: usize, work: impl Fn() + Sync) {
    thread::scope(|scope| {
        for _ in 1..count {
            if thread::Builder::new().name("crew".into()).spawn_scoped(scope, &work).is_err() {
                break;
            }
        }
        work();
    });
}

/// The results of `work` for all items, in their order, by up to `most` threads.
pub fn each<T: Sync, R: Send>(items: &[T], most: usize, work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let (next, results) = (AtomicUsize::new(0), Mutex::new(Vec::with_capacity(items.len())));
    crew(items.len().min(most), || {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(at) else { return };
            let result = work(item);
            results.lock().unwrap_or_else(PoisonError::into_inner).push((at, result));
        }
    });
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_by_key(|(at, _)| *at);
    results.into_iter().map(|(_, result)| result).collect()
}

/// To be called before parallel iterators, which panic where their threads cannot be started: they work
/// on the calling thread then.
pub fn prepare() {
    static STARTED: OnceLock<bool> = OnceLock::new();
    let started = || rayon::ThreadPoolBuilder::new().num_threads(workers()).build_global().is_ok();
    if !STARTED.get_or_init(started) && rayon::current_thread_index().is_none() {
        let _ = rayon::ThreadPoolBuilder::new().num_threads(1).use_current_thread().build();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_fit_into_the_memory() {
        for (processors, mebibytes, wanted) in [
            (8, None, 8),
            (64, Some(512), 8),
            (64, Some(256), 4),
            (2, Some(512), 2),
            (64, Some(32), 1),
            (64, Some(1 << 20), 64),
        ] {
            let memory = mebibytes.map(|mebibytes: u64| mebibytes << 20);
            assert_eq!(fitting(processors, memory), wanted, "{processors} {mebibytes:?}");
        }
        for (mebibytes, wanted) in
            [(None, 32), (Some(128), 1), (Some(512), 2), (Some(2048), 8), (Some(1 << 20), 32)]
        {
            assert_eq!(
                steps_in(32, mebibytes.map(|mebibytes: u64| mebibytes << 20)),
                wanted,
                "{mebibytes:?}"
            );
        }
    }

    #[test]
    fn every_item_has_its_result_in_its_place() {
        for most in [0, 1, 3, 100] {
            let items: Vec<usize> = (0..50).collect();
            assert_eq!(each(&items, most, |n| n * 2), items.iter().map(|n| n * 2).collect::<Vec<_>>());
        }
        assert!(each(&[0; 0], 4, |n| *n).is_empty());
    }
}
