//! The API: a file a noun. Handlers extract, name the command, answer; what they share is here.

pub mod extract;
pub mod keys;
pub mod login;
pub mod projects;
pub mod quotas;
pub mod tenants;
pub mod usage;

use chrono::Utc;
use schemas::{Decision, TenantId, Timestamp};
use serde::Serialize;

use crate::{
    directory::page::{Page, PageOf},
    error::ApiError,
};

/// The time now: the one place in the API that asks for it.
pub(crate) fn now() -> Timestamp {
    Utc::now().into()
}

/// A moment as the API writes it, in RFC 3339.
pub(crate) fn rfc3339(at: Timestamp) -> String {
    at.to_string()
}

/// A page of a list: `next` goes into `after` of the next request; `null` = there is no more.
#[derive(Serialize)]
pub struct Listed<T> {
    items: Vec<T>,
    next: Option<String>,
}

impl<T> Listed<T> {
    fn of<N>(page: Page<N>, view: impl FnMut(N) -> T) -> Self {
        Self {
            items: page.items.into_iter().map(view).collect(),
            next: page.next.map(|seq| seq.to_string()),
        }
    }
}

/// The query of a list that has no other parameter.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListQuery {
    after: Option<String>,
    limit: Option<String>,
}

/// The query of a list that belongs to a tenant.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TenantListQuery {
    tenant_id: String,
    after: Option<String>,
    limit: Option<String>,
}

impl TenantListQuery {
    fn split(self) -> Result<(TenantId, PageOf), ApiError> {
        let tenant = self
            .tenant_id
            .parse()
            .map_err(|error| ApiError::field("tenant_id", format!("is {error}")))?;
        Ok((tenant, page_of(self.after.as_deref(), self.limit.as_deref())?))
    }
}

fn page_of(after: Option<&str>, limit: Option<&str>) -> Result<PageOf, ApiError> {
    let after = after.map_or(Ok(0), str::parse);
    let after =
        after.map_err(|_| ApiError::field("after", "must be the `next` of an earlier page"))?;
    let limit = limit.map_or(Ok(50), str::parse).ok().filter(|limit| (1..=200).contains(limit));
    let limit =
        limit.ok_or_else(|| ApiError::field("limit", "must be a whole number from 1 to 200"))?;
    Ok(PageOf { after, limit })
}

/// The one fact that an answer is made of; a decision of ours always has it.
fn first_fact(decision: &Decision) -> Result<&schemas::ControlFact, ApiError> {
    decision.facts.first().ok_or_else(|| ApiError::bug(Malformed))
}

/// A stored decision is not what our own commands make.
#[derive(Debug, thiserror::Error)]
#[error("a stored decision is not what its command makes")]
struct Malformed;
