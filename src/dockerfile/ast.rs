//! The Dockerfile as written: words unexpanded, flags typed but not interpreted, spans on everything.

use std::sync::Arc;

use super::source::{Source, Span};

/// A parsed Dockerfile.
#[derive(Debug, Clone)]
pub struct Dockerfile {
    /// The text every span points into.
    pub source: Arc<Source>,
    /// Parser directives at the head of the file.
    pub directives: Directives,
    /// `ARG` instructions before the first `FROM`: visible to `FROM` lines, and the defaults of a
    /// bare `ARG name` inside a stage. Each instruction's kind is [`InstructionKind::Arg`].
    pub global_args: Vec<Instruction>,
    /// Stages in file order; never empty.
    pub stages: Vec<Stage>,
    /// What only the parser sees of what is legal and yet worth telling; `lint` has the other rules.
    pub warnings: Vec<Warning>,
}

impl Dockerfile {
    /// What `TARGETSTAGE` is for this target: its name or number as it was given, else the name of the last
    /// stage. Every reader of a Dockerfile takes it from here.
    pub fn target_name<'a>(&'a self, target: Option<&'a str>) -> &'a str {
        target.or_else(|| self.stages.last()?.name()).unwrap_or("default")
    }
}

/// Parser directives (`# key=value` before anything else).
#[derive(Debug, Clone)]
pub struct Directives {
    /// The escape character: `\` unless `# escape=` chose the backtick.
    pub escape: char,
    /// Value of `# syntax=` (also detected in the `// syntax=`, JSON and after-`#!` forms).
    pub syntax: Option<Word>,
    /// Value of `# check=`.
    pub check: Option<Word>,
}

/// A warning about legal text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// Name of a rule of `lint`, such as `NoEmptyContinuation`.
    pub rule: &'static str,
    /// One sentence for the reader.
    pub message: String,
    /// Where.
    pub span: Span,
}

/// `FROM` and what follows it up to the next `FROM`.
#[derive(Debug, Clone)]
pub struct Stage {
    /// Zero-based position in the file.
    pub index: usize,
    /// The `FROM` instruction.
    pub from: From,
    /// The rest, in file order.
    pub instructions: Vec<Instruction>,
}

impl Stage {
    /// The stage's name in lower case, if it has one.
    pub fn name(&self) -> Option<&str> {
        self.from.name.as_ref().map(|name| name.text.as_str())
    }
}

/// `FROM [--platform=p] image [AS name]`.
#[derive(Debug, Clone)]
pub struct From {
    /// The whole instruction.
    pub span: Span,
    /// `--platform`, unexpanded.
    pub platform: Option<Word>,
    /// The base, unexpanded.
    pub image: Word,
    /// The stage name, lower-cased; the span is that of the name as written.
    pub name: Option<Word>,
    /// The instruction as written, continuations joined.
    pub original: String,
    /// Comment block directly above, without `#`.
    pub comments: Vec<String>,
}

/// A piece of text with its place. Unless said otherwise it is *unexpanded*: quotes, escapes and
/// `$variables` stand as written (continuations are already joined).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    /// The text.
    pub text: String,
    /// Where it stands.
    pub span: Span,
}

impl Word {
    /// The place of what begins at a byte offset of the text (an expansion error's, say): from there to
    /// the word's end where the text stands in the source as it is, and else (joined from several lines,
    /// unquoted, decoded) the whole word.
    pub fn span_at(&self, source: &Source, offset: usize) -> Span {
        if source.slice(self.span) == self.text && self.text.is_char_boundary(offset) {
            return Span::new(self.span.start + offset, self.span.end);
        }
        self.span
    }
}

/// An instruction other than `FROM`.
#[derive(Debug, Clone)]
pub struct Instruction {
    /// From the keyword to the end of the last continued line (heredoc bodies included).
    pub span: Span,
    /// The keyword as written (`run`, `RUN`).
    pub keyword: Word,
    /// Keyword and arguments as written, continuations joined, heredoc bodies left out.
    pub original: String,
    /// Comment block directly above, without `#`.
    pub comments: Vec<String>,
    /// What it says.
    pub kind: InstructionKind,
}

/// What an instruction says.
#[derive(Debug, Clone)]
pub enum InstructionKind {
    /// `ARG a b=c ...`
    Arg(Vec<ArgDecl>),
    /// `ENV a=b ...` or the legacy `ENV a b`.
    Env(Vec<KeyValue>),
    /// `LABEL a=b ...` or the legacy `LABEL a b`.
    Label(Vec<KeyValue>),
    /// `MAINTAINER text`: the text as written.
    Maintainer(Word),
    /// `RUN`
    Run(Run),
    /// `COPY`
    Copy(Copy),
    /// `ADD`
    Add(Copy),
    /// `WORKDIR path`
    Workdir(Word),
    /// `USER user[:group]`
    User(Word),
    /// `CMD`
    Cmd(CommandLine),
    /// `ENTRYPOINT`
    Entrypoint(CommandLine),
    /// `SHELL ["program", "arg"]`: JSON strings, already decoded.
    Shell(Vec<String>),
    /// `EXPOSE port...`
    Expose(Vec<Word>),
    /// `VOLUME path...` or JSON.
    Volume(Vec<Word>),
    /// `STOPSIGNAL signal`
    StopSignal(Word),
    /// `HEALTHCHECK`
    Healthcheck(Healthcheck),
    /// `ONBUILD instruction`
    Onbuild(Onbuild),
}

