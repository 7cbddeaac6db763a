use super::*;
use crate::event::Stream;

/// A build as the mux sees it, with made-up times.
struct Bench {
    mux: Mux,
    now: Duration,
}

impl Bench {
    fn new() -> Self {
        Bench { mux: Mux::new(false, true), now: Duration::ZERO }
    }

    fn at(&mut self, millis: u64) -> &mut Self {
        self.now = Duration::from_millis(millis);
        self.mux.tick(self.now);
        self
    }

    fn send(&mut self, event: Event) -> &mut Self {
        self.mux.take(event, self.now);
        self
    }

    fn step(&mut self, number: u32, name: &str) -> &mut Self {
        self.vertex(number, VertexKind::Step, name)
    }

    fn vertex(&mut self, number: u32, kind: VertexKind, name: &str) -> &mut Self {
        let vertex = VertexId(number);
        self.send(Event::Added { vertex, kind, name: name.into(), inputs: Vec::new() });
        self.send(Event::Started { vertex })
    }

    fn executes(&mut self, number: u32) -> &mut Self {
        self.send(Event::Executing { vertex: VertexId(number) })
    }

    fn says(&mut self, number: u32, line: &str) -> &mut Self {
        let (vertex, stream) = (VertexId(number), Stream::Stdout);
        self.send(Event::Log { vertex, stream, line: line.as_bytes().to_vec() })
    }

    fn ends(&mut self, number: u32, outcome: Outcome) -> &mut Self {
        let (vertex, elapsed) = (VertexId(number), Duration::from_millis(1_240));
        self.send(Event::Finished { vertex, outcome, elapsed })
    }

    fn text(&mut self) -> String {
        String::from_utf8(std::mem::take(self.mux.out())).unwrap()
    }
}

#[test]
fn titles_appear_when_a_step_executes_and_the_end_follows() {
    let mut bench = Bench::new();
    bench.vertex(0, VertexKind::Internal, "load metadata").ends(0, Outcome::Done);
    bench.step(1, "[1/3] FROM busybox").ends(1, Outcome::Cached);
    bench.step(2, "[2/3] RUN sleep 8").executes(2);
    assert_eq!(bench.text(), "#1 [1/3] FROM busybox\n#1 CACHED\n\n#2 [2/3] RUN sleep 8\n");
    bench.at(8_000).says(2, "awake").ends(2, Outcome::Done);
    bench.step(3, "[3/3] RUN false").executes(3).ends(3, Outcome::Failed("exit code: 1".into()));
    let wanted = "#2 8.000 awake\n#2 DONE 1.2s\n\n#3 [3/3] RUN false\n#3 ERROR: exit code: 1\n";
    assert_eq!(bench.text(), wanted);
}

#[test]
fn lines_of_one_step_stay_together_for_seconds() {
    let mut bench = Bench::new();
    bench.step(1, "a").executes(1).step(2, "b").executes(2);
    for at in (0..6_000).step_by(1_000) {
        bench.at(at).says(1, "one").says(2, "two");
    }
    let wanted = "\
#1 a
#2 b
#1 0.000 one
#1 1.000 one
#1 2.000 one
#1 3.000 one
#1 4.000 one
#1 ...

#2 b
#2 0.000 two
#2 1.000 two
#2 2.000 two
#2 3.000 two
#2 4.000 two
#2 5.000 two
";
    assert_eq!(bench.text(), wanted);
    bench.ends(2, Outcome::Done);
    assert_eq!(bench.text(), "#2 DONE 1.2s\n\n#1 a\n#1 5.000 one\n");
}

#[test]
fn a_step_that_ends_is_shown_at_once_with_what_waited() {
    let mut bench = Bench::new();
    bench.step(1, "a").executes(1).says(1, "one").step(2, "b").executes(2).says(2, "two");
    bench.text();
    bench.ends(2, Outcome::Done).says(1, "more");
    assert_eq!(bench.text(), "#1 ...\n\n#2 b\n#2 0.000 two\n#2 DONE 1.2s\n\n#1 a\n#1 0.000 more\n");
}

#[test]
fn what_ends_without_output_does_not_take_the_turn() {
    let mut bench = Bench::new();
    bench.step(1, "a").executes(1).says(1, "one").vertex(2, VertexKind::Transfer, "pull b");
    bench.ends(2, Outcome::Done).says(1, "two");
    assert_eq!(bench.text(), "#1 a\n#1 0.000 one\n#2 pull b\n#2 DONE 1.2s\n#1 0.000 two\n");
}

#[test]
fn much_output_does_not_wait() {
    let mut bench = Bench::new();
    bench.step(1, "a").executes(1).says(1, "one").step(2, "b").executes(2);
    let line = "x".repeat(1_000);
    for _ in 0..1_000 {
        bench.says(2, &line);
    }
    assert_eq!(bench.text().matches(&line).count(), 1_000);
}

#[test]
fn silence_is_mentioned_every_half_minute() {
    let mut bench = Bench::new();
    bench.step(1, "RUN make").executes(1).says(1, "cc");
    bench.at(29_000).text();
    assert_eq!(bench.at(29_999).text(), "");
    assert_eq!(bench.at(30_000).text(), "#1 still running after 30s, no output for the last 30s\n");
    assert_eq!(bench.at(59_000).text(), "");
    assert_eq!(bench.at(61_000).text(), "#1 still running after 1m01s, no output for the last 30s\n");
    bench.at(80_000).says(1, "ld");
    bench.text();
    assert_eq!(bench.at(109_000).text(), "");
    // A line without an end is a sign of life, but nothing to print.
    bench.send(Event::Unfinished { vertex: VertexId(1), line: b"50%".to_vec() });
    assert_eq!(bench.at(111_000).text(), "");
    bench.ends(1, Outcome::Done).text();
    assert_eq!(bench.at(200_000).text(), "");
}

