//! Signing in: which header a request carries, and how a token is got.
//!
//! Tokens are kept for one registry and one scope until shortly before they expire. Threads that
//! need the same token wait for one of them to fetch it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use serde::Deserialize;
use ureq::http::header::{HeaderValue, WWW_AUTHENTICATE};
use ureq::http::uri::Scheme;
use ureq::http::{Method, Uri};

use super::challenge::{self, Challenge};
use super::client::refusal;
use super::config::{Credentials, Endpoint};
use super::credentials::{self, Found};
use super::error::{Refusal, RegistryError};
use super::transport::{Incoming, Outgoing, Session};

/// Long tokens exist (signed claims), endless ones do not.
const TOKEN_LIMIT: usize = 1 << 20;

/// What the token specification lets a client assume where a service does not say.
const DEFAULT_LIFETIME: u64 = 60;

/// The state of being signed in at one endpoint.
pub(super) struct Auth {
    credentials: Credentials,
    registry: String,
    /// The repository, where credentials may be for a part of the registry only.
    repository: String,
    /// Whether a token service may be asked over plain http: with credentials only at the registry's own
    /// host, which gets them in the same way.
    lenient: bool,
    /// The registry's host, without port.
    host: String,
    found: OnceLock<Found>,
    offered: Mutex<Option<Challenge>>,
    tokens: Mutex<HashMap<String, Slot>>,
}

type Slot = Arc<Mutex<Option<Token>>>;

struct Token {
    header: HeaderValue,
    until: Instant,
}

impl Auth {
    pub(super) fn new(credentials: &Credentials, endpoint: &Endpoint, repository: &str) -> Self {
        Auth {
            credentials: credentials.clone(),
            registry: endpoint.name.clone(),
            repository: endpoint.repository(repository),
            lenient: endpoint.lenient(),
            host: endpoint.host().to_owned(),
            found: OnceLock::new(),
            offered: Mutex::default(),
            tokens: Mutex::default(),
        }
    }

    /// What was found and tried, for hints. Looks for credentials if nobody did yet.
    pub(super) fn describe(&self) -> String {
        self.found().describe(&self.registry)
    }

    /// The header to begin with: none until the registry has said how it wants to be asked.
    pub(super) fn header(
        &self,
        session: &Session,
        scope: &str,
    ) -> Result<Option<HeaderValue>, RegistryError> {
        let offered = self.offered.lock().unwrap_or_else(PoisonError::into_inner).clone();
        offered.map_or(Ok(None), |challenge| self.follow(session, &challenge, scope, scope, None))
    }

    /// The header to try again with after a 401; `None` where there is no way to do better.
    pub(super) fn answer(
        &self,
        session: &Session,
        refused: &Incoming,
        scope: &str,
        rejected: Option<&HeaderValue>,
    ) -> Result<Option<HeaderValue>, RegistryError> {
        let challenges: Vec<Challenge> = refused
            .headers
            .get_all(WWW_AUTHENTICATE)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(challenge::parse)
            .collect();
        let by_scheme = |scheme: &str| challenges.iter().find(|challenge| challenge.scheme == scheme);
        let Some(challenge) = by_scheme("bearer").or_else(|| by_scheme("basic")) else { return Ok(None) };
        let wanted = merge_scopes(scope, challenge.param("scope").unwrap_or_default());
        let header = self.follow(session, challenge, scope, &wanted, rejected)?;
        *self.offered.lock().unwrap_or_else(PoisonError::into_inner) = Some(challenge.clone());
        Ok(header.filter(|header| Some(header) != rejected))
    }

    fn follow(
        &self,
        session: &Session,
        challenge: &Challenge,
        scope: &str,
        wanted: &str,
        rejected: Option<&HeaderValue>,
    ) -> Result<Option<HeaderValue>, RegistryError> {
        if challenge.scheme == "basic" {
            return Ok(self.found().basic().and_then(|basic| secret(&basic)));
        }
        let slot = {
            let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
            tokens.entry(scope.to_owned()).or_default().clone()
        };
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(token) = slot.as_ref()
            && token.until > Instant::now()
            && Some(&token.header) != rejected
        {
            return Ok(Some(token.header.clone()));
        }
        *slot = None;
        let token = self.fetch(session, challenge, wanted)?;
        let header = token.header.clone();
        *slot = Some(token);
        Ok(Some(header))
    }

    fn found(&self) -> &Found {
        self.found.get_or_init(|| credentials::find(&self.credentials, &self.registry, &self.repository))
    }

