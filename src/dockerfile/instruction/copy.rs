//! `COPY` and `ADD`.

use super::super::ast::{Copy, CopyFlags, CopySource, Word};
use super::super::error::{Outcome, Problem};
use super::super::flags::{Kind, Known};
use super::super::json;
use super::super::text::View;
use super::{Arguments, Context, warn_if_meant_as_json};

pub(super) const COPY: Known = &[
    ("from", Kind::Once),
    ("chown", Kind::Once),
    ("chmod", Kind::Once),
    ("link", Kind::Switch),
    ("parents", Kind::Switch),
    ("exclude", Kind::Many),
];

pub(super) const ADD: Known = &[
    ("chown", Kind::Once),
    ("chmod", Kind::Once),
    ("link", Kind::Switch),
    ("exclude", Kind::Many),
    ("checksum", Kind::Once),
    ("keep-git-dir", Kind::Switch),
    ("unpack", Kind::Switch),
];

pub(super) fn parse(arguments: Arguments<'_>, known: Known, context: &mut Context<'_, '_>) -> Outcome<Copy> {
    let flags = &arguments.flags;
    flags.check(arguments.keyword, known)?;
    let flags = CopyFlags {
        from: flags.text("from"),
        chown: flags.text("chown"),
        chmod: flags.text("chmod"),
        link: flags.switch("link").unwrap_or(false),
        parents: flags.switch("parents").unwrap_or(false),
        exclude: flags.texts("exclude"),
        checksum: flags.text("checksum"),
        keep_git_dir: flags.switch("keep-git-dir"),
        unpack: flags.switch("unpack"),
        spans: flags.spans(known),
    };
    let (keyword, span, text) = (arguments.keyword, arguments.span, arguments.text);
    let mut sources = match json::strings(text)? {
        Some(words) => words.into_iter().map(CopySource::Path).collect(),
        None => {
            warn_if_meant_as_json(&arguments, text, context);
            words(arguments)
        }
    };
    match sources.pop() {
        None => Err(Problem::new(span, format!("{keyword} requires a source and a destination"))),
        Some(CopySource::Path(only)) if sources.is_empty() => Err(Problem::new(
            only.span,
            format!("{keyword} requires a source and a destination, but only one is given"),
        )
        .help("the last argument is the destination; quote names that hold blanks in JSON form")),
        Some(CopySource::Path(dest)) => Ok(Copy { flags, sources, dest }),
        Some(CopySource::Heredoc(heredoc)) => {
            let word = Problem::new(
                text.span(),
                format!("{keyword} cannot have the heredoc `{}` as its destination", heredoc.name),
            );
            Err(word.help("write the path of the file after the heredoc's word"))
        }
    }
}

/// Words between blanks and here-documents, in order.
fn words(arguments: Arguments<'_>) -> Vec<CopySource> {
    let text = arguments.text;
    let mut sources = Vec::new();
    let mut at = 0;
    for attached in arguments.heredocs {
        sources.extend(paths(text.sub(at..attached.token.range.start)));
        at = attached.token.range.end;
        sources.push(CopySource::Heredoc(attached.heredoc));
    }
    sources.extend(paths(text.from(at)));
    sources
}

fn paths(text: View<'_>) -> impl Iterator<Item = CopySource> {
    text.blank_separated().into_iter().map(View::word).map(|word: Word| CopySource::Path(word))
}
