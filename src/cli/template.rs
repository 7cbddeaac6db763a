//! `--format` as people write it for docker: the part of Go's templates that reaches into data.
//!
//! Fields (`.A.B`, `$.A`), `json`, `index`, `len`, `join`, `split`, `upper`, `lower`, `title`, `println`, `printf`
//! (`%s %v %d %q`), `eq`, `ne`, `and`, `or`, `not`, pipes, parentheses, `if`, `range`, `with`, `else`, `end`, comments and
//! trimming. What is not there fails by name.

mod parse;

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
    Range(Pipe, Vec<Node>, Vec<Node>),
}

/// Calls, each with the result of the one before as its last argument.
type Pipe = Vec<Vec<Term>>;

#[derive(Debug, PartialEq)]
enum Term {
    /// From the current value.
    Field(Vec<String>),
    /// From the outermost value.
    Root(Vec<String>),
    Literal(Value),
    Function(String),
    Inner(Pipe),
}

fn wrong(message: impl std::fmt::Display) -> Failure {
    Failure::new(FailureKind::Usage, format!("--format: {message}"))
        .help("write json, or a Go template such as '{{.ID}}'; '{{json .}}' shows every field")
}

impl Template {
    /// Writes a value.
    pub fn render(&self, value: &Value) -> Result<String, Failure> {
        let mut out = String::new();
        render(&self.0, value, value, &mut out)?;
        Ok(out)
    }
}

fn render(nodes: &[Node], root: &Value, dot: &Value, out: &mut String) -> Result<(), Failure> {
    for node in nodes {
        match node {
            Node::Text(text) => out.push_str(text),
            Node::Print(pipe) => out.push_str(&text(&run(pipe, root, dot)?)),
            Node::If(pipe, yes, no) => {
                let nodes = if truth(&run(pipe, root, dot)?) { yes } else { no };
                render(nodes, root, dot, out)?;
            }
            Node::With(pipe, yes, no) => {
                let value = run(pipe, root, dot)?;
                match truth(&value) {
                    true => render(yes, root, &value, out)?,
                    false => render(no, root, dot, out)?,
                }
            }
            Node::Range(pipe, each, none) => {
                let items: Vec<Value> = match run(pipe, root, dot)? {
                    Value::Array(items) => items,
                    Value::Object(map) => map.into_iter().map(|(_, value)| value).collect(),
                    Value::Null => Vec::new(),
                    other => return Err(wrong(format!("cannot range over {}", text(&other)))),
                };
                if items.is_empty() {
                    render(none, root, dot, out)?;
                }
                for item in &items {
                    render(each, root, item, out)?;
                }
            }
        }
    }
    Ok(())
}

fn run(pipe: &Pipe, root: &Value, dot: &Value) -> Result<Value, Failure> {
    let mut last: Option<Value> = None;
    for call in pipe {
        let mut values = Vec::new();
        let (name, rest) = match call.as_slice() {
            [Term::Function(name), rest @ ..] => (Some(name.as_str()), rest),
            all => (None, all),
        };
        for term in rest {
            values.push(term_value(term, root, dot)?);
        }
        values.extend(last.take());
        last = Some(match (name, values.as_slice()) {
            (Some(name), values) => function(name, values)?,
            (None, [value]) => value.clone(),
            (None, _) => return Err(wrong("a value is no function, and takes no arguments")),
        });
    }
    last.ok_or_else(|| wrong("empty {{}}"))
}

fn term_value(term: &Term, root: &Value, dot: &Value) -> Result<Value, Failure> {
    match term {
        Term::Field(path) => field(dot, path),
        Term::Root(path) => field(root, path),
        Term::Literal(value) => Ok(value.clone()),
        Term::Function(name) => function(name, &[]),
        Term::Inner(pipe) => run(pipe, root, dot),
    }
}

fn field(value: &Value, path: &[String]) -> Result<Value, Failure> {
    let mut at = value;
    for name in path {
        at = match at {
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
        ("printf", [form, values @ ..]) => Value::String(printf(&text(form), values)?),
        ("eq", [one, others @ ..]) => others.iter().any(|other| string(other) == string(one)).into(),
        ("ne", [one, other]) => (string(one) != string(other)).into(),
        ("and", values) if !values.is_empty() => first(values, false),
        ("or", values) if !values.is_empty() => first(values, true),
        ("not", [value]) => (!truth(value)).into(),
        ("true", []) => true.into(),
        ("false", []) => false.into(),
        ("nil", []) => Value::Null,
        (
            "json" | "len" | "index" | "join" | "split" | "upper" | "lower" | "title" | "printf" | "eq"
            | "ne" | "and" | "or" | "not",
            _,
        ) => return Err(wrong(format!("wrong arguments for {name}"))),
        _ => return Err(wrong(format!("the function {name} is not supported"))),
    })
}

/// The first value that decides, else the last.
fn first(values: &[Value], wanted: bool) -> Value {
    values.iter().find(|value| truth(value) == wanted).or(values.last()).cloned().unwrap_or_default()
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
            (Value::Null, _) => Value::Null,
            (other, key) => return Err(wrong(format!("cannot index {} by {}", text(other), text(key)))),
        };
    }
    Ok(at)
}

fn printf(form: &str, values: &[Value]) -> Result<String, Failure> {
    let (mut out, mut values) = (String::new(), values.iter());
    let mut letters = form.chars();
    while let Some(c) = letters.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        match letters.next() {
            Some('%') => out.push('%'),
            Some('s' | 'v' | 'd') => out.push_str(&values.next().map(text).unwrap_or_default()),
            Some('q') => out.push_str(&format!("{:?}", values.next().map(text).unwrap_or_default())),
            other => return Err(wrong(format!("printf: %{} is not supported", other.unwrap_or(' ')))),
        }
    }
    Ok(out)
}

/// As Go prints it.
fn text(value: &Value) -> String {
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
            ("{{$x := .ID}}", "variables are not supported"),
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