    /// Asks the token service the challenge names.
    fn fetch(&self, session: &Session, challenge: &Challenge, scope: &str) -> Result<Token, RegistryError> {
        let realm = challenge.param("realm").unwrap_or_default();
        let service = challenge.param("service").unwrap_or_default();
        let (url, form) = self.token_request(realm, service, scope)?;
        let method = if form.is_some() { Method::POST } else { Method::GET };
        let authorization = self.found().basic().and_then(|basic| secret(&basic));
        let outgoing = Outgoing { authorization, form, ..Outgoing::new(method, url, self.lenient) };
        let incoming = session.send(&outgoing)?;
        if incoming.status != 200 {
            let about_us = |refused| matches!(refused, Refusal::Unauthorized | Refusal::Denied);
            return Err(refusal(session, incoming, |refused| about_us(refused).then(|| self.describe())));
        }
        let target = incoming.target.clone();
        let body = incoming.read_up_to(session, TOKEN_LIMIT)?;
        let invalid = || RegistryError::protocol(&target, "the token service sent no token");
        let answer: TokenAnswer = serde_json::from_slice(&body).map_err(|_| invalid())?;
        let text =
            answer.token.or(answer.access_token).filter(|text| !text.is_empty()).ok_or_else(invalid)?;
        let header = secret(&format!("Bearer {text}")).ok_or_else(invalid)?;
        let lifetime = Duration::from_secs(lifetime(answer.expires_in.as_ref()));
        // A token that expires on its way is a wasted request.
        Ok(Token { header, until: Instant::now() + lifetime.mul_f32(0.9) })
    }

    fn token_request(
        &self,
        realm: &str,
        service: &str,
        scope: &str,
    ) -> Result<(Uri, Option<String>), RegistryError> {
        let refuse = |reason: &str| RegistryError::invalid("token service address", realm, reason);
        let base: Uri = realm.parse().map_err(|_| refuse("the registry sent no valid address"))?;
        let plain = match base.scheme() {
            Some(scheme) if *scheme == Scheme::HTTPS => false,
            Some(scheme) if *scheme == Scheme::HTTP => true,
            _ => return Err(refuse("the registry sent no http address")),
        };
        if base
            .authority()
            .is_none_or(|authority| authority.host().is_empty() || authority.as_str().contains('@'))
        {
            return Err(refuse("the registry sent no valid address"));
        }
        if plain && !self.lenient {
            return Err(refuse(
                "credentials are not sent over plain http; if the registry is meant to be insecure, pass --insecure-registry for it",
            ));
        }
        let elsewhere = !base.host().is_some_and(|host| host.eq_ignore_ascii_case(&self.host));
        let secret = matches!(self.found(), Found::Password { .. } | Found::Identity { .. });
        if plain && elsewhere && secret {
            return Err(refuse("credentials are sent over plain http to the registry's own host only"));
        }
        let mut fields: Vec<(&str, &str)> = Vec::new();
        if !service.is_empty() {
            fields.push(("service", service));
        }
        if let Found::Identity { token, .. } = self.found() {
            // OAuth 2 has one field for all scopes, the older form of the request one for each.
            fields.extend((!scope.is_empty()).then_some(("scope", scope)));
            fields.extend([
                ("grant_type", "refresh_token"),
                ("client_id", "rbuild"),
                ("refresh_token", token),
            ]);
            return Ok((base, Some(encode(&fields))));
        }
        fields.extend(scope.split_whitespace().map(|scope| ("scope", scope)));
        if let Found::Password { user, .. } = self.found() {
            fields.push(("account", user));
        }
        let joint = if base.query().is_some() { '&' } else { '?' };
        let url = format!("{}{joint}{}", realm.split('#').next().unwrap_or_default(), encode(&fields));
        Ok((url.parse().map_err(|_| refuse("the registry sent no valid address"))?, None))
    }
}

