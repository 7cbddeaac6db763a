//! From text to a template.

use std::iter::Peekable;
use std::str::Chars;

use serde_json::Value;

use super::{Failure, Node, Pipe, Range, Template, Term, wrong};

/// Blocks inside blocks.
const DEPTH: usize = 64;

#[derive(Debug, PartialEq)]
enum Token {
    /// `.A.B`, `$.A`, a number, a name.
    Word(String),
    Text(String),
    Pipe,
    Open,
    Close,
    /// `:=`
    Declare,
    /// `=`
    Assign,
    Comma,
}

enum Piece {
    Text(String),
    Action(Vec<Token>),
}

/// What ends a list of nodes.
enum End {
    File,
    Block,
    /// With the tokens that follow.
    Else(Vec<Token>),
}

/// Parses a template. `\t` and `\n` are what they are in docker's: a tab and a line end.
pub(in super::super) fn parse(text: &str) -> Result<Template, Failure> {
    let pieces = pieces(text)?;
    let mut pieces = pieces.into_iter();
    match nodes(&mut pieces, 0)? {
        (nodes, End::File) => Ok(Template(nodes)),
        (_, End::Block) => Err(wrong("{{end}} without {{if}}, {{range}} or {{with}}")),
        (_, End::Else(_)) => Err(wrong("{{else}} without {{if}}, {{range}} or {{with}}")),
    }
}

fn pieces(text: &str) -> Result<Vec<Piece>, Failure> {
    let (mut all, mut rest) = (Vec::new(), text);
    let mut trim = false;
    while let Some(at) = rest.find("{{") {
        let (mut before, inside) = (&rest[..at], &rest[at + 2..]);
        if trim {
            before = before.trim_start();
        }
        let end = close(inside).ok_or_else(|| wrong("{{ is never closed"))?;
        let mut action = &inside[..end];
        if let Some(trimmed) = action.strip_prefix('-').filter(|rest| rest.starts_with(char::is_whitespace)) {
            before = before.trim_end();
            action = trimmed;
        }
        trim = action.ends_with('-') && action.trim_end_matches('-').ends_with(char::is_whitespace);
        if trim {
            action = action.trim_end_matches('-');
        }
        all.push(Piece::Text(unescape(before)));
        let action = action.trim();
        if !(action.starts_with("/*") && action.ends_with("*/")) {
            all.push(Piece::Action(tokens(action)?));
        }
        rest = &inside[end + 2..];
    }
    let rest = if trim { rest.trim_start() } else { rest };
    all.push(Piece::Text(unescape(rest)));
    Ok(all)
}

/// Where the `}}` of an action is, texts passed over.
fn close(inside: &str) -> Option<usize> {
    let mut quote = None;
    let mut escaped = false;
    for (at, c) in inside.char_indices() {
        match (quote, c) {
            (Some('"'), '\\') if !escaped => {
                escaped = true;
                continue;
            }
            (Some(open), c) if c == open && !escaped => quote = None,
            (None, '"' | '`') => quote = Some(c),
            (None, '}') if inside[at..].starts_with("}}") => return Some(at),
            _ => {}
        }
        escaped = false;
    }
    None
}

fn unescape(text: &str) -> String {
    text.replace("\\t", "\t").replace("\\n", "\n")
}

fn tokens(action: &str) -> Result<Vec<Token>, Failure> {
    let mut all = Vec::new();
    let mut rest = action.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            c if c.is_whitespace() => {}
            '|' => all.push(Token::Pipe),
            '(' => all.push(Token::Open),
            ')' => all.push(Token::Close),
            '"' | '`' => all.push(Token::Text(quoted(&mut rest, c)?)),
            ':' if rest.next_if_eq(&'=').is_some() => all.push(Token::Declare),
            ':' => return Err(wrong("a : alone means nothing")),
            '=' => all.push(Token::Assign),
            ',' => all.push(Token::Comma),
            first => {
                let mut word = String::from(first);
                while let Some(c) =
                    rest.peek().copied().filter(|c| !c.is_whitespace() && !"|()\"`:=,".contains(*c))
                {
                    word.push(c);
                    rest.next();
                }
                all.push(Token::Word(word));
            }
        }
    }
    Ok(all)
}

