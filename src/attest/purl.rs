//! Package URLs of images (package-url specification, types `docker` and `oci`), as BuildKit writes them.

use std::fmt::Write as _;

use crate::image::{Platform, Reference};

/// `pkg:docker/NAME@TAG?digest=DIGEST&platform=PLATFORM`; a tag is left out where there is only a digest.
pub fn image_purl(kind: &str, name: &Reference, platform: Option<&Platform>) -> String {
    let whole = match name.digest {
        None => name.clone().with_default_tag(),
        Some(_) => name.clone(),
    };
    let path: Vec<String> = whole.familiar_repository().split('/').map(escaped).collect();
    let mut out = format!("pkg:{kind}/{}", path.join("/"));
    if let Some(tag) = &whole.tag {
        let _ = write!(out, "@{}", escaped(tag));
    }
    let digest = whole.digest.map(|digest| format!("digest={digest}"));
    let platform = platform.map(|platform| format!("platform={}", escaped(&platform.to_string())));
    let qualifiers: Vec<String> = digest.into_iter().chain(platform).collect();
    if !qualifiers.is_empty() {
        let _ = write!(out, "?{}", qualifiers.join("&"));
    }
    out
}

/// Everything but unreserved characters and colons becomes `%XX`.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b':' => {
                out.push(char::from(byte));
            }
            _ => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_have_package_urls() -> Result<(), Box<dyn std::error::Error>> {
        let digest = "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef";
        let amd64 = Platform::new("linux", "amd64", "");
        for (name, platform, expected) in [
            ("alpine", None, "pkg:docker/alpine@latest".to_owned()),
            ("user/test:v2", None, "pkg:docker/user/test@v2".to_owned()),
            ("registry.test/foo/bar", None, "pkg:docker/registry.test/foo/bar@latest".to_owned()),
            ("localhost:5000/a:1", None, "pkg:docker/localhost:5000/a@1".to_owned()),
            ("busybox", Some(&amd64), "pkg:docker/busybox@latest?platform=linux%2Famd64".to_owned()),
            (
                &format!("busybox@{digest}"),
                Some(&amd64),
                format!("pkg:docker/busybox?digest={digest}&platform=linux%2Famd64"),
            ),
        ] {
            assert_eq!(image_purl("docker", &Reference::parse(name)?, platform), expected);
        }
        Ok(())
    }
}