/// One name of an `ARG`.
#[derive(Debug, Clone)]
pub struct ArgDecl {
    /// The name, literal.
    pub name: Word,
    /// The default, unexpanded; `None` for a bare `ARG name`.
    pub default: Option<Word>,
}

/// One pair of `ENV` or `LABEL`, both sides unexpanded.
#[derive(Debug, Clone)]
pub struct KeyValue {
    /// The key.
    pub key: Word,
    /// The value. In the legacy form this is the raw rest of the line.
    pub value: Word,
    /// Written in the legacy `KEY value` form.
    pub legacy: bool,
}

/// Shell form or exec form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommandLine {
    /// One string for the shell, inner white space preserved; never expanded by the builder.
    Shell(String),
    /// A JSON array of strings, decoded. May be empty (`CMD []`).
    Exec(Vec<String>),
}

/// `RUN`.
#[derive(Debug, Clone)]
pub struct Run {
    /// `--mount` flags in order of writing.
    pub mounts: Vec<MountFlag>,
    /// `--network`, unexpanded.
    pub network: Option<Word>,
    /// `--security`, unexpanded.
    pub security: Option<Word>,
    /// `--device` flags, unexpanded.
    pub devices: Vec<Word>,
    /// The command. With heredocs the text still holds the `<<NAME` words.
    pub command: CommandLine,
    /// Heredoc bodies in order of their words.
    pub heredocs: Vec<Heredoc>,
}

/// `--mount=k=v,...` split at its commas (CSV rules), unexpanded.
#[derive(Debug, Clone)]
pub struct MountFlag {
    /// The flag's value as written.
    pub value: Word,
    /// Key (lower-cased) and value, if it has one, in order.
    pub options: Vec<(String, Option<String>)>,
}

/// `COPY` or `ADD`.
#[derive(Debug, Clone)]
pub struct Copy {
    /// Flags; each instruction's parser refuses those it does not know.
    pub flags: CopyFlags,
    /// At least one source.
    pub sources: Vec<CopySource>,
    /// The destination, unexpanded.
    pub dest: Word,
}

/// Flags of `COPY` and `ADD`. Words are unexpanded.
#[derive(Debug, Clone, Default)]
pub struct CopyFlags {
    /// `--from` (COPY).
    pub from: Option<Word>,
    /// `--chown`.
    pub chown: Option<Word>,
    /// `--chmod`.
    pub chmod: Option<Word>,
    /// `--link`.
    pub link: bool,
    /// `--parents` (COPY).
    pub parents: bool,
    /// `--exclude`, repeatable.
    pub exclude: Vec<Word>,
    /// `--checksum` (ADD).
    pub checksum: Option<Word>,
    /// `--keep-git-dir` (ADD).
    pub keep_git_dir: Option<bool>,
    /// `--unpack` (ADD).
    pub unpack: Option<bool>,
    /// Where each flag stands, by its name without dashes, for messages.
    pub spans: Vec<(&'static str, Span)>,
}

/// A source of `COPY` or `ADD`.
#[derive(Debug, Clone)]
pub enum CopySource {
    /// A path, pattern or URL, unexpanded.
    Path(Word),
    /// An inline file.
    Heredoc(Heredoc),
}

/// A here-document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heredoc {
    /// The terminator, unquoted; also the file's name in `COPY <<name dir/`.
    pub name: String,
    /// The lines between, each with its line end as written, leading tabs already stripped for `<<-`.
    pub body: String,
    /// The same with its tabs, for a shell that strips them itself.
    pub raw: String,
    /// Whether variables in the body are expanded (the terminator was not quoted).
    pub expand: bool,
    /// Written as `<<-`.
    pub strip_tabs: bool,
    /// File descriptor written before `<<`; 0 unless written.
    pub fd: u32,
    /// The body in the source, terminator line included.
    pub span: Span,
}

/// `HEALTHCHECK`.
#[derive(Debug, Clone)]
pub enum Healthcheck {
    /// `HEALTHCHECK NONE`
    None,
    /// `HEALTHCHECK [options] CMD command`. Durations in nanoseconds; `None` where not written,
    /// and zero means "inherit" as well.
    Cmd {
        /// The probe.
        command: CommandLine,
        /// `--interval`
        interval: Option<i64>,
        /// `--timeout`
        timeout: Option<i64>,
        /// `--start-period`
        start_period: Option<i64>,
        /// `--start-interval`
        start_interval: Option<i64>,
        /// `--retries`
        retries: Option<u32>,
    },
}

/// `ONBUILD`: stored as text for the image's config, and parsed so that mistakes show now.
#[derive(Debug, Clone)]
pub struct Onbuild {
    /// What the config's `OnBuild` gets: the instruction as written, with heredoc bodies.
    pub trigger: String,
    /// The instruction it holds.
    pub instruction: Box<Instruction>,
}
