//! Trying again: how often, how long to wait in between, and what ends it.

use std::hash::{BuildHasher as _, Hasher as _};
use std::time::{Duration, SystemTime};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::cancel::Cancel;

use super::error::RegistryError;

/// How often and how patiently to try again. Only failures that may pass are tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Attempts in all; 1 means never again.
    pub attempts: u32,
    /// Wait after the first failure; doubles with each further one. The wait is drawn from its
    /// upper half, so that many clients do not come back at once.
    pub base: Duration,
    /// The longest such wait.
    pub ceiling: Duration,
    /// The longest wait a registry may ask for (`Retry-After`); asked for more, the call fails.
    pub patience: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        RetryPolicy {
            attempts: 5,
            base: Duration::from_millis(300),
            ceiling: Duration::from_secs(10),
            patience: Duration::from_secs(60),
        }
    }
}

/// Time and chance, so that tests need neither.
pub(crate) trait Clock: Send + Sync {
    /// Waits, or stops early when `cancel` is switched.
    fn sleep(&self, duration: Duration, cancel: &Cancel);
    /// A number from 0 to 1.
    fn chance(&self) -> f64;
}

/// The real one.
pub(crate) struct SystemClock;

impl Clock for SystemClock {
    fn sleep(&self, duration: Duration, cancel: &Cancel) {
        let until = std::time::Instant::now() + duration;
        while !cancel.is_cancelled() {
            let left = until.saturating_duration_since(std::time::Instant::now());
            if left.is_zero() {
                return;
            }
            let fd = cancel.fd();
            let mut fds = [PollFd::new(&fd, PollFlags::IN)];
            let timeout = Timespec::try_from(left).ok();
            let interrupted = |e: &rustix::io::Errno| *e == rustix::io::Errno::INTR;
            if poll(&mut fds, timeout.as_ref()).is_err_and(|error| !interrupted(&error)) {
                std::thread::sleep(left);
            }
        }
    }

    fn chance(&self) -> f64 {
        // Each RandomState is keyed from the system's random numbers; its empty hash is as good.
        let random = std::hash::RandomState::new().build_hasher().finish();
        f64::from((random >> 32) as u32) / f64::from(u32::MAX)
    }
}

impl RetryPolicy {
    /// The wait after the `failures`th failure (counted from 1); `None` where the error is final.
    fn delay(&self, failures: u32, error: &RegistryError, chance: f64) -> Option<Duration> {
        // Wrong bytes that come twice are wrong at the source.
        let attempts = match error {
            RegistryError::Mismatch { .. } => self.attempts.min(2),
            _ => self.attempts,
        };
        if failures >= attempts || !error.is_transient() {
            return None;
        }
        if let RegistryError::Rejected(rejected) = error
            && let Some(asked) = rejected.retry_after
        {
            return (asked <= self.patience).then_some(asked);
        }
        let doubled = self.base.saturating_mul(1 << failures.saturating_sub(1).min(16));
        let longest = doubled.min(self.ceiling);
        Some(longest / 2 + (longest / 2).mul_f64(chance.clamp(0.0, 1.0)))
    }

    /// Runs `attempt` until it succeeds, fails for good or is cancelled.
    pub(crate) fn run<T>(
        &self,
        clock: &dyn Clock,
        cancel: &Cancel,
        attempt: impl FnMut() -> Result<T, RegistryError>,
    ) -> Result<T, RegistryError> {
        self.run_on(clock, cancel, &|| false, attempt)
    }

    /// As [`RetryPolicy::run`], for what goes on where it stopped: a failure after which `progressed`
    /// is true counts as the first.
    pub(super) fn run_on<T>(
        &self,
        clock: &dyn Clock,
        cancel: &Cancel,
        progressed: &dyn Fn() -> bool,
        mut attempt: impl FnMut() -> Result<T, RegistryError>,
    ) -> Result<T, RegistryError> {
        let mut failures = 0;
        loop {
            if cancel.is_cancelled() {
                return Err(RegistryError::Cancelled);
            }
            let error = match attempt() {
                Ok(value) => return Ok(value),
                Err(_) if cancel.is_cancelled() => return Err(RegistryError::Cancelled),
                Err(error) => error,
            };
            failures = if progressed() { 1 } else { failures + 1 };
            let Some(delay) = self.delay(failures, &error, clock.chance()) else { return Err(error) };
            clock.sleep(delay, cancel);
        }
    }
}

