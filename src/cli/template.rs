//! `--format` as people write it for docker: the part of Go's templates that reaches into data.
//!
//! Fields (`.A.B`, `$.A`), variables (`$x := ...`, `range $i, $x := ...`), `json`, `index`, `slice`, `len`, `join`, `split`,
//! `upper`, `lower`, `title`, `pad`, `truncate`, `println`, `printf` (`%s %v %d %q %x %t %f` with flags, width and
//! precision), `eq`, `ne`, `lt`, `le`, `gt`, `ge`, `and`, `or`, `not`, pipes, parentheses, `if`, `range`, `with`, `else`,
//! `end`, comments and trimming. What is not there fails by name.

mod format;
mod parse;

use std::cmp::Ordering;

use serde_json::Value;

use crate::build::{Failure, FailureKind};

pub(super) use parse::parse;

/// A parsed template.
#[derive(Debug, PartialEq)]
pub(super) struct Template(Vec<Node>);

#[derive(Debug, PartialEq)]
enum Node {
    Text(String),
    Print(Pipe),
    /// The condition, what it rules, and the rest.
    If(Pipe, Vec<Node>, Vec<Node>),
    With(Pipe, Vec<Node>, Vec<Node>),
    /// With the names of the variables for key and value, where there are any.
    Range(Range, Vec<Node>, Vec<Node>),
    /// A variable is declared, or with `false` given another value.
    Set(String, Pipe, bool),
}

#[derive(Debug, PartialEq)]
struct Range {
    key: Option<String>,
    value: Option<String>,
    over: Pipe,
}

/// What a template is rendered with.
struct Scope<'a> {
    root: &'a Value,
    /// The innermost last.
    variables: Vec<(String, Value)>,
}

/// Calls, each with the result of the one before as its last argument.
type Pipe = Vec<Vec<Term>>;

#[derive(Clone, Debug, PartialEq)]
enum Term {
    /// From the current value.
    Field(Vec<String>),
    /// From the outermost value.
    Root(Vec<String>),
    /// From a variable.
    Variable(String, Vec<String>),
    Literal(Value),
    Function(String),
    Inner(Pipe),
}

fn wrong(message: impl std::fmt::Display) -> Failure {
    Failure::new(FailureKind::Usage, format!("--format: {message}"))
        .help("write json, or a Go template such as '{{json .}}', which shows every field")
}

impl Template {
    /// Writes a value.
    pub fn render(&self, value: &Value) -> Result<String, Failure> {
        let mut out = String::new();
        let mut scope = Scope { root: value, variables: Vec::new() };
        render(&self.0, &mut scope, value, &mut out)?;
        Ok(out)
    }
}

/// Renders a block: variables that it declares end with it.
fn render(nodes: &[Node], scope: &mut Scope<'_>, dot: &Value, out: &mut String) -> Result<(), Failure> {
    let known = scope.variables.len();
    for node in nodes {
        match node {
            Node::Text(text) => out.push_str(text),
            Node::Print(pipe) => out.push_str(&text(&run(pipe, scope, dot)?)),
            Node::If(pipe, yes, no) => {
                let nodes = if truth(&run(pipe, scope, dot)?) { yes } else { no };
                render(nodes, scope, dot, out)?;
            }
            Node::With(pipe, yes, no) => {
                let value = run(pipe, scope, dot)?;
                match truth(&value) {
                    true => render(yes, scope, &value, out)?,
                    false => render(no, scope, dot, out)?,
                }
            }
            Node::Range(range, each, none) => render_range(range, (each, none), scope, dot, out)?,
            Node::Set(name, pipe, declared) => {
                let value = run(pipe, scope, dot)?;
                let old = scope.variables.iter_mut().rev().find(|(known, _)| known == name);
                match (declared, old) {
                    (true, _) => scope.variables.push((name.clone(), value)),
                    (false, Some((_, old))) => *old = value,
                    (false, None) => return Err(undefined(name)),
                }
            }
        }
    }
    scope.variables.truncate(known);
    Ok(())
}

