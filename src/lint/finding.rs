//! What rules find, and the list it is collected in.

use std::collections::BTreeSet;

use crate::dockerfile::{Dockerfile, From, Instruction, Source, Span};

use super::options::{self, CheckOptions};
use super::rule::{INVALID_CHECK_OPTION, Level, Rule};

/// One place where a rule fires.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The rule.
    pub rule: &'static Rule,
    /// What is wrong here.
    pub detail: String,
    /// The instruction. Only its lines are shown.
    pub span: Span,
    /// Edits that together set it right and change nothing else; empty where that takes a human.
    pub edits: Vec<Edit>,
}

impl Finding {
    /// First and last line, from 1.
    pub fn lines(&self, source: &Source) -> (usize, usize) {
        lines(source, self.span)
    }
}

/// First and last line of a span, from 1.
pub(super) fn lines(source: &Source, span: Span) -> (usize, usize) {
    let first = source.location(span.start).line;
    let last = source.location(span.end.saturating_sub(1).max(span.start)).line;
    (first, last)
}

/// A piece of the source to be replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    /// What goes; may be empty.
    pub span: Span,
    /// What comes instead.
    pub text: String,
}

impl Edit {
    pub(super) fn new(span: Span, text: impl Into<String>) -> Self {
        Edit { span, text: text.into() }
    }
}

/// An instruction as a place for findings.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) span: Span,
    pub(super) comments: &'a [String],
}

impl<'a> Place<'a> {
    pub(super) fn from(from: &'a From) -> Self {
        Place { span: from.span, comments: &from.comments }
    }

    pub(super) fn of(instruction: &'a Instruction) -> Self {
        Place { span: instruction.span, comments: &instruction.comments }
    }

    /// A place without an instruction.
    pub(super) fn at(span: Span) -> Self {
        Place { span, comments: &[] }
    }
}

/// Findings so far.
pub(super) struct Findings<'a> {
    pub(super) dockerfile: &'a Dockerfile,
    options: CheckOptions,
    hints: bool,
    list: Vec<Finding>,
    seen: BTreeSet<(usize, &'static str, String)>,
}

impl<'a> Findings<'a> {
    pub(super) fn new(dockerfile: &'a Dockerfile, options: CheckOptions, hints: bool) -> Self {
        Findings { dockerfile, options, hints, list: Vec::new(), seen: BTreeSet::new() }
    }

    pub(super) fn add(&mut self, rule: &'static Rule, place: Place<'_>, detail: impl Into<String>) {
        self.add_with(rule, place, detail, Vec::new());
    }

    /// Adds a finding of an experimental rule that something beside the file asks for.
    pub(super) fn add_asked(&mut self, rule: &'static Rule, place: Place<'_>, detail: impl Into<String>) {
        self.put(rule, true, place, detail.into(), Vec::new());
    }

    /// Adds a finding unless it is silenced, or the same is there already.
    pub(super) fn add_with(
        &mut self,
        rule: &'static Rule,
        place: Place<'_>,
        detail: impl Into<String>,
        edits: Vec<Edit>,
    ) {
        self.put(rule, false, place, detail.into(), edits);
    }

    fn put(&mut self, rule: &'static Rule, asked: bool, place: Place<'_>, detail: String, edits: Vec<Edit>) {
        if rule.level != Level::Warning && !self.hints {
            return;
        }
        let own =
            options::in_comments(place.comments).and_then(|text| CheckOptions::parse_written(text).ok());
        if !self.options.report(rule, asked, own.as_ref()) {
            return;
        }
        let finding = Finding { rule, detail, span: place.span, edits };
        if self.seen.insert((finding.span.start, rule.name, finding.detail.clone())) {
            self.list.push(finding);
        }
    }

    /// Directives that silence nothing because they are misspelt.
    pub(super) fn check_options(&mut self) {
        let dockerfile = self.dockerfile;
        let mut texts: Vec<(Place<'_>, &str)> = Vec::new();
        if let Some(word) = &dockerfile.directives.check {
            texts.push((Place::at(word.span), &word.text));
        }
        for stage in &dockerfile.stages {
            let places = std::iter::once((Place::from(&stage.from), stage.from.comments.as_slice()))
                .chain(stage.instructions.iter().map(|one| (Place::of(one), one.comments.as_slice())));
            texts
                .extend(places.filter_map(|(place, comments)| {
                    options::in_comments(comments).map(|text| (place, text))
                }));
        }
        for (place, text) in texts {
            let rest = text.split_once(' ').map_or("", |(_, rest)| rest.trim());
            if !(rest.is_empty() || rest.starts_with("//")) {
                let detail = format!("The options end at the first blank; {rest:?} is not read");
                self.add(&INVALID_CHECK_OPTION, place, detail);
            }
            match CheckOptions::parse_written(text) {
                Err(error) => self.add(&INVALID_CHECK_OPTION, place, error.to_string()),
                Ok(options) => {
                    for name in options.unknown() {
                        self.add(
                            &INVALID_CHECK_OPTION,
                            place,
                            format!("{name:?} names no rule that this option concerns"),
                        );
                    }
                }
            }
        }
    }

    /// In the order of the source.
    pub(super) fn finish(mut self) -> (Vec<Finding>, bool) {
        self.list.sort_by_key(|finding| finding.span.start);
        let fails = self.options.error && self.list.iter().any(|finding| options::can_fail(finding.rule));
        (self.list, fails)
    }
}
