//! `FROM [--platform=p] image [AS name]`.

use super::super::ast::{From, Word};
use super::super::error::{Outcome, Problem};
use super::super::flags::{Kind, Known};
use super::super::text::View;
use super::{Arguments, Context};

const FLAGS: Known = &[("platform", Kind::Once)];

pub(super) fn parse(
    arguments: Arguments<'_>,
    keyword: View<'_>,
    original: String,
    comments: Vec<String>,
    context: &mut Context<'_, '_>,
) -> Outcome<From> {
    arguments.flags.check("FROM", FLAGS)?;
    let words = arguments.text.blank_separated();
    let (image, name) = match words.as_slice() {
        [image] => (image, None),
        [image, r#as, name] if r#as.as_str().eq_ignore_ascii_case("as") => {
            check_as_casing(keyword, *r#as, context);
            (image, Some(stage_name(*name, context)?))
        }
        other => return Err(wrong_count(&arguments, other)),
    };
    Ok(From {
        span: arguments.span,
        platform: arguments.flags.text("platform"),
        image: image.word(),
        name,
        original,
        comments,
    })
}

fn wrong_count(arguments: &Arguments<'_>, words: &[View<'_>]) -> Problem {
    let span = if words.is_empty() { arguments.span } else { arguments.text.span() };
    let problem = Problem::new(span, "FROM takes an image, or an image, AS and a stage name");
    match words {
        [] => problem.help("for example `FROM alpine:3.20`, or `FROM scratch` to start from nothing"),
        [_, r#as] if r#as.as_str().eq_ignore_ascii_case("as") => {
            problem.help("the stage name after AS is missing")
        }
        words if words.iter().any(|word| word.as_str().starts_with('#')) => {
            problem.help("a comment must stand on a line of its own")
        }
        _ => problem.help("write `FROM image AS name`"),
    }
}

fn stage_name(name: View<'_>, context: &mut Context<'_, '_>) -> Outcome<Word> {
    let lower = name.as_str().to_lowercase();
    let valid = lower.starts_with(|c: char| c.is_ascii_lowercase())
        && lower
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.'));
    if !valid {
        return Err(Problem::new(name.span(), format!("invalid stage name `{}`", name.as_str()))
            .help("a stage name begins with a letter and holds only letters, digits, `-`, `_` and `.`"));
    }
    if lower != name.as_str() {
        let message = format!("Stage name '{}' should be lowercase", name.as_str());
        context.warn("StageNameCasing", name.span(), message);
    }
    Ok(name.word_as(lower))
}

/// A FROM in mixed case has a warning of its own already, and gives `AS` no case to follow.
fn check_as_casing(keyword: View<'_>, r#as: View<'_>, context: &mut Context<'_, '_>) {
    let has = |view: View<'_>, is: fn(&u8) -> bool| view.as_str().bytes().all(|byte| is(&byte));
    let follows = match (has(keyword, u8::is_ascii_lowercase), has(keyword, u8::is_ascii_uppercase)) {
        (true, _) => has(r#as, u8::is_ascii_lowercase),
        (_, true) => has(r#as, u8::is_ascii_uppercase),
        _ => true,
    };
    if !follows {
        let message = format!("'{}' and '{}' keywords' casing do not match", r#as.as_str(), keyword.as_str());
        context.warn("FromAsCasing", r#as.span(), message);
    }
}
