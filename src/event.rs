//! Build events: the one stream that the terminal, `plain`, `rawjson` and library users all see.
//!
//! Rooms report through [`Events`], which is passed down; nothing prints below `cli/` and
//! `progress/`. Events carry no borrowed data, so a sink may hand them to another thread.

use std::sync::Arc;
use std::time::Duration;

use crate::digest::Digest;

/// The longest end of an unfinished line that is reported, in bytes.
pub const UNFINISHED: usize = 512;

/// A running number for a vertex (a step, a transfer, an export) of this build.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct VertexId(pub u32);

/// Which stream of a process a line came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// What kind of work a vertex is; renderers choose their words and marks by it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VertexKind {
    /// Loading the Dockerfile, the ignore file, a base's metadata.
    Internal,
    /// A Dockerfile step.
    Step,
    /// Pulling or unpacking a base image.
    Transfer,
    /// Writing an output.
    Export,
}

/// How a vertex ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Executed.
    Done,
    /// Taken from the cache.
    Cached,
    /// Failed; the message is short, the whole error comes as the build's result.
    Failed(String),
    /// Given up because something else failed or the user interrupted.
    Canceled,
}

/// One thing that happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// A vertex is known. Sent once for each, before anything else about it.
    Added {
        /// The vertex.
        vertex: VertexId,
        /// Its kind.
        kind: VertexKind,
        /// As shown, e.g. `[build 2/4] RUN make`.
        name: String,
        /// The vertexes whose results it needs.
        inputs: Vec<VertexId>,
    },
    /// Work began.
    Started {
        /// The vertex.
        vertex: VertexId,
    },
    /// The cache has no result: from now on the step takes its time. Not sent for steps that come from the cache.
    Executing {
        /// The vertex.
        vertex: VertexId,
    },
    /// The step has no result though an earlier build had one. Sent before [`Event::Executing`].
    Missed {
        /// The vertex.
        vertex: VertexId,
        /// The first cause, on one line: `src/a.rs changed`.
        why: String,
        /// The same as data, with all that changed in what the step reads.
        cause: Arc<serde_json::Value>,
    },
    /// Output of a `RUN`, a line without its line end (bytes as the process wrote them).
    Log {
        /// The vertex.
        vertex: VertexId,
        /// Where the process wrote it.
        stream: Stream,
        /// The line.
        line: Vec<u8>,
    },
    /// The line that a `RUN` has begun and not ended, such as a prompt or a progress bar. The next event of this
    /// kind, or the next line, replaces it. At most [`UNFINISHED`] bytes, the last ones.
    Unfinished {
        /// The vertex.
        vertex: VertexId,
        /// What there is of the line.
        line: Vec<u8>,
    },
    /// Progress in bytes of a part of a vertex (one blob of a pull, an export).
    Progress {
        /// The vertex.
        vertex: VertexId,
        /// Names the part, e.g. a short digest; the same part reports several times.
        item: String,
        /// Bytes done.
        current: u64,
        /// Bytes in all, if known.
        total: Option<u64>,
    },
    /// Work ended.
    Finished {
        /// The vertex.
        vertex: VertexId,
        /// How.
        outcome: Outcome,
        /// Time since `Started`.
        elapsed: Duration,
    },
    /// Something the user should know that is no failure.
    Warning {
        /// One sentence, optionally followed by detail lines.
        message: String,
        /// `Dockerfile:3:7` where it refers to a place.
        location: Option<String>,
        /// Linter rule name, if it comes from one.
        rule: Option<&'static str>,
    },
    /// A result is at its place besides the store, in a few words: a file was written, a name was pushed.
    Delivered(String),
    /// The build ended well. The last event of a successful build.
    Summary(Summary),
}

/// The summary line's facts.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// The image's ID; `None` where no image was made.
    pub id: Option<Digest>,
    /// Names given by `-t`, normalised for display.
    pub names: Vec<String>,
    /// The image's manifest digest; `None` where only files were exported.
    pub manifest: Option<Digest>,
    /// Bytes of all compressed layers.
    pub size: u64,
    /// Number of layers.
    pub layers: usize,
    /// Steps that came from the cache.
    pub cached: usize,
    /// Steps in all.
    pub steps: usize,
    /// Wall time.
    pub elapsed: Duration,
    /// Where results went and what took the time, a line each, for people. The engine leaves it empty.
    pub details: Vec<String>,
}

/// Receives events. Called from several threads at once; must not block for long.
pub trait EventSink: Send + Sync {
    /// Takes one event.
    fn event(&self, event: Event);

    /// Whether standard output and standard error of a step must arrive as such. Without, both come through one
    /// pipe as standard output, so that their lines keep the order in which they were written.
    fn separates_streams(&self) -> bool {
        true
    }
}

/// The handle rooms report through.
#[derive(Clone)]
pub struct Events {
    sink: Arc<dyn EventSink>,
    next: Arc<std::sync::atomic::AtomicU32>,
}

impl Events {
    /// Reports to `sink`.
    pub fn new(sink: Arc<dyn EventSink>) -> Self {
        Events { sink, next: Arc::default() }
    }

    /// Reports to `sink`, with the running numbers of these.
    pub fn through(&self, sink: Arc<dyn EventSink>) -> Self {
        Events { sink, next: self.next.clone() }
    }

    /// Where they go.
    pub fn sink(&self) -> Arc<dyn EventSink> {
        self.sink.clone()
    }

    /// Reports to nobody.
    pub fn none() -> Self {
        struct Nobody;
        impl EventSink for Nobody {
            fn event(&self, _: Event) {}
        }
        Self::new(Arc::new(Nobody))
    }

    /// Sends one event.
    pub fn send(&self, event: Event) {
        self.sink.event(event);
    }

    /// Announces a vertex that needs no other.
    pub fn add(&self, kind: VertexKind, name: impl Into<String>) -> VertexId {
        self.add_after(kind, name, Vec::new())
    }

    /// Announces a vertex that needs the results of `inputs`.
    pub fn add_after(&self, kind: VertexKind, name: impl Into<String>, inputs: Vec<VertexId>) -> VertexId {
        let vertex = VertexId(self.next.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
        self.send(Event::Added { vertex, kind, name: name.into(), inputs });
        vertex
    }

    /// See [`EventSink::separates_streams`].
    pub fn separates_streams(&self) -> bool {
        self.sink.separates_streams()
    }

    /// Reports a warning without a place.
    pub fn warn(&self, message: impl Into<String>) {
        self.send(Event::Warning { message: message.into(), location: None, rule: None });
    }
}
