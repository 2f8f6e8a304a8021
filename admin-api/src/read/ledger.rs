//! The ledger's own count, from its read model in PostgreSQL.

use schemas::{Shard, TOOL_CALLS, TenantId};
use sqlx::PgPool;

use super::span::Span;

/// The ledger's read model, for reading.
#[derive(Clone)]
pub struct Ledger {
    pool: PgPool,
    shards: u16,
}

/// What the ledger has counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LedgerCount {
    /// Billable calls.
    pub calls: u64,
    /// The sequence on `LOG` that the tenant's shard has reached; 0 = none yet.
    pub as_of_seq: u64,
}

impl Ledger {
    /// `shards`: how many the log was born with.
    pub fn new(pool: PgPool, shards: u16) -> Self {
        Self { pool, shards }
    }

    /// What the ledger has counted of a tenant in a span, and as of when: both of one moment.
    ///
    /// # Errors
    /// PostgreSQL does not answer, or the ledger has not made its tables.
    pub async fn count(&self, tenant: TenantId, span: Span) -> Result<LedgerCount, sqlx::Error> {
        const QUERY: &str = "select (select coalesce(sum(quantity), 0)::bigint from hour_total \
                               where tenant_id = $1 and meter = $2 and hour >= $3 and hour < $4), \
                             coalesce((select seq from checkpoint where shard = $5), 0)::bigint";
        let shard = Shard::of(tenant, self.shards);
        let (calls, seq): (i64, i64) = sqlx::query_as(QUERY)
            .bind(tenant.to_string())
            .bind(TOOL_CALLS)
            .bind(span.from.0)
            .bind(span.to.0)
            .bind(i32::from(shard.0))
            .fetch_one(&self.pool)
            .await?;
        let whole = |number: i64| {
            u64::try_from(number).map_err(|error| sqlx::Error::Decode(Box::new(error)))
        };
        Ok(LedgerCount { calls: whole(calls)?, as_of_seq: whole(seq)? })
    }
}
