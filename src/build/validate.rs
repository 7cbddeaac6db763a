//! `rbuild validate`: an image at any place, judged.

use crate::image::read::{ImageSource, ReadError};
use crate::image::{Descriptor, open_layout};
use crate::registry::LayoutContent;
use crate::verify::{self, Report};

use super::failure::{Failure, FailureKind};
use super::place::Place;
use super::transfer::Transfer;

impl Transfer<'_> {
    /// Checks an image at its place, and, of a layout or archive without a name, all its images.
    /// Nothing is kept. A place that cannot be read at all is a failure; one that is read and wrong is
    /// a problem in the report.
    pub fn validate(&self, place: &Place) -> Result<Report, Failure> {
        let report = match place {
            Place::Layout(path, None) | Place::OciArchive(path, None) | Place::DockerArchive(path, None) => {
                match open_layout(path, self.store) {
                    Ok(source) => self.validate_all(source),
                    Err(error @ (ReadError::Io { .. } | ReadError::Store(_))) => return Err(error.into()),
                    Err(error) => {
                        let mut report = Report::default();
                        report.add(path.display().to_string(), error.to_string());
                        report
                    }
                }
            }
            place => {
                let source = self.open(place)?;
                verify::validate(&*source.content, &[source.top], self.cancel)
            }
        };
        if self.cancel.is_cancelled() {
            return Err(Failure::new(FailureKind::Interrupted, "canceled"));
        }
        Ok(report)
    }

    fn validate_all(&self, source: Box<dyn ImageSource>) -> Report {
        let mut tops: Vec<Descriptor> = Vec::new();
        for entry in source.entries() {
            // Several names of one image are entries of their own.
            if !tops.iter().any(|top| top.digest == entry.digest && top.size == entry.size) {
                tops.push(entry.clone());
            }
        }
        let place = source.place();
        let mut report = verify::validate(&LayoutContent::new(source), &tops, self.cancel);
        if tops.is_empty() {
            report.add(place, "holds no image");
        }
        report
    }
}
