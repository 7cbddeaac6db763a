//! Variables of a stage: ARG and ENV in one list in which the later declaration wins, as the
//! reference builds (its manual says that ENV always wins).

use std::borrow::Cow;

use crate::dockerfile::Variables;

/// Ordered names and values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Scope {
    values: Vec<(String, String)>,
}

impl Scope {
    /// Sets a variable, in its old place if it has one.
    pub fn set(&mut self, name: &str, value: &str) {
        match self.values.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => value.clone_into(old),
            None => self.values.push((name.to_owned(), value.to_owned())),
        }
    }

    /// Forgets a variable.
    pub fn remove(&mut self, name: &str) {
        self.values.retain(|(known, _)| known != name);
    }

    /// The value of a variable.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.values.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// All, in order.
    pub fn iter(&self) -> impl Iterator<Item = &(String, String)> {
        self.values.iter()
    }
}

impl Variables for Scope {
    fn get(&self, name: &str) -> Option<Cow<'_, str>> {
        self.value(name).map(Cow::Borrowed)
    }
}

/// Arguments that RUN gets without declaration and that never count for the cache.
pub(super) fn is_proxy(name: &str) -> bool {
    const PROXIES: [&str; 5] = ["HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY"];
    PROXIES.iter().any(|proxy| proxy.eq_ignore_ascii_case(name))
}

/// Arguments that steer the builder and need no declaration.
pub(super) fn is_control(name: &str) -> bool {
    name.starts_with("BUILDKIT_") || name == "SOURCE_DATE_EPOCH"
}
