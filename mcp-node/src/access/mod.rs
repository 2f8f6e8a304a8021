//! Who may do what at this node: what its tools need, and what a caller holds of it.
//!
//! One [`Access`] stands for the node's configuration; a [`Grant`] for what one request may do. Absent on purpose: the
//! state of keys (`keys`), and how much a key may call (`meter`).

mod authenticate;
mod cache;
pub mod issuer;
mod resource;
mod shown;

use std::sync::Arc;

use mcp_node_core::{
    Refusal, gate,
    scope::{HeldScopes, ToolScopes},
};
use schemas::KeyState;
use tokio_util::sync::CancellationToken;

pub(crate) use self::cache::Cache;
pub use self::{
    issuer::{Issuer, IssuerSettings},
    resource::{NotAnAddress, Resource, WELL_KNOWN},
    shown::ToolListFilter,
};
use crate::keys::KeyEntry;

/// What the operator says of who may do what.
#[derive(Clone, Debug, Default)]
pub struct AccessSettings {
    /// The scopes that tools need.
    pub needs: ToolScopes,
    /// Whose tokens may name API keys.
    pub issuer: Option<IssuerSettings>,
    /// How clients find the issuer.
    pub resource: Option<Resource>,
}

/// What the node knows of who may do what.
#[derive(Default)]
pub struct Access {
    /// The scopes that tools need.
    pub needs: ToolScopes,
    pub issuer: Option<Arc<Issuer>>,
    pub resource: Option<Resource>,
}

/// What a request may do: its key, and what a token leaves of the key's rights.
#[derive(Clone)]
pub struct Grant {
    pub caller: Arc<KeyEntry>,
    /// The scopes of the token that it came with; `None` = it came with the key itself.
    pub scopes: Option<Arc<[String]>>,
}

impl Grant {
    /// All that the key may do.
    #[must_use]
    pub fn of_key(caller: Arc<KeyEntry>) -> Self {
        Self { caller, scopes: None }
    }

    /// The scopes that cover what it may do; `*` = everything.
    #[must_use]
    pub fn effective(&self, state: &KeyState) -> Vec<String> {
        self.held(state).effective()
    }

    fn held<'a>(&'a self, state: &'a KeyState) -> HeldScopes<'a> {
        HeldScopes { key: &state.scopes, token: self.scopes.as_deref() }
    }
}

impl Access {
    /// Begins to learn what must be learnt, until `stop`. Must be called within the runtime.
    #[must_use]
    pub fn start(settings: AccessSettings, stop: &CancellationToken) -> Self {
        let AccessSettings { needs, issuer, resource } = settings;
        let issuer = issuer.map(|issuer| Issuer::start(issuer, stop));
        Self { needs, issuer, resource }
    }

    /// As the settings are now, until `stop`. An issuer that is still the same keeps its keys; another one is left alone
    /// from now on, and serves only the requests that began under it.
    #[must_use]
    pub fn changed(&self, settings: AccessSettings, stop: &CancellationToken) -> Self {
        let kept =
            |known: &&Arc<Issuer>| settings.issuer.as_ref().is_some_and(|now| known.is_of(now));
        match self.issuer.as_ref().filter(kept).cloned() {
            None => {
                self.issuer.iter().for_each(|issuer| issuer.stop());
                Self::start(settings, stop)
            }
            issuer => Self { needs: settings.needs, issuer, resource: settings.resource },
        }
    }

    /// Whether a request may call a tool.
    ///
    /// # Errors
    /// The key has a list of tools and this is none of them, or the caller lacks the scope that it needs.
    pub fn check(&self, grant: &Grant, tool: &str) -> Result<(), Refusal> {
        if self.needs.is_empty() {
            return Ok(()); // The key's list of tools is looked at when the call is admitted.
        }
        let state = grant.caller.state();
        gate::check_tool(&state, tool)?;
        gate::check_scope(&self.needs, grant.held(&state), tool)
    }

    /// What a request is shown of the tools that there are; `None` = all.
    #[must_use]
    pub fn shown(self: &Arc<Self>, grant: &Grant, modern: bool) -> Option<ToolListFilter> {
        let state = grant.caller.state();
        let by_scope = !self.needs.is_empty() && grant.held(&state).is_bounded();
        (state.tools.is_some() || by_scope)
            .then(|| ToolListFilter::new(self.clone(), grant.clone(), modern))
    }
}

#[cfg(test)]
mod tests {
    use mcp_node_core::token::Expected;

    use super::*;

    fn settings(issuer: &str) -> AccessSettings {
        let expected = Expected {
            issuer: issuer.to_owned(),
            audience: "here".to_owned(),
            key_claim: "tollbook_key".to_owned(),
        };
        let source = issuer::Source::File("/nowhere/jwks.json".into());
        let issuer = IssuerSettings { expected, source, apart: std::time::Duration::from_secs(30) };
        AccessSettings { issuer: Some(issuer), ..AccessSettings::default() }
    }

    #[tokio::test]
    async fn an_issuer_that_is_the_same_stays_with_its_keys_and_another_is_begun_anew() {
        let closing = CancellationToken::new();
        let before = Access::start(settings("one"), &closing);
        let kept = before.changed(settings("one"), &closing);
        let issuer = |access: &Access| access.issuer.clone().unwrap();
        assert!(Arc::ptr_eq(&issuer(&before), &issuer(&kept)) && !issuer(&kept).is_stopped());
        let other = kept.changed(settings("two"), &closing);
        assert!(issuer(&kept).is_stopped() && !issuer(&other).is_stopped());
        let none = other.changed(AccessSettings::default(), &closing);
        assert!(none.issuer.is_none() && issuer(&other).is_stopped());
    }
}