fn render_range(
    range: &Range,
    (each, none): (&[Node], &[Node]),
    scope: &mut Scope<'_>,
    dot: &Value,
    out: &mut String,
) -> Result<(), Failure> {
    let items: Vec<(Value, Value)> = match settled(&run(&range.over, scope, dot)?) {
        Value::Array(items) => items.into_iter().enumerate().map(|(at, item)| (at.into(), item)).collect(),
        // As in Go, maps are gone through in the order of their keys.
        Value::Object(map) => {
            let mut all: Vec<_> = map.into_iter().collect();
            all.sort_by(|(one, _), (other, _)| one.cmp(other));
            all.into_iter().map(|(key, value)| (key.into(), value)).collect()
        }
        Value::Null => Vec::new(),
        other => return Err(wrong(format!("cannot range over {}", text(&other)))),
    };
    if items.is_empty() {
        return render(none, scope, dot, out);
    }
    let known = scope.variables.len();
    for (key, item) in items {
        scope.variables.extend(range.key.clone().map(|name| (name, key)));
        scope.variables.extend(range.value.clone().map(|name| (name, item.clone())));
        render(each, scope, &item, out)?;
        scope.variables.truncate(known);
    }
    Ok(())
}

fn undefined(name: &str) -> Failure {
    wrong(format!("there is no variable ${name}"))
}

fn run(pipe: &Pipe, scope: &Scope<'_>, dot: &Value) -> Result<Value, Failure> {
    let mut last: Option<Value> = None;
    for call in pipe {
        let mut values = Vec::new();
        let (name, rest) = match call.as_slice() {
            [Term::Function(name), rest @ ..] => (Some(name.as_str()), rest),
            all => (None, all),
        };
        for term in rest {
            values.push(term_value(term, scope, dot)?);
        }
        values.extend(last.take());
        if name.is_some_and(|name| !name.starts_with("print")) {
            values.iter_mut().for_each(|value| *value = settled(value));
        }
        last = Some(match (name, values.as_slice()) {
            (Some(name), values) => function(name, values)?,
            (None, [value]) => value.clone(),
            (None, _) => return Err(wrong("a value is no function, and takes no arguments")),
        });
    }
    last.ok_or_else(|| wrong("empty {{}}"))
}

fn term_value(term: &Term, scope: &Scope<'_>, dot: &Value) -> Result<Value, Failure> {
    match term {
        Term::Field(path) => field(dot, path),
        Term::Root(path) => field(scope.root, path),
        Term::Variable(name, path) => {
            let found = scope.variables.iter().rev().find(|(known, _)| known == name);
            field(&found.ok_or_else(|| undefined(name))?.1, path)
        }
        Term::Literal(value) => Ok(value.clone()),
        Term::Function(name) => function(name, &[]),
        Term::Inner(pipe) => run(pipe, scope, dot),
    }
}

fn field(value: &Value, path: &[String]) -> Result<Value, Failure> {
    let mut at = value;
    for name in path {
        at = match at {
            Value::Object(_) if shown_unset(at).is_some() => return Ok(Value::Null),
            // A map of labels may have any key; what is listed has known ones.
            Value::Object(map) => match map.get(name) {
                Some(inner) => inner,
                None => {
                    let known: Vec<&str> = map.keys().map(String::as_str).collect();
                    let near = crate::suggest::suggest(name, known.iter().copied());
                    let hint = near.map_or_else(
                        || format!("known are {}", known.join(", ")),
                        |near| format!("did you mean .{near}?"),
                    );
                    return Err(wrong(format!("there is no field .{name}; {hint}")));
                }
            },
            Value::Null => return Ok(Value::Null),
            other => return Err(wrong(format!("{} has no field .{name}", text(other)))),
        };
    }
    Ok(at.clone())
}

