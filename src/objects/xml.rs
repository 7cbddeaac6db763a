//! What object stores answer in XML: lists and refusals. Only elements with text are looked at.

/// The text of the first element of this name.
pub(super) fn text(xml: &str, name: &str) -> Option<String> {
    elements(xml, name).first().map(|inner| unescape(inner))
}

/// What is inside the elements of this name. Elements of one name that are in each other are not told apart.
pub(super) fn elements<'a>(xml: &'a str, name: &str) -> Vec<&'a str> {
    let (mut found, mut rest) = (Vec::new(), xml);
    let end = format!("</{name}>");
    while let Some(start) = rest.find('<') {
        let Some(tail) = rest.get(start + 1..) else { break };
        let Some(close) = tail.find('>') else { break };
        let (head, after) =
            (tail.get(..close).unwrap_or_default(), tail.get(close + 1..).unwrap_or_default());
        rest = after;
        let is_empty = head.ends_with('/');
        if is_empty || head.split_whitespace().next() != Some(name) {
            continue;
        }
        let Some(length) = after.find(&end) else { break };
        found.extend(after.get(..length));
        rest = after.get(length + end.len()..).unwrap_or_default();
    }
    found
}

fn unescape(text: &str) -> String {
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    while let Some((before, after)) = rest.split_once('&') {
        out.push_str(before);
        let Some((entity, tail)) = after.split_once(';') else {
            out.push('&');
            rest = after;
            continue;
        };
        let number = entity.strip_prefix('#').and_then(|number| match number.strip_prefix('x') {
            Some(hex) => u32::from_str_radix(hex, 16).ok(),
            None => number.parse().ok(),
        });
        match (entity, number.and_then(char::from_u32)) {
            ("amp", _) => out.push('&'),
            ("lt", _) => out.push('<'),
            ("gt", _) => out.push('>'),
            ("quot", _) => out.push('"'),
            ("apos", _) => out.push('\''),
            (_, Some(c)) => out.push(c),
            _ => {
                out.push('&');
                rest = after;
                continue;
            }
        }
        rest = tail;
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(xml: &str, name: &str) -> Vec<String> {
        elements(xml, name).into_iter().map(unescape).collect()
    }

    #[test]
    fn elements_are_found_with_their_text() {
        let xml = "<?xml version=\"1.0\"?><List xmlns=\"x\"><Contents><Key>a&amp;b&#x41;</Key><Size>1</Size></Contents>\
                   <Contents><Key>c</Key></Contents><IsTruncated>false</IsTruncated><Marker/></List>";
        assert_eq!(texts(xml, "Key"), ["a&bA", "c"]);
        assert_eq!(elements(xml, "Contents").len(), 2);
        assert_eq!(text(xml, "IsTruncated").as_deref(), Some("false"));
        assert_eq!(text(xml, "Marker"), None);
    }

    #[test]
    fn senseless_text_gives_nothing_and_ends() {
        for xml in ["", "<", "<Key", "<Key>", "<Key>a", "&", "<a><Key>&;&x;</Key", "</Key>", "<Key>é"] {
            assert!(texts(xml, "Key").is_empty(), "{xml}");
        }
        assert_eq!(texts("<Key>&&lt;&bad;&#xFFFFFFFF;</Key>", "Key"), ["&<&bad;&#xFFFFFFFF;"]);
    }
}
