//! Keys: PEM files as OpenSSL and cosign write them, ECDSA on P-256 and Ed25519.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use crypto_secretbox::aead::{Aead as _, KeyInit as _};
use crypto_secretbox::{Nonce, XSalsa20Poly1305};
use ed25519_dalek as ed25519;
use p256::SecretKey;
use p256::ecdsa::signature::{Signer as _, Verifier as _};
use p256::ecdsa::{Signature, SigningKey, VerifyingKey};
use p256::pkcs8::{DecodePrivateKey as _, DecodePublicKey as _, EncodePublicKey as _};
use serde::Deserialize;

use crate::digest::Digest;

/// The largest key file that is read, in bytes.
const MAX_KEY: usize = 64 << 10;
/// Memory that decrypting a key may need, in bytes: what the file says is not trusted.
const MAX_MEMORY: u64 = 256 << 20;
const KEY_SIZE: usize = 32;

/// Why a key cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// No PEM block of a known kind.
    #[error("it is no key in PEM form: {0}")]
    Malformed(String),
    /// Some other algorithm.
    #[error("{0} is not supported: keys are ECDSA on the curve P-256, or Ed25519")]
    Unsupported(String),
    /// Encrypted, and no password was given.
    #[error("the key is encrypted, and no password was given")]
    NoPassword,
    /// The password does not fit.
    #[error("the password is wrong, or the key is damaged")]
    WrongPassword,
}

/// A private key.
#[derive(Clone)]
pub struct Signer(Private);

#[derive(Clone)]
enum Private {
    P256(SigningKey),
    Ed25519(ed25519::SigningKey),
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({})", self.verifier().hint())
    }
}

/// cosign's encrypted keys (go-securesystemslib, `encrypted`).
#[derive(Deserialize)]
struct Encrypted {
    kdf: Kdf,
    cipher: Cipher,
    ciphertext: String,
}

#[derive(Deserialize)]
struct Kdf {
    name: String,
    params: Scrypt,
    salt: String,
}

#[derive(Deserialize)]
struct Scrypt {
    #[serde(rename = "N")]
    cost: u64,
    r: u32,
    p: u32,
}

#[derive(Deserialize)]
struct Cipher {
    name: String,
    nonce: String,
}

impl Signer {
    /// Reads a PEM file: PKCS#8, SEC 1, or cosign's encrypted form, which takes a password.
    pub fn from_pem(bytes: &[u8], password: Option<&[u8]>) -> Result<Self, KeyError> {
        let (label, der) = block(bytes, "PRIVATE KEY")?;
        match label.as_str() {
            "PRIVATE KEY" => pkcs8(&der),
            "EC PRIVATE KEY" => {
                let secret = SecretKey::from_sec1_der(&der);
                let secret = secret.map_err(|_| KeyError::Unsupported("this EC key".into()))?;
                Ok(Signer(Private::P256(secret.into())))
            }
            "ENCRYPTED SIGSTORE PRIVATE KEY" | "ENCRYPTED COSIGN PRIVATE KEY" => {
                pkcs8(&decrypted(&der, password.ok_or(KeyError::NoPassword)?)?)
            }
            other => Err(KeyError::Unsupported(format!("a key of the kind {other:?}"))),
        }
    }

    /// A signature of `message`: DER for ECDSA, 64 bytes for Ed25519. The same message has the same signature (RFC 6979,
    /// RFC 8032).
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        match &self.0 {
            Private::P256(key) => {
                let signature: Signature = key.sign(message);
                signature.to_der().as_bytes().to_vec()
            }
            Private::Ed25519(key) => key.sign(message).to_bytes().to_vec(),
        }
    }

    /// The public key.
    pub fn verifier(&self) -> Verifier {
        Verifier(match &self.0 {
            Private::P256(key) => Public::P256(*key.verifying_key()),
            Private::Ed25519(key) => Public::Ed25519(key.verifying_key()),
        })
    }
}

/// A public key.
#[derive(Clone, Debug)]
pub struct Verifier(Public);

#[derive(Clone, Debug)]
enum Public {
    P256(VerifyingKey),
    Ed25519(ed25519::VerifyingKey),
}

impl Verifier {
    /// Reads a PEM file with a public key.
    pub fn from_pem(bytes: &[u8]) -> Result<Self, KeyError> {
        let (label, der) = block(bytes, "PUBLIC KEY")?;
        if label != "PUBLIC KEY" {
            return Err(KeyError::Unsupported(format!("a key of the kind {label:?}")));
        }
        if let Ok(key) = VerifyingKey::from_public_key_der(&der) {
            return Ok(Verifier(Public::P256(key)));
        }
        let key = ed25519::VerifyingKey::from_public_key_der(&der);
        let key = key.map_err(|_| KeyError::Unsupported("this public key".into()))?;
        Ok(Verifier(Public::Ed25519(key)))
    }