fn function(name: &str, values: &[Value]) -> Result<Value, Failure> {
    let string = |value: &Value| Value::String(text(value));
    Ok(match (name, values) {
        ("json", [value]) => Value::String(value.to_string()),
        ("len", [Value::Array(items)]) => items.len().into(),
        ("len", [Value::Object(map)]) => map.len().into(),
        ("len", [Value::String(text)]) => text.len().into(),
        ("len", [Value::Null]) => 0.into(),
        ("index", [value, keys @ ..]) => index(value, keys)?,
        ("join", [Value::Array(items), by]) => {
            Value::String(items.iter().map(text).collect::<Vec<_>>().join(&text(by)))
        }
        ("join", [Value::Null, _]) => Value::String(String::new()),
        ("split", [value, by]) => text(value).split(&text(by)).map(Value::from).collect(),
        ("upper", [value]) => Value::String(text(value).to_uppercase()),
        ("lower", [value]) => Value::String(text(value).to_lowercase()),
        ("title", [value]) => {
            let text = text(value);
            let mut letters = text.chars();
            let first = letters.next().map(|c| c.to_uppercase().to_string()).unwrap_or_default();
            Value::String(first + letters.as_str())
        }
        ("println", values) => Value::String(values.iter().map(text).collect::<Vec<_>>().join(" ") + "\n"),
        ("print", values) => Value::String(values.iter().map(text).collect()),
        ("printf", [form, values @ ..]) => Value::String(format::printf(&text(form), values)?),
        ("eq", [one, others @ ..]) => others.iter().any(|other| string(other) == string(one)).into(),
        ("ne", [one, other]) => (string(one) != string(other)).into(),
        ("lt", [one, other]) => (compare(one, other)? == Ordering::Less).into(),
        ("le", [one, other]) => (compare(one, other)? != Ordering::Greater).into(),
        ("gt", [one, other]) => (compare(one, other)? == Ordering::Greater).into(),
        ("ge", [one, other]) => (compare(one, other)? != Ordering::Less).into(),
        ("slice", [value, bounds @ ..]) => slice(value, bounds)?,
        ("truncate", [value, Value::Number(most)]) => {
            let most = most.as_u64().and_then(|most| usize::try_from(most).ok()).unwrap_or(0);
            Value::String(text(value).chars().take(most).collect())
        }
        ("pad", [value, before, behind]) => {
            let blanks = |count: &Value| " ".repeat(format::width(count.as_u64()));
            let padded = format!("{}{}{}", blanks(before), text(value), blanks(behind));
            // Nothing is made of nothing, as in docker.
            Value::String(if truth(value) { padded } else { String::new() })
        }
        ("and", values) if !values.is_empty() => first(values, false),
        ("or", values) if !values.is_empty() => first(values, true),
        ("not", [value]) => (!truth(value)).into(),
        ("true", []) => true.into(),
        ("false", []) => false.into(),
        ("nil", []) => Value::Null,
        (
            "json" | "len" | "index" | "slice" | "join" | "split" | "upper" | "lower" | "title" | "printf"
            | "pad" | "truncate" | "eq" | "ne" | "lt" | "le" | "gt" | "ge" | "and" | "or" | "not",
            _,
        ) => return Err(wrong(format!("wrong arguments for {name}"))),
        _ => return Err(wrong(format!("the function {name} is not supported"))),
    })
}

/// The first value that decides, else the last.
fn first(values: &[Value], wanted: bool) -> Value {
    values.iter().find(|value| truth(value) == wanted).or(values.last()).cloned().unwrap_or_default()
}

fn compare(one: &Value, other: &Value) -> Result<Ordering, Failure> {
    match (one, other) {
        (Value::Number(a), Value::Number(b)) => match (a.as_i64(), b.as_i64()) {
            (Some(a), Some(b)) => Ok(a.cmp(&b)),
            _ => a.as_f64().partial_cmp(&b.as_f64()).ok_or_else(|| wrong("numbers that cannot be compared")),
        },
        (Value::String(a), Value::String(b)) => Ok(a.cmp(b)),
        _ => Err(wrong(format!("cannot compare {} with {}", text(one), text(other)))),
    }
}

/// `slice x 1 3`: of texts and lists, from one place to before another.
fn slice(value: &Value, bounds: &[Value]) -> Result<Value, Failure> {
    let bound = |at: usize, other: usize| match bounds.get(at) {
        None => Some(other),
        Some(bound) => bound.as_u64().and_then(|bound| usize::try_from(bound).ok()),
    };
    let out_of_range = || wrong("slice: out of range");
    let range = |length: usize| match (bound(0, 0), bound(1, length)) {
        (Some(from), Some(to)) if from <= to && to <= length && bounds.len() <= 2 => Ok(from..to),
        _ => Err(out_of_range()),
    };
    match value {
        Value::String(text) => {
            let part = text.get(range(text.len())?).ok_or_else(out_of_range)?;
            Ok(Value::String(part.to_owned()))
        }
        Value::Array(items) => Ok(items.get(range(items.len())?).ok_or_else(out_of_range)?.to_vec().into()),
        other => Err(wrong(format!("cannot take a slice of {}", text(other)))),
    }
}

