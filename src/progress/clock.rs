//! What happens with time alone: a thread that looks from time to time.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Time between two looks, and the longest that something waits to be written with what follows.
pub(super) const TICK: Duration = Duration::from_millis(50);

/// A thread that is started when it is needed, and once.
#[derive(Default)]
pub(super) struct Clock {
    stopped: Arc<(Mutex<bool>, Condvar)>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Clock {
    /// Calls `look` every [`TICK`] from now on. Gives whether somebody does: a machine may have no more threads.
    pub fn start(&self, mut look: impl FnMut() + Send + 'static) -> bool {
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if thread.is_none() {
            let stopped = self.stopped.clone();
            let work = move || {
                let (stopped, wake) = &*stopped;
                let mut is_stopped = stopped.lock().unwrap_or_else(PoisonError::into_inner);
                while !*is_stopped {
                    is_stopped =
                        wake.wait_timeout(is_stopped, TICK).map_or_else(|e| e.into_inner().0, |ok| ok.0);
                    look();
                }
            };
            *thread = std::thread::Builder::new().name("progress".into()).spawn(work).ok();
        }
        thread.is_some()
    }

    /// Ends the thread, which looks once more. Nothing that `look` waits for may be held.
    pub fn stop(&self) {
        *self.stopped.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.stopped.1.notify_all();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }
}