    /// Whether `signature`, in the form of [`Signer::sign`], is one of `message`.
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        match &self.0 {
            Public::P256(key) => {
                Signature::from_der(signature).is_ok_and(|found| key.verify(message, &found).is_ok())
            }
            // Keys and signatures that fit every message are refused.
            Public::Ed25519(key) => ed25519::Signature::from_slice(signature)
                .is_ok_and(|found| key.verify_strict(message, &found).is_ok()),
        }
    }

    /// What bundles name the key by: the digest of its DER form, in base64.
    pub fn hint(&self) -> String {
        let der = match &self.0 {
            Public::P256(key) => p256::PublicKey::from(key).to_public_key_der(),
            Public::Ed25519(key) => key.to_public_key_der(),
        };
        der.map_or_else(|_| String::new(), |der| STANDARD.encode(Digest::of(der.as_bytes()).raw()))
    }
}

fn pkcs8(der: &[u8]) -> Result<Signer, KeyError> {
    if let Ok(secret) = SecretKey::from_pkcs8_der(der) {
        return Ok(Signer(Private::P256(secret.into())));
    }
    let key = ed25519::SigningKey::from_pkcs8_der(der);
    let key = key.map_err(|_| KeyError::Unsupported("this private key".into()))?;
    Ok(Signer(Private::Ed25519(key)))
}

/// The first block whose label ends with `kind`: files of OpenSSL have parameters before the key.
fn block(bytes: &[u8], kind: &str) -> Result<(String, Vec<u8>), KeyError> {
    let malformed = |why: &str| KeyError::Malformed(why.to_owned());
    if bytes.len() > MAX_KEY {
        return Err(malformed("the file is too large"));
    }
    let text = std::str::from_utf8(bytes).map_err(|_| malformed("it is not text"))?;
    // RFC 1421's header, and the label of RFC 5958's encrypted form.
    if text.contains("Proc-Type: 4,ENCRYPTED") || text.contains("-----BEGIN ENCRYPTED PRIVATE KEY-----") {
        return Err(KeyError::Unsupported("a key that OpenSSL encrypted".into()));
    }
    let other = if kind == "PRIVATE KEY" { "PUBLIC KEY" } else { "PRIVATE KEY" };
    let mut lines = text.lines().map(str::trim);
    let label = lines
        .by_ref()
        .find_map(|line| {
            let label = line.strip_prefix("-----BEGIN ")?.strip_suffix("-----")?;
            label.ends_with(kind).then(|| label.to_owned())
        })
        .ok_or_else(|| {
            let has_other = text.contains(&format!("{other}-----"));
            malformed(&format!(
                "there is no {kind}{}",
                if has_other { format!(", but a {other}") } else { String::new() }
            ))
        })?;
    let end = format!("-----END {label}-----");
    let mut body = String::new();
    for line in lines {
        if line == end {
            let der = STANDARD.decode(&body).map_err(|_| malformed("its base64 is damaged"))?;
            return Ok((label, der));
        }
        body.push_str(line);
    }
    Err(malformed("its end is missing"))
}

fn decrypted(bytes: &[u8], password: &[u8]) -> Result<Vec<u8>, KeyError> {
    let malformed = |why: &str| KeyError::Malformed(why.to_owned());
    let all: Encrypted =
        serde_json::from_slice(bytes).map_err(|_| malformed("what is encrypted is not cosign's form"))?;
    if all.kdf.name != "scrypt" || all.cipher.name != "nacl/secretbox" {
        let kind = format!("encryption with {:?} and {:?}", all.kdf.name, all.cipher.name);
        return Err(KeyError::Unsupported(kind));
    }
    let base64 = |text: &str| STANDARD.decode(text).map_err(|_| malformed("its base64 is damaged"));
    let Scrypt { cost, r, p } = all.kdf.params;
    let memory = cost.checked_mul(u64::from(r)).and_then(|product| product.checked_mul(128));
    if !cost.is_power_of_two() || cost < 2 || p > 16 || memory.is_none_or(|memory| memory > MAX_MEMORY) {
        return Err(malformed("its scrypt parameters are out of bounds"));
    }
    let log_n = u8::try_from(cost.trailing_zeros()).unwrap_or(u8::MAX);
    let params =
        scrypt::Params::new(log_n, r, p).map_err(|_| malformed("its scrypt parameters are wrong"))?;
    let mut key = [0u8; KEY_SIZE];
    scrypt::scrypt(password, &base64(&all.kdf.salt)?, &params, &mut key)
        .map_err(|_| malformed("its scrypt parameters are wrong"))?;
    let nonce: [u8; 24] =
        base64(&all.cipher.nonce)?.try_into().map_err(|_| malformed("its nonce has not 24 bytes"))?;
    let cipher = XSalsa20Poly1305::new(&key.into());
    let opened = cipher.decrypt(&Nonce::from(nonce), base64(&all.ciphertext)?.as_slice());
    opened.map_err(|_| KeyError::WrongPassword)
}
