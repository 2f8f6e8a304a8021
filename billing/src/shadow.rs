//! The shadow: every bill rated again by other rules (a plan's draft, a newer engine), and what differs as rows.
//!
//! `serve` keeps it up when there are drafts; `billing shadow` goes through once, as a newer build beside the one that
//! serves does. Rules are known by a digest over the engine's version and every plan, so a draft that is changed is
//! another shadow. Absent on purpose: any effect on a bill, a statement or anything that others read.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    extract::{Query, State, rejection::QueryRejection},
    http::HeaderMap,
};
use billing_core::{invoice::ENGINE, plan::Book};
use schemas::TenantId;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use crate::{
    clock::now,
    fold::chain,
    problem::Problem,
    router::{Desk, authorize},
    statement::rate,
    store::{
        StoreError,
        shadow::{self, Row},
        statement::bill::Stored,
    },
};

/// Bills that are read at once.
const PAGE: i64 = 250;

/// Other rules.
#[derive(Clone)]
pub struct Shadow {
    pub pool: PgPool,
    pub book: Arc<Book>,
}

impl Shadow {
    /// What the rules are known by, in 64 hexadecimal digits.
    #[must_use]
    pub fn rules(&self) -> String {
        let digest = Sha256::new()
            .chain_update(ENGINE.to_be_bytes())
            .chain_update(self.book.digest())
            .finalize();
        hex::encode(digest)
    }

    /// Rates every bill that has no row yet; gives how many differ of how many.
    ///
    /// # Errors
    /// Any database error; the rows so far stay.
    pub async fn once(&self) -> Result<(usize, usize), StoreError> {
        let rules = self.rules();
        let (mut differ, mut all) = (0, 0);
        loop {
            let page = shadow::unseen(&self.pool, &rules, PAGE).await?;
            if page.is_empty() {
                return Ok((differ, all));
            }
            for stored in &page {
                let row = self.row(&rules, stored).await?;
                differ += usize::from(!row.same);
                all += 1;
                shadow::remember(&self.pool, &row).await?;
            }
        }
    }

    async fn row(&self, rules: &str, stored: &Stored) -> Result<Row, StoreError> {
        let again = rate::again(&self.pool, &self.book, stored, None).await?;
        let was_minor = stored.total.units();
        let (total_minor, same, why_not) = match again.rated {
            Ok(bill) => {
                let same = bill.canonical() == stored.text.as_bytes();
                (Some(bill.total.units()), same, String::new())
            }
            Err(why) => (None, stored.text.is_empty(), why.to_string()),
        };
        Ok(Row {
            rules: rules.to_owned(),
            tenant_id: stored.key.tenant.to_string(),
            subscription: stored.key.subscription.clone(),
            from_ms: stored.key.from.0,
            to_ms: again.frame.to.0,
            revision: i32::try_from(stored.revision).unwrap_or(i32::MAX),
            currency: again.frame.currency,
            total_minor,
            was_minor,
            difference_minor: total_minor.map(|total| total - was_minor),
            same,
            why_not,
            made_at_ms: now().0,
        })
    }

    /// Keeps the shadow up until stopped.
    pub async fn run(&self, every_ms: u32, stop: CancellationToken) {
        while !stop.is_cancelled() {
            match self.once().await {
                Ok((_, 0)) => {}
                Ok((differ, bills)) => tracing::info!(differ, bills, "Rated bills by other rules"),
                Err(error) => tracing::warn!(error = %chain(&error), "The shadow waits"),
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(Duration::from_millis(u64::from(every_ms))) => {}
            }
        }
    }
}

/// Which rows.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    #[serde(default)]
    tenant_id: Option<TenantId>,
    /// One shadow alone.
    #[serde(default)]
    rules: Option<String>,
    /// Also those that are the same.
    #[serde(default)]
    all: bool,
}

/// `GET /billing/shadow`: what other rules would have billed otherwise, the newest first, at most 1,000 rows.
pub async fn read(
    State(desk): State<Desk>,
    headers: HeaderMap,
    query: Result<Query<Asked>, QueryRejection>,
) -> Result<Json<serde_json::Value>, Problem> {
    authorize(&desk, &headers)?;
    let Query(asked) = query.map_err(|rejection| Problem::BadRequest(rejection.body_text()))?;
    let rows = shadow::rows(&desk.pool, asked.tenant_id, asked.rules.as_deref(), asked.all)
        .await
        .map_err(|error| Problem::dependency("PostgreSQL", error))?;
    Ok(Json(serde_json::json!({ "shadow": rows })))
}
