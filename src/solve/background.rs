//! Work that goes on behind the steps: writing and compressing layers.

use std::sync::{Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, Sender, unbounded};

type Job = Box<dyn FnOnce() + Send>;

/// A first-in-first-out queue with a few threads, started when there is something to do. The order
/// matters: a job may wait for the layers below its own, which were queued before it and are therefore
/// done or being worked on.
pub struct Background {
    sender: Option<Sender<Job>>,
    receiver: Receiver<Job>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    most: usize,
}

impl Background {
    /// Will work with up to `threads` threads (at least one).
    pub fn start(threads: usize) -> Self {
        let (sender, receiver) = unbounded::<Job>();
        Background { sender: Some(sender), receiver, threads: Mutex::default(), most: threads.max(1) }
    }

    /// Queues a job; runs it on the spot where no thread could be started.
    pub fn queue(&self, job: impl FnOnce() + Send + 'static) {
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        if threads.len() < self.most {
            threads.extend(spawn_worker(self.receiver.clone()));
        }
        match &self.sender {
            Some(sender) if !threads.is_empty() => {
                let _ = sender.send(Box::new(job));
            }
            _ => {
                drop(threads);
                job();
            }
        }
    }
}

fn spawn_worker(receiver: Receiver<Job>) -> Option<JoinHandle<()>> {
    let work = move || receiver.iter().for_each(|job| job());
    thread::Builder::new().name("layers".into()).spawn(work).ok()
}

impl Drop for Background {
    /// Waits for everything queued: a build that succeeded must leave its records whole.
    fn drop(&mut self) {
        self.sender = None;
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            let _ = thread.join();
        }
    }
}

/// Limits how many steps work at once (`--jobs`).
pub struct Slots {
    free: Mutex<usize>,
    changed: Condvar,
}

impl Slots {
    /// `count` slots; at least one.
    pub fn new(count: usize) -> Self {
        Slots { free: Mutex::new(count.max(1)), changed: Condvar::new() }
    }

    /// Waits for a slot and holds it until the guard is dropped.
    pub fn take(&self) -> SlotGuard<'_> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        while *free == 0 {
            free = self.changed.wait(free).unwrap_or_else(PoisonError::into_inner);
        }
        *free -= 1;
        SlotGuard(self)
    }
}

/// A held slot.
pub struct SlotGuard<'a>(&'a Slots);

impl Drop for SlotGuard<'_> {
    fn drop(&mut self) {
        *self.0.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn dropping_the_queue_waits_for_every_job() {
        let done = Arc::new(AtomicUsize::new(0));
        let background = Background::start(2);
        for _ in 0..100 {
            let done = done.clone();
            background.queue(move || {
                done.fetch_add(1, Ordering::SeqCst);
            });
        }
        drop(background);
        assert_eq!(done.load(Ordering::SeqCst), 100);
    }

    #[test]
    fn no_more_than_the_slots_work_at_once() {
        let slots = Slots::new(2);
        let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let _slot = slots.take();
                    most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    thread::yield_now();
                    now.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        assert!(most.load(Ordering::SeqCst) <= 2);
    }
}