fn quoted(rest: &mut Peekable<Chars<'_>>, quote: char) -> Result<String, Failure> {
    let mut text = String::new();
    while let Some(c) = rest.next() {
        match c {
            c if c == quote => return Ok(text),
            '\\' if quote == '"' => match rest.next() {
                Some('n') => text.push('\n'),
                Some('t') => text.push('\t'),
                Some(other) => text.push(other),
                None => {}
            },
            c => text.push(c),
        }
    }
    Err(wrong("a quote is never closed"))
}

fn nodes(pieces: &mut std::vec::IntoIter<Piece>, depth: usize) -> Result<(Vec<Node>, End), Failure> {
    if depth > DEPTH {
        return Err(wrong("too many blocks inside each other"));
    }
    let mut all = Vec::new();
    while let Some(piece) = pieces.next() {
        let tokens = match piece {
            Piece::Text(text) => {
                if !text.is_empty() {
                    all.push(Node::Text(text));
                }
                continue;
            }
            Piece::Action(tokens) => tokens,
        };
        let word = match tokens.first() {
            Some(Token::Word(word)) => word.clone(),
            _ => String::new(),
        };
        match word.as_str() {
            "end" => return Ok((all, End::Block)),
            "else" => return Ok((all, End::Else(tokens.into_iter().skip(1).collect()))),
            "if" | "with" | "range" => all.push(block(&word, &tokens[1..], pieces, depth)?),
            "template" | "define" | "block" | "break" | "continue" => {
                return Err(wrong(format!("{word} is not supported")));
            }
            _ => match variable(&tokens)? {
                Some((name, declared, rest)) => all.push(Node::Set(name, pipe(rest)?, declared)),
                None => all.push(Node::Print(pipe(&tokens)?)),
            },
        }
    }
    Ok((all, End::File))
}

fn block(
    word: &str,
    condition: &[Token],
    pieces: &mut std::vec::IntoIter<Piece>,
    depth: usize,
) -> Result<Node, Failure> {
    let missing = || wrong(format!("{{{{{word}}}}} without {{{{end}}}}"));
    let mut head = Head::default();
    let condition = match word {
        "range" => {
            let (names, rest) = range_variables(condition)?;
            head.range = names;
            pipe(rest)?
        }
        _ => match variable(condition)? {
            Some((name, true, rest)) => {
                head.variable = Some(name);
                pipe(rest)?
            }
            _ => pipe(condition)?,
        },
    };
    let (yes, end) = nodes(pieces, depth + 1)?;
    let no = match end {
        End::File => return Err(missing()),
        End::Block => Vec::new(),
        End::Else(tokens) => match tokens.split_first() {
            None => match nodes(pieces, depth + 1)? {
                (no, End::Block) => no,
                _ => return Err(missing()),
            },
            Some((Token::Word(inner), condition)) if inner == "if" || inner == "with" => {
                vec![block(inner, condition, pieces, depth + 1)?]
            }
            Some(_) => return Err(wrong("{{else}} is followed by something else than if")),
        },
    };
    Ok(head.node(word, condition, yes, no))
}

/// The variables that a block declares in its head.
#[derive(Default)]
struct Head {
    variable: Option<String>,
    range: Vec<String>,
}

impl Head {
    fn node(self, word: &str, condition: Pipe, yes: Vec<Node>, no: Vec<Node>) -> Node {
        let condition_of = |name: &Option<String>, condition: Pipe| match name {
            Some(name) => vec![vec![Term::Variable(name.clone(), Vec::new())]],
            None => condition,
        };
        let (mut names, declared) = (self.range.into_iter(), self.variable.clone());
        let inner = match word {
            "range" => {
                let (first, second) = (names.next(), names.next());
                let (key, value) = if second.is_some() { (first, second) } else { (None, first) };
                return Node::Range(Range { key, value, over: condition }, yes, no);
            }
            "if" => Node::If(condition_of(&self.variable, condition.clone()), yes, no),
            _ => Node::With(condition_of(&self.variable, condition.clone()), yes, no),
        };
        match declared {
            // The variable ends with the block: that of an outer block, which is always true, stands around it.
            Some(name) => {
                let always = vec![vec![Term::Literal(true.into())]];
                Node::If(always, vec![Node::Set(name, condition, true), inner], Vec::new())
            }
            None => inner,
        }
    }
}

