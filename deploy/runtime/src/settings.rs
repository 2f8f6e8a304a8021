//! Settings: built-in defaults, then a file, then the environment; the last to speak wins, unknown keys are refused.

use std::{fmt, path::Path};

use figment::{
    Figment,
    error::Kind,
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
    let all = layers(defaults, file).merge(Env::prefixed(prefix));
    all.extract().map_err(|error| SettingsError(Box::new(error)))
}

/// What is said before the environment speaks.
fn layers(defaults: &str, file: Option<&Path>) -> Figment {
    let layers = Figment::from(Toml::string(defaults));
    match file {
        Some(file) => layers.merge(Toml::file_exact(file)),
        None => layers,
    }
}

/// As [`load`], for a prefix that other programs' variables begin with too: those that mean nothing here are passed over,
/// and named in what is returned, so that a typing error shows. In the file they are refused.
///
/// # Errors
/// As for [`load`].
pub fn load_beside_others<T: DeserializeOwned>(
    defaults: &str,
    file: Option<&Path>,
    prefix: &str,
) -> Result<(T, Vec<String>), SettingsError> {
    let layers = layers(defaults, file);
    let mut others: Vec<String> = vec![];
    loop {
        let ours =
            Env::prefixed(prefix).ignore(&others.iter().map(String::as_str).collect::<Vec<_>>());
        let error = match layers.clone().merge(ours).extract() {
            Ok(settings) => {
                let names = others.iter().map(|name| format!("{prefix}{}", name.to_uppercase()));
                return Ok((settings, names.collect()));
            }
            Err(error) => error,
        };
        let from_env =
            error.metadata.as_ref().is_some_and(|from| from.name.contains("environment variable"));
        match &error.kind {
            Kind::UnknownField(name, _) if from_env && !others.contains(name) => {
                others.push(name.clone());
            }
            _ => return Err(SettingsError(Box::new(error))),
        }
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