fn index(value: &Value, keys: &[Value]) -> Result<Value, Failure> {
    let mut at = value.clone();
    for key in keys {
        at = match (&at, key) {
            (Value::Array(items), Value::Number(number)) => {
                let place = number.as_u64().and_then(|at| usize::try_from(at).ok());
                place.and_then(|at| items.get(at)).cloned().ok_or_else(|| {
                    wrong(format!("index {number} is out of range: there are {}", items.len()))
                })?
            }
            (Value::Object(map), key) => map.get(&text(key)).cloned().unwrap_or(Value::String(String::new())),
            (Value::Null, Value::String(_)) => Value::String(String::new()),
            (Value::Null, _) => Value::Null,
            (other, key) => return Err(wrong(format!("cannot index {} by {}", text(other), text(key)))),
        };
    }
    Ok(at)
}

/// A field that Go has and that JSON leaves out: its value by itself, and how text shows it. A nil list or map is null and
/// looks like an empty one.
pub(super) fn unset(value: Value, shown: &str) -> Value {
    serde_json::json!({ UNSET: value, SHOWN: shown })
}

const UNSET: &str = "\0unset";
const SHOWN: &str = "\0shown";

/// How a field that is not set is shown.
fn shown_unset(value: &Value) -> Option<&str> {
    value.as_object()?.get(SHOWN)?.as_str()
}

/// As JSON has it: fields that are not set are left out of what they belong to.
fn settled(value: &Value) -> Value {
    match value {
        Value::Object(map) if shown_unset(value).is_some() => map.get(UNSET).cloned().unwrap_or_default(),
        Value::Object(map) => {
            let set = map.iter().filter(|(_, value)| shown_unset(value).is_none());
            set.map(|(key, value)| (key.clone(), settled(value))).collect()
        }
        Value::Array(items) => items.iter().map(settled).collect(),
        other => other.clone(),
    }
}