/// `$x := ...` and `$x = ...`: the name, whether it is declared, and what follows.
fn variable(tokens: &[Token]) -> Result<Option<(String, bool, &[Token])>, Failure> {
    match tokens {
        [Token::Word(name), how @ (Token::Declare | Token::Assign), rest @ ..] => {
            Ok(Some((variable_name(name)?, *how == Token::Declare, rest)))
        }
        _ => Ok(None),
    }
}

/// `$x := ...` and `$i, $x := ...` of a range.
fn range_variables(tokens: &[Token]) -> Result<(Vec<String>, &[Token]), Failure> {
    match tokens {
        [Token::Word(one), Token::Declare, rest @ ..] => Ok((vec![variable_name(one)?], rest)),
        [Token::Word(one), Token::Comma, Token::Word(other), Token::Declare, rest @ ..] => {
            Ok((vec![variable_name(one)?, variable_name(other)?], rest))
        }
        all if all.contains(&Token::Declare) => {
            Err(wrong("range takes one variable, or two: {{range $i, $x := ...}}"))
        }
        all => Ok((Vec::new(), all)),
    }
}

fn variable_name(word: &str) -> Result<String, Failure> {
    let name = word.strip_prefix('$').filter(|name| !name.is_empty() && !name.contains('.'));
    name.map(str::to_owned).ok_or_else(|| wrong(format!("{word} is no name of a variable")))
}

fn pipe(tokens: &[Token]) -> Result<Pipe, Failure> {
    let mut rest = tokens.iter();
    let pipe = calls(&mut rest, 0)?;
    if rest.next().is_some() {
        return Err(wrong("a ) without a ("));
    }
    Ok(pipe)
}

/// Up to the end or a closing parenthesis, which is left.
fn calls(rest: &mut std::slice::Iter<'_, Token>, depth: usize) -> Result<Pipe, Failure> {
    if depth > DEPTH {
        return Err(wrong("too many parentheses inside each other"));
    }
    let mut all: Pipe = vec![Vec::new()];
    while let Some(token) = rest.as_slice().first() {
        if *token == Token::Close {
            break;
        }
        rest.next();
        let term = match token {
            Token::Pipe => {
                all.push(Vec::new());
                continue;
            }
            Token::Open => {
                let inner = calls(rest, depth + 1)?;
                if rest.next() != Some(&Token::Close) {
                    return Err(wrong("a ( is never closed"));
                }
                Term::Inner(inner)
            }
            Token::Text(text) => Term::Literal(Value::String(text.clone())),
            Token::Word(word) => term(word)?,
            Token::Declare | Token::Assign | Token::Comma => {
                return Err(wrong("a := , = or comma out of place"));
            }
            Token::Close => break,
        };
        if let Some(call) = all.last_mut() {
            call.push(term);
        }
    }
    match all.iter().any(Vec::is_empty) {
        true => Err(wrong("an empty {{}}, or nothing beside a |")),
        false => Ok(all),
    }
}

fn term(word: &str) -> Result<Term, Failure> {
    let path = |text: &str| text.split('.').filter(|part| !part.is_empty()).map(str::to_owned).collect();
    if let Some(rest) = word.strip_prefix('$') {
        return match rest {
            "" => Ok(Term::Root(Vec::new())),
            rest if rest.starts_with('.') => Ok(Term::Root(path(rest))),
            rest => {
                let (name, fields) = rest.split_once('.').unwrap_or((rest, ""));
                Ok(Term::Variable(name.to_owned(), path(fields)))
            }
        };
    }
    if word.starts_with('.') {
        return Ok(Term::Field(path(word)));
    }
    if let Ok(number) = word.parse::<i64>() {
        return Ok(Term::Literal(number.into()));
    }
    if word.starts_with(|c: char| c.is_ascii_digit() || c == '-')
        && let Ok(number) = word.parse::<f64>()
    {
        return Ok(Term::Literal(number.into()));
    }
    Ok(Term::Function(word.to_owned()))
}