/// What to ask a token for: what the registry named in its challenge, with all the actions that are
/// going to be needed. A challenge that names other resources than ours is followed as it is.
fn merge_scopes(ours: &str, challenged: &str) -> String {
    let split = |scope: &str| scope.rsplit_once(':').map(|(of, to)| (of.to_owned(), to.to_owned()));
    let mut merged: Vec<(String, String)> = challenged.split_whitespace().filter_map(split).collect();
    let needed: Vec<(String, String)> = ours.split_whitespace().filter_map(split).collect();
    if merged.is_empty() {
        return ours.to_owned();
    }
    if !needed.iter().any(|(resource, _)| merged.iter().any(|(known, _)| known == resource)) {
        return challenged.to_owned();
    }
    for (resource, actions) in needed {
        match merged.iter_mut().find(|(known, _)| *known == resource) {
            None => merged.push((resource, actions)),
            Some((_, known)) => {
                for action in actions.split(',') {
                    if !known.split(',').any(|known| known == action) {
                        known.push(',');
                        known.push_str(action);
                    }
                }
            }
        }
    }
    merged.iter().map(|(of, to)| format!("{of}:{to}")).collect::<Vec<_>>().join(" ")
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    /// A number by the specification; services send it as text, with a fraction, or below zero too.
    expires_in: Option<serde_json::Value>,
}

/// Seconds that a token is good for.
fn lifetime(said: Option<&serde_json::Value>) -> u64 {
    let number = said.and_then(|value| value.as_f64().or_else(|| value.as_str()?.trim().parse().ok()));
    // A cast keeps within the bounds of the number.
    number.filter(|seconds| *seconds >= 1.0).map_or(DEFAULT_LIFETIME, |seconds| seconds as u64).min(86_400)
}

/// A header value that is left out of debug output.
fn secret(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// `key=value&...`, everything but unreserved characters escaped.
fn encode(fields: &[(&str, &str)]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let mut out = String::new();
    for (index, (key, value)) in fields.iter().enumerate() {
        if index > 0 {
            out.push('&');
        }
        out.push_str(key);
        out.push('=');
        for byte in value.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                out.push(char::from(byte));
            } else {
                out.push('%');
                out.push(char::from(DIGITS[usize::from(byte >> 4)]));
                out.push(char::from(DIGITS[usize::from(byte & 15)]));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn auth(insecure: bool) -> Result<Auth, RegistryError> {
        Ok(Auth::new(&Credentials::None, &Endpoint::registry("registry.example.test", insecure)?, ""))
    }

    #[test]
    fn token_requests_are_escaped_and_keep_the_realms_own_query() -> Result<(), RegistryError> {
        let (url, form) = auth(false)?.token_request(
            "https://auth.example.test/token?a=b",
            "my reg",
            "repository:a/b:pull",
        )?;
        assert_eq!(
            url.to_string(),
            "https://auth.example.test/token?a=b&service=my%20reg&scope=repository%3Aa%2Fb%3Apull"
        );
        assert_eq!(form, None);
        Ok(())
    }

    #[test]
    fn a_token_is_asked_for_all_that_will_be_needed() -> Result<(), RegistryError> {
        let ours = "repository:a:pull,push repository:b:pull";
        for (challenged, expected) in [
            ("", ours),
            ("repository:a:pull", ours),
            ("repository:a:pull,push", ours),
            ("repository:a:delete", "repository:a:delete,pull,push repository:b:pull"),
            ("repository:other/a:pull", "repository:other/a:pull"),
            ("registry:catalog:*", "registry:catalog:*"),
        ] {
            assert_eq!(merge_scopes(ours, challenged), expected, "{challenged}");
        }
        let (url, _) = auth(false)?.token_request("https://auth.example.test/", "", ours)?;
        let query = "scope=repository%3Aa%3Apull%2Cpush&scope=repository%3Ab%3Apull";
        assert_eq!(url.query(), Some(query));
        Ok(())
    }

    #[test]
    fn every_form_of_a_lifetime_is_read() {
        for (text, seconds) in [
            ("300", 300),
            ("300.0", 300),
            ("\"300\"", 300),
            ("-1", 60),
            ("0", 60),
            ("null", 60),
            ("\"soon\"", 60),
            ("1e300", 86_400),
        ] {
            let answer: Option<TokenAnswer> =
                serde_json::from_str(&format!("{{\"token\":\"t\",\"expires_in\":{text}}}")).ok();
            let said = answer.map(|answer| lifetime(answer.expires_in.as_ref()));
            assert_eq!(said, Some(seconds), "{text}");
        }
    }

    #[test]
    fn secure_registries_cannot_send_credentials_over_plain_http() -> Result<(), RegistryError> {
        let realm = "http://auth.example.test/token";
        assert!(auth(false)?.token_request(realm, "", "s").is_err());
        assert!(auth(true)?.token_request(realm, "", "s").is_ok());
        for bad in ["", "/token", "ftp://auth.example.test/", "https://a@auth.example.test/", "https://"] {
            assert!(auth(true)?.token_request(bad, "", "s").is_err(), "{bad}");
        }
        Ok(())
    }
}
