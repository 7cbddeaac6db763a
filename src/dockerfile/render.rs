//! Mistakes as people read them: the message, the place, the source line underlined.

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};

use super::source::{Source, Span};

/// Lines of a long span that are shown.
const MAX_LINES: usize = 3;

/// Renders an error about a place in a source: the message, `name:line:column`, the lines concerned with
/// the place underlined, and the help. A span of many lines shows its first ones. Ends without newline.
pub fn render_error(source: &Source, span: Span, message: &str, help: Option<&str>, color: bool) -> String {
    let start = floor(source.text(), span.start);
    let end = floor(source.text(), span.end).max(start);
    let first = source.location(start).line;
    let last = source.location(end.saturating_sub(1).max(start)).line.min(first + MAX_LINES - 1);
    let mut shown = String::new();
    let (mut from, mut to) = (0, 0);
    for line in first..=last {
        let offset = source.line_start(line);
        let text = source.line(line);
        let in_line = |at: usize| shown.len() + at.saturating_sub(offset).min(text.len());
        if line == first {
            from = in_line(start);
        }
        to = in_line(end);
        shown.push_str(text);
        shown.push('\n');
    }
    let snippet = Snippet::source(shown.as_str())
        .line_start(first)
        .path(source.name())
        .annotation(AnnotationKind::Primary.span(from..to.max(from)));
    let mut report = Level::ERROR.primary_title(message).element(snippet);
    if let Some(help) = help {
        report = report.element(Level::HELP.message(help));
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
