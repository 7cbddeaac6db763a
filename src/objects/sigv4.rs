//! Signatures of AWS, version 4 (`AWS4-HMAC-SHA256`, in the `Authorization` header).

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use crate::digest::Digest;

use super::encode::{basic_time, hex};

/// A key pair, and where it counts.
pub(super) struct Signing<'a> {
    pub access_key: &'a str,
    pub secret_key: &'a str,
    pub region: &'a str,
    pub service: &'a str,
}

/// A request as it will be sent.
pub(super) struct Canonical<'a> {
    pub method: &'a str,
    /// Percent-encoded.
    pub path: &'a str,
    /// Percent-encoded and sorted.
    pub query: &'a str,
    /// Names in lower case.
    pub headers: &'a [(String, String)],
    /// Of the body, in hex, or `UNSIGNED-PAYLOAD`.
    pub payload: &'a str,
}

impl Signing<'_> {
    /// The value of `Authorization` at a time, in seconds since 1970. All headers given are signed.
    pub fn authorization(&self, request: &Canonical<'_>, now: i64) -> String {
        let mut headers: Vec<(&str, &str)> =
            request.headers.iter().map(|(name, value)| (name.as_str(), value.trim())).collect();
        headers.sort_unstable();
        let names: Vec<&str> = headers.iter().map(|(name, _)| *name).collect();
        let names = names.join(";");
        let lines: String = headers.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
        let Canonical { method, path, query, payload, .. } = request;
        let canonical = format!("{method}\n{path}\n{query}\n{lines}\n{names}\n{payload}");
        let time = basic_time(now);
        let day = time.get(..8).unwrap_or(&time);
        let scope = format!("{day}/{}/{}/aws4_request", self.region, self.service);
        let digest = Digest::of(canonical.as_bytes()).hex();
        let text = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{digest}");
        let mut key = format!("AWS4{}", self.secret_key).into_bytes();
        for part in [day, self.region, self.service, "aws4_request"] {
            key = hmac(&key, part.as_bytes());
        }
        let signature = hex(&hmac(&key, text.as_bytes()));
        let access_key = self.access_key;
        format!(
            "AWS4-HMAC-SHA256 Credential={access_key}/{scope}, SignedHeaders={names}, Signature={signature}"
        )
    }
}

/// HMAC with SHA-256, for keys of any length.
pub(super) fn hmac(key: &[u8], message: &[u8]) -> Vec<u8> {
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return Vec::new() };
    mac.update(message);
    mac.finalize().into_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of AWS's documentation (Amazon S3 API reference, "Examples: Signature Calculations").
    #[test]
    fn signatures_are_those_of_the_documentation() {
        let signing = Signing {
            access_key: "AKIAIOSFODNN7EXAMPLE",
            secret_key: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
            region: "us-east-1",
            service: "s3",
        };
        let empty = Digest::of(b"").hex();
        let put = Digest::of(b"Welcome to Amazon S3.").hex();
        let sign = |method, path, query, more: &[(&str, &str)], payload: &str| {
            let usual = [
                ("host", "examplebucket.s3.amazonaws.com"),
                ("x-amz-content-sha256", payload),
                ("x-amz-date", "20130524T000000Z"),
            ];
            let headers: Vec<(String, String)> =
                usual.iter().chain(more).map(|(name, value)| ((*name).into(), (*value).into())).collect();
            let request = Canonical { method, path, query, headers: &headers, payload };
            let text = signing.authorization(&request, 1_369_353_600);
            text.rsplit('=').next().unwrap_or_default().to_owned()
        };
        assert_eq!(
            sign("GET", "/test.txt", "", &[("range", "bytes=0-9")], &empty),
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
        );
        assert_eq!(
            sign(
                "PUT",
                "/test%24file.text",
                "",
                &[("date", "Fri, 24 May 2013 00:00:00 GMT"), ("x-amz-storage-class", "REDUCED_REDUNDANCY")],
                &put
            ),
            "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"
        );
        assert_eq!(
            sign("GET", "/", "lifecycle=", &[], &empty),
            "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"
        );
        assert_eq!(
            sign("GET", "/", "max-keys=2&prefix=J", &[], &empty),
            "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"
        );
    }
}