/// As Go prints it.
fn text(value: &Value) -> String {
    if let Some(shown) = shown_unset(value) {
        return shown.to_owned();
    }
    match value {
        Value::Null => "<no value>".into(),
        Value::String(text) => text.clone(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::Array(items) => format!("[{}]", items.iter().map(text).collect::<Vec<_>>().join(" ")),
        Value::Object(map) => {
            let mut pairs: Vec<String> =
                map.iter().map(|(key, value)| format!("{key}:{}", text(value))).collect();
            pairs.sort();
            format!("map[{}]", pairs.join(" "))
        }
    }
}

fn truth(value: &Value) -> bool {
    match value {
        Value::Object(_) if shown_unset(value).is_some() => truth(&settled(value)),
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn data() -> Value {
        json!({
            "ID": "sha256:ab", "Tags": ["a:1", "b:2"], "None": null, "Size": 7, "Yes": true,
            "Config": { "Labels": { "a.b": "c" }, "Env": ["A=1"], "User": "" },
        })
    }

    #[test]
    fn templates_reach_into_data() {
        for (template, wanted) in [
            ("{{.ID}}", "sha256:ab"),
            ("{{ .ID }} {{.Size}} {{.Yes}}", "sha256:ab 7 true"),
            ("{{json .Config.Labels}}", r#"{"a.b":"c"}"#),
            ("{{.Tags}} {{.Config.Labels}}", "[a:1 b:2] map[a.b:c]"),
            ("{{.Config.Env | json}}", r#"["A=1"]"#),
            ("{{index .Config.Labels \"a.b\"}}{{index .Config.Labels \"x\"}}", "c"),
            ("{{index .Tags 1}}", "b:2"),
            ("{{range .Tags}}{{.}} {{$.Size}};{{else}}none{{end}}", "a:1 7;b:2 7;"),
            ("{{range .None}}x{{else}}none{{end}}", "none"),
            ("{{if .Config.User}}user{{else if .Yes}}yes{{else}}no{{end}}", "yes"),
            ("{{with .Config}}{{len .Env}}{{end}}", "1"),
            ("{{join .Tags \",\"}}", "a:1,b:2"),
            ("{{upper .ID}}", "SHA256:AB"),
            ("{{printf \"%s-%d %q\" .ID .Size .ID}}", "sha256:ab-7 \"sha256:ab\""),
            ("{{if eq .Size 7}}same{{end}}{{if and .Yes (not .None)}}!{{end}}", "same!"),
            ("a  {{- /* nothing */ -}}  b", "ab"),
            ("{{.ID}}\\t{{.Size}}\\n", "sha256:ab\t7\n"),
            ("{{(index .Tags 0)}}{{`raw`}}", "a:1raw"),
            ("{{.None}}", "<no value>"),
            ("plain", "plain"),
            ("{{$x := .ID}}{{$x}} {{$x = 3}}{{$x}}", "sha256:ab 3"),
            ("{{range $i, $tag := .Tags}}{{$i}}={{$tag}} {{end}}", "0=a:1 1=b:2 "),
            ("{{range $tag := .Tags}}{{$tag}},{{end}}", "a:1,b:2,"),
            ("{{range $k, $v := .Config.Labels}}{{$k}}={{$v}}\\n{{end}}", "a.b=c\n"),
            ("{{range $k,$v:=.Config.Labels}}{{$k}}{{$v}}{{else}}none{{end}}", "a.bc"),
            ("{{with $c := .Config}}{{$c.User}}{{len $c.Env}}{{end}}", "1"),
            ("{{if $y := .Yes}}{{$y}}{{end}}", "true"),
            (
                "{{printf \"%.12s|%-6s|%6s|%4d|%-4d|%04d\" .ID \"ab\" \"cd\" .Size .Size .Size}}",
                "sha256:ab|ab    |    cd|   7|7   |0007",
            ),
            (
                "{{printf \"%.3s %x %X %t %.1f %5.2f %%\" .ID .Size 255 .Yes 1.25 2}}",
                "sha 7 FF true 1.2  2.00 %",
            ),
            ("{{printf \"%v %q %5v|\" .Tags .ID .Yes}}", "[a:1 b:2] \"sha256:ab\"  true|"),
            ("{{slice .ID 7}} {{slice .ID 0 3}} {{slice .Tags 1}}", "ab sha [b:2]"),
            ("{{if gt .Size 5}}big{{end}}{{if le .Size 7}}!{{end}}", "big!"),
            ("{{truncate .ID 3}}{{pad .ID 1 2}}|", "sha sha256:ab  |"),
        ] {
            let rendered = parse(template).and_then(|parsed| parsed.render(&data()));
            assert_eq!(rendered.map_err(|failure| failure.message), Ok(wanted.to_owned()), "{template}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (template, words) in [
            ("{{.Idd}}", "did you mean .ID?"),
            ("{{.ID.X}}", "has no field .X"),
            ("{{.ID", "never closed"),
            ("{{if .ID}}", "without {{end}}"),
            ("{{end}}", "{{end}} without"),
            ("{{frobnicate .ID}}", "frobnicate is not supported"),
            ("{{index .Tags 9}}", "out of range"),
            ("{{$x}}", "no variable $x"),
            ("{{$x = 1}}", "no variable $x"),
            ("{{if .Yes}}{{$x := 1}}{{end}}{{$x}}", "no variable $x"),
            ("{{printf \"%b\" .Size}}", "%b is not supported"),
            ("{{lt .ID .Size}}", "cannot compare"),
            ("{{slice .ID 5 99}}", "out of range"),
            ("{{range $a, $b, $c := .Tags}}{{end}}", "range"),
            ("{{template \"x\"}}", "template is not supported"),
            ("{{\"abc}}", "never closed"),
            ("{{.A | }}", "empty"),
            ("{{(.A}}", "never closed"),
        ] {
            let rendered = parse(template).and_then(|parsed| parsed.render(&data()));
            let message = rendered.err().map(|failure| failure.message).unwrap_or_default();
            assert!(message.contains(words), "{template}: {message:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn nothing_panics(template in "(\\{\\{|\\}\\}|[-. \"|()$a-z]|if|range|end|else|json|printf|%)*") {
            let _ = parse(&template).and_then(|parsed| parsed.render(&data()));
        }
    }
}
