//! What stands on the screen, as a model of a terminal has it. The pictures are files in `testdata/ui`:
//! `RBUILD_WRITE_SNAPSHOTS=1 cargo test --lib progress::` writes them anew.

use std::path::Path;

use super::*;
use crate::event::{Stream, VertexId};

/// A build that a terminal shows.
struct Bench {
    picture: Picture,
    terminal: vt100::Parser,
    now: Duration,
    size: Size,
    stopping: bool,
    bytes: Vec<String>,
}

impl Bench {
    fn new(columns: u16, rows: u16) -> Self {
        let size = |size| std::num::NonZero::new(size).unwrap();
        let look = Look { colour: false, unicode: true };
        Bench {
            picture: Picture::new(look),
            terminal: vt100::Parser::new(size(rows), size(columns), 200),
            now: Duration::ZERO,
            size: Size { columns: columns.into(), rows: rows.into() },
            stopping: false,
            bytes: Vec::new(),
        }
    }

    fn at(&mut self, millis: u64) -> &mut Self {
        self.now = Duration::from_millis(millis);
        self.draw()
    }

    fn draw(&mut self) -> &mut Self {
        if let Some(frame) = self.picture.frame(self.now, self.size, self.stopping) {
            self.terminal.process(frame.as_bytes());
            self.bytes.push(frame);
        }
        self
    }

    fn send(&mut self, event: Event) -> &mut Self {
        self.picture.take(event, self.now);
        self
    }

    fn add(&mut self, number: u32, kind: VertexKind, name: &str) -> &mut Self {
        let vertex = VertexId(number);
        self.send(Event::Added { vertex, kind, name: name.into(), inputs: Vec::new() })
    }

    fn starts(&mut self, number: u32) -> &mut Self {
        self.send(Event::Started { vertex: VertexId(number) })
    }

    fn says(&mut self, number: u32, line: &[u8]) -> &mut Self {
        let (vertex, stream) = (VertexId(number), Stream::Stdout);
        self.send(Event::Log { vertex, stream, line: line.to_vec() })
    }

    fn ends(&mut self, number: u32, outcome: Outcome) -> &mut Self {
        let (vertex, elapsed) = (VertexId(number), self.now);
        self.send(Event::Finished { vertex, outcome, elapsed })
    }

    fn finish(&mut self) -> &mut Self {
        self.picture.done = true;
        self.draw()
    }

    fn screen(&self) -> String {
        let contents = self.terminal.screen().contents();
        let mut out: String = contents.lines().map(|line| format!("{}\n", line.trim_end())).collect();
        while out.ends_with("\n\n") {
            out.pop();
        }
        out
    }
}

/// Compares with a picture of `testdata/ui`, or writes it.
fn check(name: &str, columns: u16, shown: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("testdata/ui/{name}-{columns}.txt"));
    if std::env::var_os("RBUILD_WRITE_SNAPSHOTS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, shown).unwrap();
    }
    let wanted = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(shown, wanted, "{} differs; see the head of this file", path.display());
    for line in shown.lines() {
        assert!(super::super::width::columns(line) <= usize::from(columns), "{line}");
    }
}

/// The same scene at all widths; `---` divides pictures of different times.
fn at_all_widths(name: &str, rows: u16, scene: impl Fn(&mut Bench) -> Vec<String>) {
    for columns in [40, 80, 120] {
        let pictures = scene(&mut Bench::new(columns, rows));
        check(name, columns, &pictures.join("---\n"));
    }
}

fn stages(bench: &mut Bench, count: u32) {
    for number in 0..count {
        bench.add(2 * number, VertexKind::Step, &format!("[s{number} 1/2] FROM busybox"));
        bench.add(
            2 * number + 1,
            VertexKind::Step,
            &format!("[s{number} 2/2] RUN ./configure --prefix=/usr/local && make -j{number}"),
        );
    }
    for number in 0..count {
        bench.starts(2 * number).ends(2 * number, Outcome::Cached).starts(2 * number + 1);
    }
}

#[test]
fn parallel_steps_stand_side_by_side_with_their_last_lines() {
    at_all_widths("parallel", 24, |bench| {
        stages(bench, 3);
        for line in 0..9 {
            bench.says(1, format!("cc -c file{line}.c").as_bytes());
        }
        bench.says(
            3,
            "日本語の出力は幅が二倍です、とても長い行なので切られます、はい、もう少しだけ続きます".as_bytes(),
        );
        bench.at(4_200);
        let first = bench.screen();
        bench.at(5_000).ends(3, Outcome::Done).at(6_300);
        let second = bench.screen();
        bench.ends(1, Outcome::Done).ends(5, Outcome::Done).finish();
        vec![first, second, bench.screen()]
    });
}

#[test]
fn of_more_steps_than_rows_the_rest_is_counted() {
    at_all_widths("many", 9, |bench| {
        stages(bench, 10);
        for number in 0..10 {
            bench.says(2 * number + 1, b"one").says(2 * number + 1, b"two");
        }
        bench.at(2_000);
        let many = bench.screen();
        for number in 0..7 {
            bench.ends(2 * number + 1, Outcome::Done);
        }
        vec![many, bench.at(3_000).screen()]
    });
}

#[test]
fn a_run_of_cached_steps_is_one_line() {
    at_all_widths("cached", 24, |bench| {
        for number in 1..=9 {
            bench.add(
                number,
                VertexKind::Step,
                &format!("[build {number}/9] COPY part{number} /src/part{number}"),
            );
        }
        for number in 1..=9 {
            bench.starts(number).ends(number, Outcome::Cached);
        }
        bench.finish();
        assert_eq!(bench.bytes.len(), 1, "one write");
        vec![bench.screen()]
    });
}

