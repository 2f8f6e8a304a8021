//! Tokens of this node's own (JWT, Ed25519) that tell the server for whom it is asked, and the keys that they are
//! signed by.
//!
//! Keys lie in one PEM file, which only this user may read: the first signs, the others are still published, so what
//! they signed can be checked. A node that keeps its own file puts a new key first in time; a file that several nodes
//! share is its operator's to change, and is read again when it has changed. A token is signed once for many calls of a
//! caller, and again when the caller's state is another. Absent on purpose: the caller's plan, which nodes do not know.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::http::{HeaderName, HeaderValue, header::AUTHORIZATION};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use parking_lot::RwLock;
use ring::{
    digest::{SHA256, digest},
    rand::SystemRandom,
    signature::{Ed25519KeyPair, KeyPair},
};
use rustls::pki_types::{PrivatePkcs8KeyDer, pem::PemObject};
use schemas::{KeyId, KeyState, Timestamp};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::access::{Cache, Grant};

/// How long a token is good. Unit: milliseconds.
const LIFE_MS: i64 = 300_000;
/// How long it is used for calls. Unit: milliseconds.
const USED_MS: i64 = 120_000;
/// Callers whose tokens are remembered.
const MAX_TOKENS: usize = 65_536;
/// How often the file is looked at.
const LOOK: Duration = Duration::from_secs(30);
/// How many keys a file may hold, and how many a node keeps in its own.
const MAX_KEYS: usize = 16;
const KEPT: usize = 2;

/// How the node signs.
#[derive(Clone, Debug)]
pub struct SignerSettings {
    /// What tokens say in `iss` and `aud`.
    pub issuer: String,
    pub audience: String,
    pub file: PathBuf,
    /// After how long this node replaces the key in its own file; `None` = the file is the operator's.
    pub rotation: Option<Duration>,
}

/// The file of keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SignerError {
    #[error("`{0}` cannot be read or written")]
    File(PathBuf, #[source] io::Error),
    #[error("`{0}` holds no Ed25519 key in PKCS #8, or another kind, or more than {MAX_KEYS}")]
    Keys(PathBuf),
    #[error("no key could be made")]
    Random,
}

struct Keys {
    signing: Ed25519KeyPair,
    kid: String,
    /// The public ones, as a JWK Set.
    published: Value,
    changed: SystemTime,
}

/// A token and what it was made of.
#[derive(Clone)]
struct Signed {
    as_of: u64,
    at: Timestamp,
    value: HeaderValue,
}

/// A caller: its key, and the scopes of its token.
type TokenCacheKey = (KeyId, Option<Arc<[String]>>);

/// The node's signer.
pub struct Signer {
    settings: SignerSettings,
    keys: RwLock<Arc<Keys>>,
    signed: Cache<TokenCacheKey, Signed>,
}

impl Signer {
    /// Reads the keys, makes the first where this node keeps them, and looks after them until `stop`.
    ///
    /// # Errors
    /// See [`SignerError`].
    pub fn start(
        settings: SignerSettings,
        stop: CancellationToken,
    ) -> Result<Arc<Self>, SignerError> {
        if settings.rotation.is_some() && !settings.file.exists() {
            add_key(&settings.file)?;
        }
        let keys = RwLock::new(Arc::new(read(&settings.file)?));
        let signer = Arc::new(Self { settings, keys, signed: Cache::new(MAX_TOKENS) });
        let looked_after = signer.clone().look_after();
        tokio::spawn(async move { stop.run_until_cancelled(looked_after).await });
        Ok(signer)
    }

    /// The public keys, as a JWK Set.
    #[must_use]
    pub fn published(&self) -> Value {
        self.keys.read().published.clone()
    }

    /// A token about a caller, as the value of the header `name`.
    pub fn token(
        &self,
        grant: &Grant,
        state: &KeyState,
        now: Timestamp,
        name: &HeaderName,
    ) -> HeaderValue {
        let place = (state.key, grant.scopes.clone());
        let fresh = |signed: &Signed| {
            signed.as_of == state.as_of && (0..USED_MS).contains(&now.ms_since(signed.at))
        };
        if let Some(signed) = self.signed.get(&place).filter(fresh) {
            return signed.value;
        }
        let token = self.sign(grant, state, now);
        let text = if name == AUTHORIZATION { format!("Bearer {token}") } else { token };
        let mut value = HeaderValue::try_from(text).expect("base64 and dots");
        value.set_sensitive(true);
        self.signed.put(place, Signed { as_of: state.as_of, at: now, value: value.clone() });
        value
    }

