//! `RUN`.

use super::super::ast::{CommandLine, MountFlag, Run, Word};
use super::super::error::{Outcome, Problem};
use super::super::flags::{Kind, Known};
use super::{Arguments, Context, command_line, warn_if_empty};

const FLAGS: Known =
    &[("mount", Kind::Many), ("network", Kind::Once), ("security", Kind::Once), ("device", Kind::Many)];

pub(super) fn parse(arguments: Arguments<'_>, context: &mut Context<'_, '_>) -> Outcome<Run> {
    arguments.flags.check("RUN", FLAGS)?;
    warn_if_empty(&arguments, context);
    let command = command_line(&arguments, arguments.text, context)?;
    if command == CommandLine::Exec(Vec::new()) {
        return Err(Problem::new(arguments.text.span(), "RUN [] names no command"));
    }
    let mounts = arguments.flags.texts("mount").into_iter().map(mount).collect::<Outcome<Vec<_>>>()?;
    Ok(Run {
        mounts,
        network: arguments.flags.text("network"),
        security: arguments.flags.text("security"),
        devices: arguments.flags.texts("device"),
        command,
        heredocs: arguments.heredocs.into_iter().map(|attached| attached.heredoc).collect(),
    })
}

fn mount(value: Word) -> Outcome<MountFlag> {
    let Some(fields) = csv(&value.text) else {
        return Err(Problem::new(value.span, "a quote in --mount does not enclose a whole option")
            .help("options are separated by commas; one that holds a comma is quoted whole"));
    };
    let options = fields
        .into_iter()
        .map(|field| match field.split_once('=') {
            Some((key, option)) => (key.to_lowercase(), Some(option.to_owned())),
            None => (field.to_lowercase(), None),
        })
        .collect::<Vec<_>>();
    if options.iter().any(|(key, _)| key.is_empty()) {
        return Err(Problem::new(value.span, "--mount has an option without a name")
            .help("options are written type=cache,target=/path with single commas and no blanks"));
    }
    Ok(MountFlag { value, options })
}

/// Fields of one CSV record; `None` where a quote is out of place.
fn csv(record: &str) -> Option<Vec<String>> {
    let mut fields = Vec::new();
    let mut rest = record;
    loop {
        let mut field = String::new();
        if let Some(mut quoted) = rest.strip_prefix('"') {
            loop {
                let (part, after) = quoted.split_once('"')?;
                field.push_str(part);
                match after.strip_prefix('"') {
                    Some(more) => {
                        field.push('"');
                        quoted = more;
                    }
                    None => {
                        rest = after;
                        break;
                    }
                }
            }
            if !(rest.is_empty() || rest.starts_with(',')) {
                return None;
            }
        } else {
            let (part, after) = rest.split_at(rest.find(',').unwrap_or(rest.len()));
            if part.contains('"') {
                return None;
            }
            field.push_str(part);
            rest = after;
        }
        fields.push(field);
        match rest.strip_prefix(',') {
            Some(after) => rest = after,
            None => return Some(fields),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::csv;

    #[test]
    fn splits_options_as_a_csv_record() {
        for (record, expected) in [
            ("a", Some(vec!["a"])),
            ("a=1,b=2", Some(vec!["a=1", "b=2"])),
            ("a=1,", Some(vec!["a=1", ""])),
            ("\"a=1,2\",b", Some(vec!["a=1,2", "b"])),
            ("\"a\"\"b\"", Some(vec!["a\"b"])),
            ("\"\"", Some(vec![""])),
            ("a=\"1\"", None),
            ("\"a", None),
            ("\"a\"b", None),
        ] {
            let expected = expected.map(|fields| fields.into_iter().map(str::to_owned).collect());
            assert_eq!(csv(record), expected, "{record}");
        }
    }
}