/// Reads `Retry-After`: seconds, or a date.
pub(crate) fn parse_retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|c| c.is_ascii_digit()) {
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    let at = jiff::fmt::rfc2822::parse(value).ok()?.timestamp();
    let at = SystemTime::from(at);
    Some(at.duration_since(now).unwrap_or(Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::UNIX_EPOCH;

    use super::super::error::{Fault, Rejected, Target, Unreachable};
    use super::*;

    struct Recorded {
        chance: f64,
        slept: Mutex<Vec<Duration>>,
    }

    impl Clock for Recorded {
        fn sleep(&self, duration: Duration, _: &Cancel) {
            if let Ok(mut slept) = self.slept.lock() {
                slept.push(duration);
            }
        }

        fn chance(&self) -> f64 {
            self.chance
        }
    }

    fn target() -> Target {
        Target { method: "GET".into(), url: "https://example.test/v2/".into() }
    }

    fn lost() -> RegistryError {
        let detail = "reset".to_owned();
        RegistryError::Unreachable(Box::new(Unreachable { target: target(), fault: Fault::Lost, detail }))
    }

    fn rejected(status: u16, retry_after: Option<u64>) -> RegistryError {
        RegistryError::Rejected(Box::new(Rejected {
            target: target(),
            status,
            code: None,
            message: None,
            retry_after: retry_after.map(Duration::from_secs),
            hint: None,
        }))
    }

    fn run(error: fn() -> RegistryError, chance: f64) -> Vec<u128> {
        let clock = Recorded { chance, slept: Mutex::default() };
        let Ok(cancel) = Cancel::new() else { return Vec::new() };
        let result: Result<(), _> = RetryPolicy::default().run(&clock, &cancel, || Err(error()));
        assert!(result.is_err());
        clock
            .slept
            .into_inner()
            .map(|slept| slept.iter().map(Duration::as_millis).collect())
            .unwrap_or_default()
    }

    #[test]
    fn waits_double_and_vary_and_end() {
        assert_eq!(run(lost, 1.0), [300, 600, 1200, 2400]);
        assert_eq!(run(lost, 0.0), [150, 300, 600, 1200]);
    }

    #[test]
    fn a_final_refusal_is_not_tried_again() {
        assert!(run(|| rejected(404, None), 1.0).is_empty());
        assert!(run(|| rejected(401, None), 1.0).is_empty());
    }

    #[test]
    fn the_registry_decides_how_long_to_wait_within_patience() {
        assert_eq!(run(|| rejected(429, Some(7)), 1.0), [7000; 4]);
        assert!(run(|| rejected(429, Some(3600)), 1.0).is_empty());
    }

    #[test]
    fn wrong_bytes_are_fetched_twice_only() {
        let mismatch = || {
            let digest = crate::digest::Digest::of(b"");
            RegistryError::Mismatch { target: target(), expected: digest, actual: digest }
        };
        assert_eq!(run(mismatch, 1.0).len(), 1);
    }

    #[test]
    fn a_cancelled_wait_ends_at_once() -> Result<(), Box<dyn std::error::Error>> {
        let cancel = Cancel::new()?;
        let other = cancel.clone();
        let switch = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            other.cancel();
        });
        let begun = std::time::Instant::now();
        let policy = RetryPolicy {
            base: Duration::from_secs(600),
            ceiling: Duration::from_secs(600),
            ..RetryPolicy::default()
        };
        let result: Result<(), _> = policy.run(&SystemClock, &cancel, || Err(lost()));
        assert!(matches!(result, Err(RegistryError::Cancelled)));
        assert!(begun.elapsed() < Duration::from_secs(300));
        switch.join().map_err(|_| "the switch panicked")?;
        Ok(())
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = UNIX_EPOCH + Duration::from_secs(1_445_412_000);
        let parse = |text| parse_retry_after(text, now);
        assert_eq!(parse("0"), Some(Duration::ZERO));
        assert_eq!(parse(" 120 "), Some(Duration::from_secs(120)));
        assert_eq!(parse("99999999999999999999999"), Some(Duration::from_secs(u64::MAX)));
        assert_eq!(parse("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::from_secs(480)));
        assert_eq!(parse("Wed, 21 Oct 2009 07:28:00 GMT"), Some(Duration::ZERO));
        for bad in ["", "soon", "-1", "1.5"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