    fn sign(&self, grant: &Grant, state: &KeyState, now: Timestamp) -> String {
        let keys = self.keys.read().clone();
        let header = json!({ "alg": "EdDSA", "typ": "JWT", "kid": keys.kid });
        let mut claims = json!({
            "iss": self.settings.issuer,
            "aud": self.settings.audience,
            "sub": state.key.to_string(),
            "org_id": state.tenant.to_string(),
            "project_id": state.project.to_string(),
            "scopes": grant.effective(state),
            "iat": now.0 / 1_000,
            "exp": (now.0 + LIFE_MS) / 1_000,
            "jti": Uuid::now_v7().to_string(),
        });
        if let Some(tier) = state.tier() {
            claims["tier"] = tier.into();
        }
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&header), part(&claims));
        let signature = URL_SAFE_NO_PAD.encode(keys.signing.sign(signed.as_bytes()));
        format!("{signed}.{signature}")
    }

    async fn look_after(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(LOOK);
        loop {
            ticks.tick().await;
            if let Err(error) = self.look() {
                let error = &error as &dyn std::error::Error;
                tracing::error!(error, "The keys of internal tokens stay as they were");
            }
        }
    }

    /// Replaces a key of this node that is old, and reads a file that has changed.
    ///
    /// # Errors
    /// See [`SignerError`]; the keys stay as they were.
    pub fn look(&self) -> Result<(), SignerError> {
        let file = &self.settings.file;
        let changed = modified(file)?;
        let age = SystemTime::now().duration_since(changed).unwrap_or_default();
        if self.settings.rotation.is_some_and(|rotation| age >= rotation) {
            add_key(file)?;
            tracing::info!("Internal tokens are signed by a new key");
        } else if changed == self.keys.read().changed {
            return Ok(());
        }
        let keys = Arc::new(read(file)?);
        *self.keys.write() = keys;
        self.signed.clear();
        Ok(())
    }
}

fn modified(file: &Path) -> Result<SystemTime, SignerError> {
    let changed = fs::metadata(file).and_then(|metadata| metadata.modified());
    changed.map_err(|error| SignerError::File(file.to_owned(), error))
}

fn read(file: &Path) -> Result<Keys, SignerError> {
    let unusable = || SignerError::Keys(file.to_owned());
    let changed = modified(file)?;
    let pem = fs::read(file).map_err(|error| SignerError::File(file.to_owned(), error))?;
    let mut pairs = vec![];
    for der in PrivatePkcs8KeyDer::pem_slice_iter(&pem) {
        let der = der.map_err(|_| unusable())?;
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der.secret_pkcs8_der());
        pairs.push(pair.map_err(|_| unusable())?);
    }
    if pairs.len() > MAX_KEYS {
        return Err(unusable());
    }
    let keys: Vec<Value> = pairs.iter().map(jwk).collect();
    let published = json!({ "keys": keys });
    let signing = pairs.into_iter().next().ok_or_else(unusable)?;
    let kid = keys[0]["kid"].as_str().unwrap_or_default().to_owned();
    Ok(Keys { signing, kid, published, changed })
}

/// A public key, named by its thumbprint (RFC 7638).
fn jwk(pair: &Ed25519KeyPair) -> Value {
    let x = URL_SAFE_NO_PAD.encode(pair.public_key());
    let print = digest(&SHA256, format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#).as_bytes());
    let kid = URL_SAFE_NO_PAD.encode(print);
    json!({ "kty": "OKP", "crv": "Ed25519", "x": x, "kid": kid, "use": "sig", "alg": "EdDSA" })
}

/// Puts a new key before those in the file, of which the newest stay. The file is whole at every moment.
fn add_key(file: &Path) -> Result<(), SignerError> {
    let failed = |error| SignerError::File(file.to_owned(), error);
    let made =
        Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| SignerError::Random)?;
    let mut pem = block(made.as_ref());
    if file.exists() {
        let before = fs::read(file).map_err(failed)?;
        for der in PrivatePkcs8KeyDer::pem_slice_iter(&before).take(KEPT - 1) {
            let der = der.map_err(|_| SignerError::Keys(file.to_owned()))?;
            pem += &block(der.secret_pkcs8_der());
        }
    }
    let beside = file.with_extension("new");
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let mut new = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&beside)
        .map_err(failed)?;
    new.write_all(pem.as_bytes()).and_then(|()| new.sync_all()).map_err(failed)?;
    fs::rename(&beside, file).map_err(failed)
}

fn block(der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
    format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[tokio::test]
    async fn a_new_key_signs_and_the_one_before_is_still_published() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("keys.pem");
        let settings = SignerSettings {
            issuer: "i".into(),
            audience: "a".into(),
            file: file.clone(),
            rotation: Some(Duration::ZERO),
        };
        let stop = CancellationToken::new();
        stop.cancel(); // Only what is called here looks at the file.
        let signer = Signer::start(settings, stop).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let kids = |published: &Value| -> Vec<String> {
            let keys = published["keys"].as_array().unwrap().iter();
            keys.map(|key| key["kid"].as_str().unwrap().to_owned()).collect()
        };
        let first = kids(&signer.published());
        assert_eq!(first.len(), 1);
        signer.look().unwrap();
        let second = kids(&signer.published());
        assert_eq!((second.len(), &second[1]), (2, &first[0]));
        assert_eq!(signer.keys.read().kid, second[0]);
        signer.look().unwrap();
        let third = kids(&signer.published());
        assert_eq!((third.len(), &third[1]), (2, &second[0]), "the oldest is forgotten");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);

        fs::write(&file, "nonsense").unwrap();
        let shared = SignerSettings { rotation: None, ..signer.settings.clone() };
        assert!(matches!(read(&shared.file), Err(SignerError::Keys(_))));
        assert_eq!(kids(&signer.published()), third, "what was read stays");
    }
}
