//! What the server is told beside the client's message: this node's own credentials, and for whom it asks.
//!
//! What is said here goes over whatever the client said under the same name; the client's own credentials are not
//! passed on at all (`http/headers`). Over HTTP only, the requests that open a stream or a socket included: a child has no
//! headers, and serves one key.

use std::sync::Arc;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use schemas::KeyState;

use super::signer::Signer;
use crate::{access::Grant, clock};

const TENANT: HeaderName = HeaderName::from_static("x-tollbook-tenant");
const PROJECT: HeaderName = HeaderName::from_static("x-tollbook-project");
const ORGANIZATION: HeaderName = HeaderName::from_static("x-tollbook-organization");
const KEY: HeaderName = HeaderName::from_static("x-tollbook-key");
const TIER: HeaderName = HeaderName::from_static("x-tollbook-tier");

/// What goes with every request to the server.
#[derive(Clone, Default)]
pub struct UpstreamHeaders {
    /// This node's credentials at the server.
    pub fixed: HeaderMap,
    /// The caller's tenant, project and key are named.
    pub identity: bool,
    /// The organization that is named then.
    pub organization: Option<HeaderValue>,
    /// A token about the caller, and the header that it goes in.
    pub signer: Option<(HeaderName, Arc<Signer>)>,
}

impl UpstreamHeaders {
    /// Puts it on a request; `None` = nobody's: the node asks for itself.
    pub fn put(&self, grant: Option<&Grant>, to: &mut HeaderMap) {
        for (name, value) in &self.fixed {
            to.insert(name, value.clone());
        }
        let Some(grant) = grant.filter(|_| self.identity || self.signer.is_some()) else { return };
        let state = grant.caller.state();
        if self.identity {
            self.name(&state, to);
        }
        if let Some((name, signer)) = &self.signer {
            to.insert(name, signer.token(grant, &state, clock::wall(), name));
        }
    }

    fn name(&self, state: &KeyState, to: &mut HeaderMap) {
        let value = |id: String| HeaderValue::try_from(id).expect("an id is letters, digits and _");
        to.insert(TENANT, value(state.tenant.to_string()));
        to.insert(PROJECT, value(state.project.to_string()));
        to.insert(KEY, value(state.key.to_string()));
        if let Some(Ok(tier)) = state.tier().map(HeaderValue::from_str) {
            to.insert(TIER, tier);
        }
        if let Some(organization) = &self.organization {
            to.insert(ORGANIZATION, organization.clone());
        }
    }
}
