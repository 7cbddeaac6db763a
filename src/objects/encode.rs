//! Addresses and times as object stores write them.

use std::fmt::Write as _;

/// Percent-encodes all bytes but the unreserved ones (RFC 3986, section 2.3) and `keep`.
pub(super) fn percent(text: &str, keep: &[u8]) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(byte.into()),
            byte if keep.contains(&byte) => out.push(byte.into()),
            byte => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
    out
}

/// A path of several parts.
pub(super) fn path(text: &str) -> String {
    percent(text, b"/")
}

/// A query, sorted by name.
pub(super) fn query(pairs: &[(&str, String)]) -> String {
    let mut pairs: Vec<String> =
        pairs.iter().map(|(name, value)| format!("{}={}", percent(name, b""), percent(value, b""))).collect();
    pairs.sort();
    pairs.join("&")
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

/// `20130524T000000Z`
pub(super) fn basic_time(seconds: i64) -> String {
    crate::time::rfc3339(seconds, 0).replace(['-', ':'], "")
}

/// `Fri, 24 May 2013 00:00:00 GMT`
pub(super) fn http_time(seconds: i64) -> String {
    let time = jiff::Timestamp::from_second(seconds).unwrap_or_default().to_zoned(jiff::tz::TimeZone::UTC);
    time.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

/// Seconds since 1970 of a time in a header or a list.
pub(super) fn parse_time(text: &str) -> Option<i64> {
    let text = text.trim();
    let timestamp = text.parse::<jiff::Timestamp>().ok();
    let header = || jiff::fmt::rfc2822::parse(text).ok().map(|time| time.timestamp());
    timestamp.or_else(header).map(jiff::Timestamp::as_second)
}

pub(super) fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

/// Scheme, `host[:port]` without the scheme's usual port, and path without a slash at its end.
pub(super) fn split_url(text: &str) -> Option<(String, String, String)> {
    let (scheme, rest) = text.split_once("://")?;
    let (authority, path) = rest
        .split_once('/')
        .map_or((rest, String::new()), |(host, path)| (host, format!("/{}", path.trim_matches('/'))));
    let usual = match scheme {
        "https" => ":443",
        "http" => ":80",
        _ => return None,
    };
    let authority = authority.strip_suffix(usual).unwrap_or(authority);
    let plain = |c: u8| c.is_ascii_alphanumeric() || b"-._:[]".contains(&c);
    let good = !authority.is_empty() && authority.bytes().all(plain);
    let path = if path == "/" { String::new() } else { path };
    good.then(|| (scheme.to_owned(), authority.to_owned(), path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_and_written_in_all_forms() {
        assert_eq!(basic_time(1_369_353_600), "20130524T000000Z");
        assert_eq!(http_time(1_369_353_600), "Fri, 24 May 2013 00:00:00 GMT");
        for text in ["2013-05-24T00:00:00.000Z", "2013-05-24T00:00:00Z", "Fri, 24 May 2013 00:00:00 GMT"] {
            assert_eq!(parse_time(text), Some(1_369_353_600), "{text}");
        }
        assert_eq!(parse_time("soon"), None);
    }

    #[test]
    fn addresses_lose_what_they_need_not_say() {
        let split =
            |text: &str| split_url(text).map(|(scheme, host, path)| format!("{scheme} {host} {path}"));
        assert_eq!(split("https://a.test").as_deref(), Some("https a.test "));
        assert_eq!(split("https://a.test:443/").as_deref(), Some("https a.test "));
        assert_eq!(split("http://127.0.0.1:80/x/y/").as_deref(), Some("http 127.0.0.1 /x/y"));
        assert_eq!(split("http://[::1]:9000").as_deref(), Some("http [::1]:9000 "));
        for bad in ["a.test", "ftp://a.test", "http://", "http://u:p@a.test", "http://a b"] {
            assert_eq!(split(bad), None, "{bad}");
        }
    }

    #[test]
    fn queries_are_sorted_and_encoded() {
        assert_eq!(
            query(&[("prefix", "a/b c".into()), ("list-type", "2".into())]),
            "list-type=2&prefix=a%2Fb%20c"
        );
        assert_eq!(path("a b/ü"), "a%20b/%C3%BC");
    }
}