#[test]
fn a_silent_step_shows_with_its_time_and_so_does_half_a_line() {
    at_all_widths("silent", 24, |bench| {
        bench.add(1, VertexKind::Step, "[2/2] RUN sleep 8").starts(1).at(100);
        assert_eq!(bench.screen(), "");
        let first = bench.at(200).screen();
        let second = bench.at(65_000).screen();
        bench.send(Event::Unfinished { vertex: VertexId(1), line: b"10%\r20%\rcontinue? [y/n] ".to_vec() });
        vec![first, second, bench.at(66_000).screen()]
    });
}

#[test]
fn transfers_show_bytes_rate_and_time_left() {
    at_all_widths("transfer", 24, |bench| {
        bench.add(1, VertexKind::Transfer, "fetch registry.example.com/team/base:1.2").starts(1);
        let report = |item: &str, current, total| Event::Progress {
            vertex: VertexId(1),
            item: item.into(),
            current,
            total,
        };
        bench.send(report("a", 0, Some(60_000_000)));
        let first = bench.at(400).screen();
        bench.now = Duration::from_secs(4);
        bench.send(report("a", 20_000_000, Some(60_000_000)));
        let second = bench.draw().screen();
        bench.send(report("b", 4_000_000, None));
        let third = bench.draw().screen();
        vec![first, second, third, bench.ends(1, Outcome::Done).finish().screen()]
    });
}

#[test]
fn a_failure_leaves_its_line_and_nothing_else() {
    at_all_widths("failing", 24, |bench| {
        stages(bench, 2);
        bench.says(1, b"error: no").at(2_000);
        bench.ends(1, Outcome::Failed("RUN failed: exit code: 2".into())).ends(3, Outcome::Canceled).finish();
        vec![bench.screen()]
    });
}

#[test]
fn a_failed_step_is_not_shown_as_an_interruption() {
    let mut bench = Bench::new(80, 24);
    stages(&mut bench, 2);
    bench.at(2_000);
    bench.ends(1, Outcome::Failed("RUN failed: exit code: 2".into()));
    bench.stopping = true;
    let screen = bench.at(2_080).screen();
    assert!(screen.contains("a step failed, stopping (1 running)"), "{screen}");
    assert!(!screen.contains("interrupted"), "{screen}");
}

#[test]
fn an_interrupted_build_says_so_and_leaves_nothing() {
    at_all_widths("interrupted", 24, |bench| {
        stages(bench, 2);
        bench.at(2_000);
        // The terminal's own echo of the key.
        bench.terminal.process(b"^C");
        bench.stopping = true;
        let stopping = bench.at(2_080).screen();
        bench.ends(1, Outcome::Canceled).ends(3, Outcome::Canceled).finish();
        vec![stopping, bench.screen()]
    });
}

#[test]
fn long_warnings_wrap_and_leave_nothing_behind() {
    let mut bench = Bench::new(40, 24);
    stages(&mut bench, 2);
    bench.at(1_000);
    let message = "word ".repeat(30);
    bench.send(Event::Warning { message, location: None, rule: None }).at(1_100);
    let screen = bench.screen();
    // The model joins wrapped lines.
    let after: Vec<&str> = screen.lines().skip(3).collect();
    assert!(after[0].starts_with("⠙ [s0 2/2]") && after.len() == 3, "{screen}");
}

#[test]
fn a_narrower_terminal_wraps_what_is_there_and_it_is_taken_away() {
    let mut screen = Screen::default();
    let line = "x".repeat(79);
    screen.frame(&[], vec![line.clone(), "short".into()], 80);
    // The first line takes two rows now.
    let frame = screen.frame(&[], vec!["y".into()], 40).unwrap();
    assert!(frame.starts_with("\r\x1b[3A\x1b[J"), "{frame:?}");
    let frame = screen.frame(&[], vec!["z".into()], 120).unwrap();
    assert!(frame.starts_with("\r\x1b[1A\x1b[J"), "{frame:?}");
    assert_eq!(screen.frame(&[], vec!["z".into()], 120), None);
}

#[test]
fn nothing_that_others_wrote_drives_the_terminal() {
    let mut bench = Bench::new(80, 24);
    let evil = "\x1b]52;c;eA==\x07\x1b[2J\u{202e}\u{9b}2J";
    bench.add(1, VertexKind::Step, &format!("RUN {evil}\n✔ forged")).starts(1);
    bench.says(1, evil.as_bytes());
    bench.send(Event::Unfinished { vertex: VertexId(1), line: evil.as_bytes().to_vec() });
    bench.send(Event::Warning { message: evil.into(), location: Some(evil.into()), rule: None });
    bench.at(1_000).ends(1, Outcome::Done).at(1_100);
    for frame in &bench.bytes {
        let ours = frame.replace("\x1b[2K", "").replace("\x1b[J", "");
        let ours = (0..9).fold(ours, |text, rows| text.replace(&format!("\x1b[{rows}A"), ""));
        assert!(!ours.contains(['\x1b', '\x07', '\u{202e}', '\u{9b}']), "{frame:?}");
    }
}

#[test]
fn terminals_without_unicode_get_ascii() {
    let look = Look { colour: false, unicode: false };
    let mut bench = Bench::new(80, 24);
    bench.picture = Picture::new(look);
    bench.add(1, VertexKind::Step, "RUN make").starts(1).says(1, b"cc").at(1_000);
    let during = bench.screen();
    bench.ends(1, Outcome::Done).finish();
    assert!((during + &bench.screen()).is_ascii());
}
