//! Mistakes as people read them: the message, the place, the source line underlined.

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};

use crate::visible::{visible, visible_line};

use super::source::{Source, Span};

/// Lines of a long span that are shown.
const MAX_LINES: usize = 3;
/// Lines of an instruction that failed that are shown.
const MAX_FAILED: usize = 100;

/// Renders an error about a place in a source: the message, `name:line:column`, the lines concerned with
/// the place underlined, and the help. A span of many lines shows its first ones. Ends without newline.
pub fn render_error(source: &Source, span: Span, message: &str, help: Option<&str>, color: bool) -> String {
    render(source, span, message, help, color, MAX_LINES)
}

/// As [`render_error`], for an instruction that failed: all of its lines, up to a hundred.
pub fn render_failed(source: &Source, span: Span, message: &str, help: Option<&str>, color: bool) -> String {
    render(source, span, message, help, color, MAX_FAILED)
}

fn render(
    source: &Source,
    span: Span,
    message: &str,
    help: Option<&str>,
    color: bool,
    lines: usize,
) -> String {
    let start = floor(source.text(), span.start);
    let end = floor(source.text(), span.end).max(start);
    let first = source.location(start).line;
    let last = source.location(end.saturating_sub(1).max(start)).line.min(first + lines - 1);
    let mut shown = String::new();
    let (mut from, mut to) = (0, 0);
    for line in first..=last {
        let offset = source.line_start(line);
        let text = source.line(line);
        // Written out, a character is longer than it was.
        let in_line = |at: usize| {
            let before = floor(text, at.saturating_sub(offset));
            shown.len() + visible(&text[..before]).len()
        };
        if line == first {
            from = in_line(start);
        }
        to = in_line(end);
        shown.push_str(&visible(text));
        shown.push('\n');
    }
    let snippet = Snippet::source(shown.as_str())
        .line_start(first)
        .path(visible_line(source.name()).into_owned())
        .annotation(AnnotationKind::Primary.span(from..to.max(from)));
    let (message, help) = (visible(message), help.map(visible));
    let mut report = Level::ERROR.primary_title(&*message).element(snippet);
    if let Some(help) = &help {
        report = report.element(Level::HELP.message(&**help));
    }
    let renderer = if color { Renderer::styled() } else { Renderer::plain() };
    renderer.decor_style(DecorStyle::Ascii).render(&[report])
}

/// The character boundary at or before an offset.
fn floor(text: &str, offset: usize) -> usize {
    let mut offset = offset.min(text.len());
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    offset
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(text: &str, span: Span, help: Option<&str>) -> String {
        render_error(&Source::new("dir/Dockerfile", text), span, "it is wrong", help, false)
    }

    #[test]
    fn shows_place_line_underline_and_help() {
        let shown = rendered("FROM x\n\tCOPY ünï b\nRUN y\n", Span::new(13, 18), Some("do this"));
        let expected = "\
error: it is wrong
 --> dir/Dockerfile:2:7
  |
2 |     COPY ünï b
  |          ^^^
  |
  = help: do this";
        assert_eq!(shown, expected);
    }

    #[test]
    fn long_spans_show_their_first_lines() {
        let text = "FROM x\nRUN <<E\na\nb\nc\nE\n";
        let shown = rendered(text, Span::new(7, text.len() - 1), None);
        assert!(shown.contains("2 | / RUN <<E") && shown.contains("4 | | b"), "{shown}");
        assert!(!shown.contains("| c"), "{shown}");
    }

    #[test]
    fn control_characters_of_the_file_do_not_reach_the_terminal() {
        let source = Source::new("f", "FROM \u{1b}[31m\n");
        let shown = render_error(&source, Span::new(5, 6), "no \u{1b}[1m here", Some("\u{7}"), false);
        assert!(!shown.contains(['\u{1b}', '\u{7}']), "{shown:?}");
        assert!(shown.contains("1 | FROM \\u{1b}[31m\n  |      ^^^^^^"), "{shown}");
    }

    #[test]
    fn what_hides_in_a_line_or_turns_it_is_shown() {
        let shown = rendered("RUN a\u{202e}\u{200b} b\n", Span::new(12, 13), None);
        assert!(shown.contains("1 | RUN a\\u{202e}\\u{200b} b\n"), "{shown}");
        assert!(!shown.contains(['\u{202e}', '\u{200b}']), "{shown:?}");
    }

    #[test]
    fn colour_only_when_asked_for() {
        let source = Source::new("f", "FROM x\n");
        assert!(!render_error(&source, Span::new(0, 4), "m", None, false).contains('\u{1b}'));
        assert!(render_error(&source, Span::new(0, 4), "m", None, true).contains('\u{1b}'));
    }

    #[test]
    fn any_span_renders() {
        for text in ["", "\n", "a", "é\r\n\r\n", "\u{feff}x\ty\n\nz"] {
            for start in 0..text.len() + 3 {
                for end in 0..text.len() + 3 {
                    assert!(rendered(text, Span::new(start, end), Some("h")).contains("dir/Dockerfile:"));
                }
            }
        }
    }
}
