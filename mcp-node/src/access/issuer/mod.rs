//! The issuer whose tokens name API keys: its public keys, fetched behind the calls, and the tokens that were checked.
//!
//! A token's signature is checked once; until its end a hash finds it again. No call waits for the issuer: its keys are
//! fetched in the background, again every ten minutes, and after a token by an unknown key, at most so often. When the
//! issuer's keys change, every token is checked anew. Absent on purpose: asking the issuer about a token (RFC 7662).

mod keys;
mod source;

use std::{sync::Arc, time::Duration};

use mcp_node_core::{
    Refusal,
    token::{Expected, TokenClaims, Why, read},
};
use parking_lot::RwLock;
use runtime::http::Client;
use schemas::{KeyDigest, KeyId, Timestamp};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

pub use self::{
    keys::{KeySet, KeysError},
    source::{Source, SourceError, safe_url},
};
use super::cache::Cache;

/// How often keys are fetched though nothing is unknown: a key may have been withdrawn.
const REFRESH: Duration = Duration::from_secs(600);
/// How soon again after a failure with no keys in hand; twice as late each time.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// Tokens that are remembered.
const MAX_TOKENS: usize = 65_536;

/// An issuer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuerSettings {
    pub expected: Expected,
    pub source: Source,
    /// After an unknown key, the keys are fetched no sooner than this after the last time.
    pub apart: Duration,
}

/// A token that was checked.
#[derive(Debug)]
pub struct Token {
    pub key: KeyId,
    pub scopes: Arc<[String]>,
    until: Timestamp,
}

/// The issuer, as this node knows it.
pub struct Issuer {
    settings: IssuerSettings,
    keys: RwLock<Option<Arc<KeySet>>>,
    /// A token came by a key that is not among them.
    unknown: Notify,
    checked: Cache<KeyDigest, Arc<Token>>,
    stop: CancellationToken,
}

impl Issuer {
    /// Begins to fetch its keys, until `stop`.
    #[must_use]
    pub fn start(settings: IssuerSettings, stop: &CancellationToken) -> Arc<Self> {
        let (keys, checked) = (RwLock::default(), Cache::new(MAX_TOKENS));
        let (unknown, stop) = (Notify::new(), stop.child_token());
        let issuer = Arc::new(Self { settings, keys, unknown, checked, stop: stop.clone() });
        let fetching = issuer.clone().fetch();
        tokio::spawn(async move { stop.run_until_cancelled(fetching).await });
        issuer
    }

    /// What the tokens of this issuer must say.
    #[must_use]
    pub fn expected(&self) -> &Expected {
        &self.settings.expected
    }

    /// Whether it was started by such settings.
    #[must_use]
    pub fn is_of(&self, settings: &IssuerSettings) -> bool {
        self.settings == *settings
    }

    /// Fetches its keys no more; those in hand stay.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Whether its keys are fetched no more.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Whether there are keys to check tokens by.
    #[must_use]
    pub fn has_keys(&self) -> bool {
        self.keys.read().is_some()
    }

    /// What a token says, if it is this issuer's and for this node.
    ///
    /// # Errors
    /// `Unauthorized`, whatever is wrong with it; `IssuerUnreachable` while no keys are known to check it by.
    pub fn check(&self, token: &str, now: Timestamp) -> Result<Arc<Token>, Refusal> {
        let digest = KeyDigest::of(token);
        if let Some(known) = self.checked.get(&digest).filter(|known| now < known.until) {
            return Ok(known);
        }
        let keys = self.keys.read().clone();
        match self.said(token, keys.as_deref(), now) {
            Ok(Some(said)) => {
                let TokenClaims { key, scopes, until } = said;
                let known = Arc::new(Token { key, scopes: scopes.into(), until });
                // Keys that changed meanwhile have emptied the memory: this must not go in behind that.
                let held = self.keys.read();
                if held.as_ref().map(Arc::as_ptr) == keys.as_ref().map(Arc::as_ptr) {
                    self.checked.put(digest, known.clone());
                }
                Ok(known)
            }
            Ok(None) => Err(Refusal::IssuerUnreachable),
            Err(why) => {
                metrics::counter!("mcp_tokens_refused_total", "why" => why.name()).increment(1);
                tracing::debug!(why = why.name(), "A token was refused");
                Err(Refusal::Unauthorized)
            }
        }
    }

    /// `None` = there are no keys yet.
    fn said(
        &self,
        token: &str,
        keys: Option<&KeySet>,
        now: Timestamp,
    ) -> Result<Option<TokenClaims>, Why> {
        let expected = &self.settings.expected;
        let parts = read(token)?;
        parts.check_issuer(expected)?;
        let Some(keys) = keys else { return Ok(None) };
        let signed = parts.signed.as_bytes();
        match keys.verify(parts.algorithm, parts.kid.as_deref(), signed, &parts.signature) {
            Some(true) => parts.said(expected, now).map(Some),
            Some(false) => Err(Why::Signature),
            None => {
                self.unknown.notify_one();
                Err(Why::UnknownKey)
            }
        }
    }

    async fn fetch(self: Arc<Self>) {
        let (client, mut retry) = (Client::default(), FIRST_RETRY);
        loop {
            let issuer = &self.settings.expected.issuer;
            match self.settings.source.load(&client, issuer).await {
                Ok(keys) => {
                    retry = FIRST_RETRY;
                    self.take(keys);
                }
                Err(error) => {
                    metrics::counter!("mcp_issuer_keys_failed_total").increment(1);
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "The issuer's keys could not be fetched");
                }
            }
            if self.has_keys() {
                self.until_wanted().await;
            } else {
                tokio::time::sleep(retry).await;
                retry = (retry * 2).min(self.settings.apart.max(FIRST_RETRY));
            }
        }
    }

    async fn until_wanted(&self) {
        let wanted = async {
            tokio::time::sleep(self.settings.apart).await;
            self.unknown.notified().await;
        };
        // Which of the two it was makes no difference.
        let _ = tokio::time::timeout(REFRESH, wanted).await;
    }

    /// The keys as they are now. Tokens that were checked by others are checked anew.
    fn take(&self, keys: KeySet) {
        let mut held = self.keys.write();
        if held.as_deref() != Some(&keys) {
            *held = Some(Arc::new(keys));
            self.checked.clear();
            tracing::info!("The issuer's keys are known");
        }
    }
}
