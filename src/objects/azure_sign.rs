//! Signatures of Azure's storage (`SharedKey`, Blob service, versions from 2015-02-21 on).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::sigv4::hmac;

/// An account and its key.
pub(super) struct SharedKey<'a> {
    pub account: &'a str,
    /// Decoded.
    pub key: &'a [u8],
}

/// A request as it will be sent.
pub(super) struct Canonical<'a> {
    pub method: &'a str,
    /// Bytes of the body.
    pub length: u64,
    /// Value of `Content-Type`, which some clients add.
    pub content_type: &'a str,
    /// Value of `Range`.
    pub range: &'a str,
    /// Those that begin with `x-ms-`.
    pub headers: &'a [(String, String)],
    /// Percent-encoded, with the account in front where the address has it.
    pub path: &'a str,
    /// Not encoded.
    pub query: &'a [(&'a str, String)],
}

impl SharedKey<'_> {
    /// The value of `Authorization`.
    pub fn authorization(&self, request: &Canonical<'_>) -> String {
        let Canonical { method, length, content_type, range, headers, path, query } = request;
        let length = if *length == 0 { String::new() } else { length.to_string() };
        let mut headers: Vec<String> =
            headers.iter().map(|(name, value)| format!("{name}:{}\n", value.trim())).collect();
        headers.sort();
        let mut query: Vec<String> = query.iter().map(|(name, value)| format!("\n{name}:{value}")).collect();
        query.sort();
        let (headers, query, account) = (headers.concat(), query.concat(), self.account);
        let text = format!(
            "{method}\n\n\n{length}\n\n{content_type}\n\n\n\n\n\n{range}\n{headers}/{account}{path}{query}"
        );
        format!("SharedKey {account}:{}", STANDARD.encode(hmac(self.key, text.as_bytes())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text of the documentation ("Authorize with Shared Key", the example of a list), signed by hand with
    /// `openssl dgst -sha256 -mac HMAC`.
    #[test]
    fn a_list_is_signed_as_in_the_documentation() {
        let headers = [
            ("x-ms-version".to_owned(), "2015-02-21".to_owned()),
            ("x-ms-date".to_owned(), "Fri, 26 Jun 2015 23:39:12 GMT".to_owned()),
        ];
        let query = [
            ("restype", "container".to_owned()),
            ("comp", "metadata".to_owned()),
            ("timeout", "20".to_owned()),
        ];
        let request = Canonical {
            method: "GET",
            length: 0,
            content_type: "",
            range: "",
            headers: &headers,
            path: "/mycontainer",
            query: &query,
        };
        let text = "GET\n\n\n\n\n\n\n\n\n\n\n\nx-ms-date:Fri, 26 Jun 2015 23:39:12 GMT\nx-ms-version:2015-02-21\n/myaccount/mycontainer\ncomp:metadata\nrestype:container\ntimeout:20";
        let wanted = STANDARD.encode(hmac(b"key", text.as_bytes()));
        let shared = SharedKey { account: "myaccount", key: b"key" };
        assert_eq!(shared.authorization(&request), format!("SharedKey myaccount:{wanted}"));
    }
}
