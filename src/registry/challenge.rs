//! Reading `WWW-Authenticate` (RFC 9110, section 11.6.1).

/// One offered way to sign in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Challenge {
    /// In lower case.
    pub(super) scheme: String,
    /// Names in lower case; values unquoted.
    params: Vec<(String, String)>,
}

impl Challenge {
    /// A parameter's value.
    pub(super) fn param(&self, name: &str) -> Option<&str> {
        self.params.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// All challenges of one header value. What cannot be understood is left out, never guessed.
pub(super) fn parse(header: &str) -> Vec<Challenge> {
    let mut rest = Cursor(header);
    let mut challenges: Vec<Challenge> = Vec::new();
    loop {
        rest.skip(|c| c == ',' || c.is_ascii_whitespace());
        let word = rest.take(is_token);
        if word.is_empty() {
            // Nothing that can begin a challenge or a parameter: give up on this character.
            if rest.next().is_none() {
                return challenges;
            }
            continue;
        }
        let before = rest;
        rest.skip(|c| c.is_ascii_whitespace());
        let Some(last) = challenges.last_mut().filter(|_| rest.0.starts_with('=')) else {
            rest = before;
            challenges.push(Challenge { scheme: word.to_ascii_lowercase(), params: Vec::new() });
            continue;
        };
        rest.next();
        rest.skip(|c| c.is_ascii_whitespace());
        if let Some(value) = rest.value() {
            last.params.push((word.to_ascii_lowercase(), value));
        }
    }
}

fn is_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)
}

#[derive(Clone, Copy)]
struct Cursor<'a>(&'a str);

impl<'a> Cursor<'a> {
    fn next(&mut self) -> Option<char> {
        let mut chars = self.0.chars();
        let next = chars.next();
        self.0 = chars.as_str();
        next
    }

    fn take(&mut self, wanted: impl Fn(char) -> bool) -> &'a str {
        let rest = self.0.trim_start_matches(wanted);
        let taken = &self.0[..self.0.len() - rest.len()];
        self.0 = rest;
        taken
    }

    fn skip(&mut self, unwanted: impl Fn(char) -> bool) {
        self.take(unwanted);
    }

    /// A quoted string, or everything up to the next comma or blank (wider than a token, because
    /// some services forget the quotes around an address).
    fn value(&mut self) -> Option<String> {
        if !self.0.starts_with('"') {
            return Some(self.take(|c| c != ',' && !c.is_ascii_whitespace()).to_owned());
        }
        self.next();
        let mut value = String::new();
        loop {
            match self.next()? {
                '"' => return Some(value),
                '\\' => value.push(self.next()?),
                c => value.push(c),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn show(header: &str) -> Vec<(String, Vec<(String, String)>)> {
        parse(header).into_iter().map(|challenge| (challenge.scheme, challenge.params)).collect()
    }

    fn one(scheme: &str, params: &[(&str, &str)]) -> (String, Vec<(String, String)>) {
        let own = |(k, v): &(&str, &str)| ((*k).to_owned(), (*v).to_owned());
        (scheme.to_owned(), params.iter().map(own).collect())
    }

    #[test]
    fn challenges_are_read_in_all_their_spellings() {
        let realm = ("realm", "https://auth.example.test/token");
        for (header, expected) in [
            (
                r#"Bearer realm="https://auth.example.test/token",service="reg",scope="repository:a/b:pull,push""#,
                vec![one("bearer", &[realm, ("service", "reg"), ("scope", "repository:a/b:pull,push")])],
            ),
            (r#"bearer   Realm = "https://auth.example.test/token" , "#, vec![one("bearer", &[realm])]),
            ("Bearer realm=https://auth.example.test/token", vec![one("bearer", &[realm])]),
            (
                r#"Basic realm="a \"b\", c", Bearer realm="https://auth.example.test/token""#,
                vec![one("basic", &[("realm", "a \"b\", c")]), one("bearer", &[realm])],
            ),
            ("Negotiate, Basic", vec![one("negotiate", &[]), one("basic", &[])]),
            (
                "Negotiate dG9rZW4=, Basic realm=x",
                vec![one("negotiate", &[]), one("dg9rzw4", &[]), one("basic", &[("realm", "x")])],
            ),
            (r#"Bearer realm="never ends"#, vec![one("bearer", &[])]),
            ("", vec![]),
            (",,=\"", vec![]),
        ] {
            // A lone token68 is read as a scheme of that name, or a parameter; neither is one we know.
            let known = |list: Vec<(String, Vec<(String, String)>)>| {
                let ours = |scheme: &str| matches!(scheme, "basic" | "bearer");
                list.into_iter().filter(|(scheme, _)| ours(scheme)).collect::<Vec<_>>()
            };
            assert_eq!(known(show(header)), known(expected), "{header}");
        }
    }

    proptest! {
        #[test]
        fn no_header_makes_it_fail(header in "\\PC*") {
            let _ = parse(&header);
        }

        #[test]
        fn quoted_values_come_back(value in "[ -~]{0,40}") {
            let quoted = value.replace('\\', "\\\\").replace('"', "\\\"");
            let challenges = parse(&format!("Bearer realm=\"{quoted}\", scope=x"));
            prop_assert_eq!(challenges.first().and_then(|c| c.param("realm")), Some(value.as_str()));
            prop_assert_eq!(challenges.first().and_then(|c| c.param("scope")), Some("x"));
        }
    }
}
