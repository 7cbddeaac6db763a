use super::*;
use crate::digest::Digest;

type Result<T = (), E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

/// Made by `openssl ecparam -name prime256v1 -genkey` and `openssl pkcs8 -topk8 -nocrypt`.
const PRIVATE: &str = include_str!("../../../testdata/keys/p256.pem");
const PUBLIC: &str = include_str!("../../../testdata/keys/p256.pub");
/// Made by `openssl genpkey -algorithm ed25519`.
const ED25519: &str = include_str!("../../../testdata/keys/ed25519.pem");
const ED25519_PUBLIC: &str = include_str!("../../../testdata/keys/ed25519.pub");
/// The same as the first, encrypted with the password `secret` as cosign does it.
const ENCRYPTED: &str = include_str!("../../../testdata/keys/cosign.key");

#[test]
fn keys_of_openssl_and_cosign_are_read() -> Result {
    let (plain, public) =
        (Signer::from_pem(PRIVATE.as_bytes(), None)?, Verifier::from_pem(PUBLIC.as_bytes())?);
    let encrypted = Signer::from_pem(ENCRYPTED.as_bytes(), Some(b"secret"))?;
    let signature = plain.sign(b"message");
    assert_eq!(signature, encrypted.sign(b"message"));
    assert!(public.verifies(b"message", &signature) && !public.verifies(b"massage", &signature));
    assert!(!public.verifies(b"message", &signature[1..]));
    assert_eq!(public.hint(), plain.verifier().hint());
    Ok(())
}

#[test]
fn a_key_for_ed25519_signs_as_openssl_does() -> Result {
    use base64::Engine as _;
    // `openssl pkeyutl -sign -rawin` of the bytes `message`.
    let theirs = "LMb/ccjsn78Kq4c6Cb1cAJUn1b/26C3BPt5/vz5NyG5HSlBTnHuYEnDgeJsn7PrNFDxnt/jR6UI6OnzABOj7Dg==";
    let theirs = base64::engine::general_purpose::STANDARD.decode(theirs)?;
    let (private, public) =
        (Signer::from_pem(ED25519.as_bytes(), None)?, Verifier::from_pem(ED25519_PUBLIC.as_bytes())?);
    assert_eq!(private.sign(b"message"), theirs);
    assert!(public.verifies(b"message", &theirs) && !public.verifies(b"massage", &theirs));
    assert!(!public.verifies(b"message", &theirs[1..]));
    assert_eq!(public.hint(), private.verifier().hint());
    let other = Signer::from_pem(PRIVATE.as_bytes(), None)?;
    assert!(
        !public.verifies(b"message", &other.sign(b"message"))
            && !other.verifier().verifies(b"message", &theirs)
    );
    let made = bundle(b"{}", &private);
    assert!(opened(made.to_string().as_bytes(), &public).is_some());
    assert_eq!(opened(made.to_string().as_bytes(), &other.verifier()), None);
    Ok(())
}

#[test]
fn keys_that_cannot_be_used_say_why() {
    let private = |text: &str, password: Option<&[u8]>| Signer::from_pem(text.as_bytes(), password).err();
    assert_eq!(private(ENCRYPTED, None), Some(KeyError::NoPassword));
    assert_eq!(private(ENCRYPTED, Some(b"wrong")), Some(KeyError::WrongPassword));
    assert!(matches!(private(PUBLIC, None), Some(KeyError::Malformed(_))));
    assert!(matches!(private("", None), Some(KeyError::Malformed(_))));
    assert!(matches!(private(&PRIVATE[..90], None), Some(KeyError::Malformed(_))));
    let rsa = PRIVATE.replace("PRIVATE KEY", "RSA PRIVATE KEY");
    assert!(matches!(private(&rsa, None), Some(KeyError::Unsupported(_))));
    // What would take 16 GiB of memory is not tried.
    let body = r#"{"kdf":{"name":"scrypt","params":{"N":16777216,"r":8,"p":1},"salt":""},"cipher":{"name":"nacl/secretbox","nonce":""},"ciphertext":""}"#;
    use base64::Engine as _;
    let body = base64::engine::general_purpose::STANDARD.encode(body);
    let label = "ENCRYPTED SIGSTORE PRIVATE KEY";
    let costly = format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n");
    assert!(matches!(private(&costly, Some(b"x")), Some(KeyError::Malformed(_))));
    assert!(Verifier::from_pem(PRIVATE.as_bytes()).is_err());
}

#[test]
fn a_bundle_opens_with_its_key_only() -> Result {
    let key = Signer::from_pem(PRIVATE.as_bytes(), None)?;
    let image = Digest::of(b"image");
    let statement = image_statement(&image);
    let made = bundle(statement.to_string().as_bytes(), &key);
    let bytes = made.to_string().into_bytes();
    assert_eq!(opened(&bytes, &key.verifier()), Some(statement));
    let mut changed = made.clone();
    changed["dsseEnvelope"]["payload"] = "e30=".into();
    assert_eq!(opened(changed.to_string().as_bytes(), &key.verifier()), None);
    assert_eq!(opened(b"{}", &key.verifier()), None);
    assert_eq!(opened(b"nonsense", &key.verifier()), None);
    Ok(())
}

#[test]
fn a_simple_signature_is_about_one_image() -> Result {
    let key = Signer::from_pem(PRIVATE.as_bytes(), None)?;
    let image = Digest::of(b"image");
    let payload = simple_signing("registry.test/a", &image);
    use base64::Engine as _;
    let signature = base64::engine::general_purpose::STANDARD.encode(key.sign(&payload));
    assert!(simply_signed(&payload, &signature, &image, &key.verifier()));
    assert!(!simply_signed(&payload, &signature, &Digest::of(b"other"), &key.verifier()));
    assert!(!simply_signed(&payload, "AAAA", &image, &key.verifier()));
    Ok(())
}
