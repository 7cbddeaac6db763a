//! `printf` as Go has it: `%[flags][width][.precision]verb`.

use std::iter::Peekable;
use std::str::Chars;

use serde_json::Value;

use super::{Failure, text, truth, wrong};

/// Nobody's terminal is wider.
const WIDEST: usize = 4096;

/// A width that was given, within reason.
pub(super) fn width(given: Option<u64>) -> usize {
    given.and_then(|width| usize::try_from(width).ok()).unwrap_or(0).min(WIDEST)
}

#[derive(Default)]
struct Form {
    left: bool,
    zero: bool,
    plus: bool,
    width: usize,
    precision: Option<usize>,
}

pub(super) fn printf(form: &str, values: &[Value]) -> Result<String, Failure> {
    let (mut out, mut values) = (String::new(), values.iter());
    let mut letters = form.chars().peekable();
    while let Some(c) = letters.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut form = Form::default();
        while let Some(flag) = letters.next_if(|c| "-0+ #".contains(*c)) {
            match flag {
                '-' => form.left = true,
                '0' => form.zero = true,
                '+' => form.plus = true,
                _ => {}
            }
        }
        form.width = number(&mut letters);
        if letters.next_if_eq(&'.').is_some() {
            form.precision = Some(number(&mut letters));
        }
        match letters.next() {
            Some('%') => out.push('%'),
            Some(verb) => out.push_str(&form.write(verb, values.next())?),
            None => return Err(wrong("printf: a % at the end")),
        }
    }
    Ok(out)
}

fn number(letters: &mut Peekable<Chars<'_>>) -> usize {
    let mut digits = String::new();
    while let Some(digit) = letters.next_if(char::is_ascii_digit) {
        digits.push(digit);
    }
    width(digits.parse().ok())
}

impl Form {
    fn write(&self, verb: char, value: Option<&Value>) -> Result<String, Failure> {
        let Some(value) = value else { return Ok(format!("%!{verb}(MISSING)")) };
        let text = match verb {
            's' | 'v' => self.cut(text(value)),
            'q' => format!("{:?}", self.cut(text(value))),
            'd' => self.signed(value.as_i64().map_or_else(|| text(value), |number| number.to_string())),
            't' => truth(value).to_string(),
            'f' => {
                let number =
                    value.as_f64().ok_or_else(|| wrong(format!("printf: {} is no number", text(value))))?;
                self.signed(format!("{number:.*}", self.precision.unwrap_or(6)))
            }
            'x' | 'X' => {
                let hex = match value {
                    Value::Number(number) => {
                        number.as_i64().map(|number| format!("{number:x}")).unwrap_or_default()
                    }
                    other => text(other).bytes().map(|byte| format!("{byte:02x}")).collect(),
                };
                if verb == 'X' { hex.to_uppercase() } else { hex }
            }
            other => return Err(wrong(format!("printf: %{other} is not supported"))),
        };
        Ok(self.pad(text, matches!(verb, 'd' | 'f' | 'x' | 'X')))
    }

    fn cut(&self, text: String) -> String {
        match self.precision {
            Some(most) => text.chars().take(most).collect(),
            None => text,
        }
    }

    fn signed(&self, number: String) -> String {
        if self.plus && !number.starts_with('-') { format!("+{number}") } else { number }
    }

    fn pad(&self, text: String, is_number: bool) -> String {
        let missing = self.width.saturating_sub(text.chars().count());
        match (self.left, self.zero && is_number) {
            (true, _) => text + &" ".repeat(missing),
            (false, false) => " ".repeat(missing) + &text,
            (false, true) => match text.strip_prefix(['-', '+']) {
                Some(rest) => format!("{}{}{rest}", &text[..1], "0".repeat(missing)),
                None => "0".repeat(missing) + &text,
            },
        }
    }
}