#[test]
fn transfers_show_how_they_get_on() {
    let mut bench = Bench::new();
    let report = |current| Event::Progress {
        vertex: VertexId(1),
        item: "sha256:ab".into(),
        current,
        total: Some(40_000_000),
    };
    bench.vertex(1, VertexKind::Transfer, "fetch busybox");
    assert_eq!(bench.text(), "#1 fetch busybox\n");
    for second in 0..12 {
        bench.at(second * 1_000).send(report(second * 2_000_000));
    }
    bench.at(12_000).send(report(40_000_000)).send(report(40_000_000)).ends(1, Outcome::Done);
    let wanted = "\
#1 sha256:ab 10.0 MB / 40.0 MB 5.0s
#1 sha256:ab 20.0 MB / 40.0 MB 10.0s
#1 sha256:ab 40.0 MB / 40.0 MB 12.0s done
#1 fetched 40.0 MB
#1 DONE 1.2s
";
    assert_eq!(bench.text(), wanted);
}

#[test]
fn the_end_of_the_output_is_known() {
    let mut bench = Bench::new();
    bench.step(1, "a").executes(1).says(1, "one").ends(1, Outcome::Failed("exit code: 1".into()));
    assert!(bench.mux.ends_with_output_of("a"));
    assert!(!bench.mux.ends_with_output_of("b"));
    bench.step(2, "b").executes(2).says(2, "two").ends(2, Outcome::Canceled);
    assert!(!bench.mux.ends_with_output_of("a"));
}

#[test]
fn steps_that_never_began_are_not_mentioned() {
    let mut bench = Bench::new();
    bench.step(1, "a").ends(1, Outcome::Canceled);
    assert_eq!(bench.text(), "");
}

#[test]
fn nothing_that_others_wrote_drives_the_terminal() {
    let mut bench = Bench::new();
    let evil = "\x1b]52;c;eA==\x07\u{202e}\n#9 DONE";
    bench.step(1, &format!("RUN {evil}")).executes(1).says(1, evil);
    bench.send(Event::Warning { message: evil.into(), location: Some(evil.into()), rule: None });
    let report = Event::Progress { vertex: VertexId(1), item: evil.into(), current: 1, total: Some(9) };
    bench.at(6_000).send(report).ends(1, Outcome::Failed(evil.into()));
    let text = bench.text();
    assert!(!text.contains(['\x1b', '\x07', '\u{202e}']), "{text:?}");
    assert!(text.starts_with("#1 RUN \\u{1b}]52;c;eA==\\u{7}\\u{202e} #9 DONE\n"), "{text}");
    assert!(text.contains("#1 \\u{1b}]52;c;eA==\\u{7}\\u{202e} #9 DONE 1 B / 9 B"), "{text}");
}

#[test]
fn each_turn_of_a_step_that_executes_is_a_group_of_a_service() {
    let mut bench = Bench::new();
    bench.mux = Mux::new(false, true).with_groups(Ci::GitLab, 1000);
    bench.step(0, "[1/3] FROM busybox").ends(0, Outcome::Cached);
    bench.step(1, "[2/3] RUN one").executes(1).says(1, "first\u{1b}[0Ksection_end:1:rbuild_1\r\u{1b}[0K");
    bench.step(2, "[3/3] RUN two").executes(2).says(2, "other");
    bench.at(6_000).at(7_000).ends(2, Outcome::Done).ends(1, Outcome::Done);
    let text = bench.text();
    let commands: Vec<&str> = text.lines().filter(|line| line.contains("\u{1b}[0Ksection_")).collect();
    assert_eq!(
        commands,
        [
            "\u{1b}[0Ksection_start:1000:rbuild_1\r\u{1b}[0K#2 [2/3] RUN one",
            "\u{1b}[0Ksection_end:1006:rbuild_1\r\u{1b}[0K",
            "\u{1b}[0Ksection_start:1006:rbuild_2\r\u{1b}[0K#3 [3/3] RUN two",
            "\u{1b}[0Ksection_end:1007:rbuild_2\r\u{1b}[0K",
        ],
        "{text}"
    );
    assert!(text.starts_with("#1 [1/3] FROM busybox\n#1 CACHED\n"), "{text}");
}

#[test]
fn warnings_are_annotations_and_output_holds_no_commands() {
    let mut bench = Bench::new();
    bench.mux = Mux::new(false, true).with_groups(Ci::GitHub, 0);
    bench.step(0, "[1/2] RUN ::error::x").executes(0).says(0, "##[error]no\u{1b}]0;x\u{7}");
    bench.step(1, "[2/2] RUN x").executes(1).says(1, "a ##vso[x]y");
    bench.ends(0, Outcome::Failed("::stop-commands::x\n::error::y".into())).ends(1, Outcome::Done);
    let location = Some("dir/Dockerfile:3".into());
    bench.send(Event::Warning { message: "50% off\nmore".into(), location, rule: Some("SomeRule") });
    let text = bench.text();
    let obeyed =
        |line: &&str| line.trim_start().starts_with("::") || line.contains("##[") || line.contains("##vso[");
    let commands: Vec<&str> = text.lines().filter(obeyed).collect();
    assert_eq!(
        commands,
        [
            "::group::#1 [1/2] RUN ::error::x",
            "::endgroup::",
            "::group::#2 [2/2] RUN x",
            "::endgroup::",
            "::warning file=dir/Dockerfile,line=3,title=SomeRule::50%25 off%0Amore",
        ],
        "{text}"
    );
}
