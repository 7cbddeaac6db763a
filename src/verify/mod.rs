//! Judging images: whether one keeps every rule of its formats, and how two of them differ.
//!
//! Owns the strict reading that importing does without: everything is looked at, and every problem is
//! told with its place, where other rooms stop at the first. Must never change anything.

mod compare;
mod config;
mod content;
mod document;
mod guess;
mod image;
mod layer;
mod report;

pub use compare::{
    Change, Comparison, EntryDifference, FieldDifference, FileChange, LayerChange, LayerDifference, compare,
    compare_files,
};
pub use content::ContentDifference;
pub use guess::Guess;
pub use image::validate;
pub use report::{Problem, Report};

#[cfg(test)]
mod tests;
