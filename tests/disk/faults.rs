//! Many faults, chosen at random among the calls that commands make.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::cases::Random;
use crate::inject::{CALLS, can_inject};
use crate::scene::{Fault, Scene, Verb};
use crate::support::{Who, has, is_root, skip, user_of};
use crate::{ROWS, number_of, wanted_faults};

const FAULTS: usize = 60;
const SEED: u64 = 11;
const WORKERS: usize = 2;
/// An ordinary run ends early on a slow machine, but never before so many.
const ORDINARY_TIME: Duration = Duration::from_secs(35);
const LEAST: usize = 20;

fn choose(scene: &Scene, wanted: usize, random: &mut Random) -> Vec<Fault> {
    let mut universe = BTreeMap::new();
    let verbs = [Verb::Build, Verb::Build, Verb::Build, Verb::Pack, Verb::Again, Verb::Prune, Verb::Repair];
    let mut faults = Vec::new();
    while faults.len() < wanted {
        let case = random.below(ROWS.len() as u64) as usize;
        let verb = verbs[random.below(verbs.len() as u64) as usize];
        // The others make the same calls, more or less, whatever was built.
        let like = if matches!(verb, Verb::Build | Verb::Pack) { case } else { 0 };
        let probe = Fault { case: like, verb, call: "", error: "", number: 0 };
        let counts = universe.entry(format!("{like}{verb:?}")).or_insert_with(|| scene.record(&probe));
        let calls: Vec<_> = CALLS.iter().filter(|(name, _)| counts.contains_key(name)).collect();
        let (call, errors) = *calls[random.below(calls.len() as u64) as usize];
        let error = errors[random.below(errors.len() as u64) as usize];
        let number = 1 + random.below(counts[call] as u64) as usize;
        faults.push(Fault { case, verb, call, error, number });
    }
    faults
}

fn survive_faults(who: Who, wanted: usize, time: Option<Duration>) {
    let mut random = Random(number_of("RBUILD_CRASH_SEED").unwrap_or(SEED));
    let begun = Instant::now();
    let first = Scene::new(who);
    let faults = choose(&first, wanted, &mut random);
    println!("{} faults chosen in {:?}", faults.len(), begun.elapsed());
    let begun = Instant::now();
    let (next, results, first) = (AtomicUsize::new(0), Mutex::new(Vec::new()), Mutex::new(Some(first)));
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                let mine = first.lock().expect("scene").take();
                let mut scene = mine.unwrap_or_else(|| Scene::new(who));
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let late = number >= LEAST && time.is_some_and(|time| begun.elapsed() > time);
                    let Some(fault) = faults.get(number).filter(|_| !late) else { break };
                    let met = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| scene.meet(fault)));
                    if met.is_err() {
                        scene = Scene::new(who);
                    }
                    results.lock().expect("results").push((fault.call, met.ok()));
                }
            });
        }
    });
    let results = results.into_inner().expect("results");
    let count = |what: Option<Option<bool>>| results.iter().filter(|(_, met)| *met == what).count();
    let (failed, succeeded, none) = (count(Some(Some(true))), count(Some(Some(false))), count(Some(None)));
    let wanted = results.len();
    println!(
        "{wanted} faults as {who:?} in {:?}: {failed} commands failed, {succeeded} did without, {none} did not come so far",
        begun.elapsed()
    );
    let wrong: Vec<_> = results.iter().filter(|(_, met)| met.is_none()).map(|(call, _)| *call).collect();
    assert!(wrong.is_empty(), "{} of {wanted} faults did harm: {wrong:?}", wrong.len());
    assert!(none * 2 < wanted && failed > 0, "too few faults came");
}

#[test]
fn commands_whose_system_calls_fail_lose_nothing() {
    if can_inject("commands_whose_system_calls_fail_lose_nothing") {
        let full = wanted_faults();
        survive_faults(Who::Caller, full.unwrap_or(FAULTS), full.is_none().then_some(ORDINARY_TIME));
    }
}

#[test]
fn rootless_commands_whose_system_calls_fail_lose_nothing() {
    let test = "rootless_commands_whose_system_calls_fail_lose_nothing";
    // What an ordinary user does runs through the same code: a few in a full run are enough.
    let Some(faults) = wanted_faults() else { return };
    if !is_root() || user_of(Who::Rootless).is_none() || !has("newuidmap") {
        return skip(test, "there is no user with subordinate IDs (tests/setup makes one)");
    }
    if can_inject(test) {
        survive_faults(Who::Rootless, faults / 5, None);
    }
}
