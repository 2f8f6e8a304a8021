//! Settings: built-in defaults, then a file, then the environment; the last to speak wins, unknown keys are refused.

use std::{fmt, path::Path};

use figment::{
    Figment,
    providers::{Env, Format, Toml},
};
use serde::{Deserialize, de::DeserializeOwned};

/// The settings cannot be used; the text names the first key that is missing, unknown or wrong.
#[derive(Debug, thiserror::Error)]
#[error("settings: {0}")]
pub struct SettingsError(Box<figment::Error>);

/// Reads `defaults` (TOML text), then `file` if one was named, then `<prefix>*` variables of the environment.
///
/// `T` should deny unknown fields; so variables that begin with the prefix and mean nothing are refused too.
///
/// # Errors
/// A file that does not exist, a key that is missing, unknown or of the wrong type.
pub fn load<T: DeserializeOwned>(
    defaults: &str,
    file: Option<&Path>,
    prefix: &str,
) -> Result<T, SettingsError> {
    let mut all = Figment::from(Toml::string(defaults));
    if let Some(file) = file {
        all = all.merge(Toml::file_exact(file));
    }
    Ok(all.merge(Env::prefixed(prefix)).extract()?)
}

impl From<figment::Error> for SettingsError {
    fn from(error: figment::Error) -> Self {
        Self(Box::new(error))
    }
}

/// A text that must not be seen: it shows as `<hidden>` and is read by [`Secret::expose`] alone.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Hides a text.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The text itself, for the one place that needs it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether there is nothing in it but white space.
    #[must_use]
    pub fn is_blank(&self) -> bool {
        self.0.trim().is_empty()
    }
}

impl std::str::FromStr for Secret {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<hidden>")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Some {
        ttl_ms: u32,
        token: Secret,
    }

    #[test]
    fn unknown_keys_are_refused_and_secrets_do_not_show() {
        let loaded: Some = load("ttl_ms = 5\ntoken = \"hush\"", None, "TB_TEST_NOTHING_").unwrap();
        assert_eq!((loaded.ttl_ms, loaded.token.expose()), (5, "hush"));
        assert!(!format!("{loaded:?}").contains("hush"));
        let refused = load::<Some>("ttl_ms = 5\ntoken = \"x\"\ntypo = 1", None, "TB_TEST_NOTHING_")
            .unwrap_err();
        assert!(refused.to_string().contains("typo"), "{refused}");
        assert!(
            load::<Some>("token = \"x\"", None, "TB_TEST_NOTHING_")
                .unwrap_err()
                .to_string()
                .contains("ttl_ms")
        );
    }
}
