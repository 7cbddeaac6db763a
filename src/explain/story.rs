//! The whole story of a build for people: each step, where its result came from, what it read.

use std::fmt::Write as _;

use crate::digest::Digest;

use super::cause::InputChange;
use super::files::{FileChange, What};
use super::record::{BuildRecord, StepOutcome, StepRecord};
use super::text;

/// Files that are listed of one input.
const FILES: usize = 20;

/// Steps that were asked for, by positions of their platforms and their own; or what there is to ask for.
pub type Selection = Result<Vec<(usize, usize)>, Vec<String>>;

/// The steps that `word` means: `2/4` or `build 2/4`, the number of a line, or a stage. Without a word, all.
pub fn select(build: &BuildRecord, word: Option<&str>) -> Selection {
    let all = || {
        let platforms = build.platforms.iter().enumerate();
        platforms.flat_map(|(at, platform)| {
            platform.steps.iter().enumerate().map(move |(id, step)| (at, id, step))
        })
    };
    let Some(word) = word.map(|word| word.trim().trim_start_matches('[').trim_end_matches(']').trim()) else {
        return Ok(all().map(|(at, id, _)| (at, id)).collect());
    };
    let chosen = |is: &dyn Fn(&StepRecord) -> bool| -> Vec<(usize, usize)> {
        all().filter(|(.., step)| is(step)).map(|(at, id, _)| (at, id)).collect()
    };
    let blanks = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let wanted = blanks(word);
    let by_place = |step: &StepRecord| {
        let place = blanks(step.place());
        place == wanted || (!wanted.is_empty() && place.rsplit(' ').next() == Some(&wanted))
    };
    let by_line = |step: &StepRecord| {
        wanted.parse().is_ok_and(|line: usize| (step.lines.0..=step.lines.1).contains(&line))
    };
    let by_stage = |step: &StepRecord| step.stage.eq_ignore_ascii_case(&wanted);
    let ways: [&dyn Fn(&StepRecord) -> bool; 3] = [&by_place, &by_line, &by_stage];
    match ways.into_iter().map(chosen).find(|found| !found.is_empty()) {
        Some(found) => Ok(found),
        None => Err(all().map(|(.., step)| blanks(step.place())).filter(|place| !place.is_empty()).collect()),
    }
}

/// The story of the chosen steps.
pub fn story(build: &BuildRecord, chosen: &[(usize, usize)]) -> String {
    let mut out = String::new();
    let mut platform = None;
    for (at, id) in chosen {
        let Some(record) = build.platforms.get(*at) else { continue };
        let Some(step) = record.steps.get(*id) else { continue };
        if build.platforms.len() > 1 && platform != Some(at) {
            let _ = writeln!(out, "{}\n", record.platform);
        }
        platform = Some(at);
        tell(&mut out, step);
    }
    out
}

fn tell(out: &mut String, step: &StepRecord) {
    let _ = writeln!(out, "{}", text::cut(&text::normal(&step.name), 100));
    let time = format!("{}.{:03} s", step.took / 1000, step.took % 1000);
    let outcome = match (step.outcome, &step.from) {
        (StepOutcome::Base, _) => "base".to_owned(),
        (StepOutcome::Cached, None) => "cached".into(),
        (StepOutcome::Cached, Some(from)) if from == "store" => "cached, in the store".into(),
        (StepOutcome::Cached, Some(from)) => format!("cached, at {from}"),
        (StepOutcome::Executed, _) => format!("executed, {time}"),
        (StepOutcome::Failed, _) => format!("failed, {time}"),
        (StepOutcome::NotReached, _) => "not reached".into(),
    };
    let _ = writeln!(out, "  {}:{}  {outcome}", step.file, step.lines.0);
    if let Some((name, digest)) = &step.base {
        let _ = writeln!(out, "  image {name} {digest}");
    }
    let changes = step.cause.as_ref().map_or(&[][..], |cause| &cause.inputs);
    if let Some(cause) = &step.cause {
        let _ = writeln!(out, "  why: {}", cause.line());
    }
    for input in &step.inputs {
        match changes.iter().find(|change| change.name == input.name) {
            Some(change) => changed(out, change),
            None => drop(writeln!(out, "  {}  {}", input.name, short(&input.digest))),
        }
    }
    for gone in changes.iter().filter(|change| change.new.is_none()) {
        changed(out, gone);
    }
    out.push('\n');
}

fn short(digest: &Digest) -> String {
    format!("sha256:{}", digest.short())
}

fn changed(out: &mut String, change: &InputChange) {
    let digest = |digest: &Option<Digest>| digest.as_ref().map_or("none".to_owned(), short);
    let _ = writeln!(out, "  {}  {} -> {}", change.name, digest(&change.old), digest(&change.new));
    for file in change.files.iter().take(FILES) {
        let _ = writeln!(out, "    {}  {}", file.path, differences(file));
    }
    let more = change.more + change.files.len().saturating_sub(FILES);
    if more > 0 {
        let _ = writeln!(out, "    and {more} more");
    }
}

fn differences(file: &FileChange) -> String {
    let word = |what: &What| match what {
        What::New => "new".to_owned(),
        What::Gone => "gone".into(),
        What::Content => "content".into(),
        What::Mode { old, new } => format!("mode {old} -> {new}"),
        What::Owner { old, new } => format!("owner {old} -> {new}"),
        What::Kind { old, new } => format!("{old} -> {new}"),
        What::Target { old, new } => format!("target {old} -> {new}"),
        What::Attributes => "extended attributes".into(),
    };
    file.what.iter().map(word).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::explain::PlatformRecord;

    fn record() -> BuildRecord {
        let step = |name: &str, stage: &str, lines| StepRecord {
            name: name.into(),
            stage: stage.into(),
            lines,
            ..StepRecord::default()
        };
        let steps = vec![
            step("[build 1/2] FROM a", "build", (1, 1)),
            step("[build 2/2] RUN <<E", "build", (2, 4)),
            step("[stage-1 1/2] FROM b", "1", (5, 5)),
            step("[stage-1 2/2] COPY x y", "1", (6, 6)),
        ];
        BuildRecord {
            platforms: vec![PlatformRecord { steps, ..PlatformRecord::default() }],
            ..BuildRecord::default()
        }
    }

    #[test]
    fn steps_are_meant_by_place_line_and_stage() {
        let chosen =
            |word| select(&record(), word).map(|all| all.into_iter().map(|(_, id)| id).collect::<Vec<_>>());
        assert_eq!(chosen(None), Ok(vec![0, 1, 2, 3]));
        assert_eq!(chosen(Some("[build 2/2]")), Ok(vec![1]));
        assert_eq!(chosen(Some("2/2")), Ok(vec![1, 3]));
        assert_eq!(chosen(Some("3")), Ok(vec![1]));
        assert_eq!(chosen(Some("6")), Ok(vec![3]));
        assert_eq!(chosen(Some("Build")), Ok(vec![0, 1]));
        assert_eq!(chosen(Some("1")), Ok(vec![0]));
        let nothing = chosen(Some("nothing"));
        assert!(nothing.is_err_and(|places| places.contains(&"stage-1 2/2".to_owned())));
        assert!(chosen(Some("")).is_err());
    }
}
