//! Writes what some messages changed, with the checkpoint, in one transaction.

use ledger_core::{Changes, NodeState, Resolved, ShardState};
use schemas::{KeyState, KeyStatus, NodeId, Period, QuotaKind, QuotaRule, Shard};
use sqlx::{PgConnection, PgPool};

use super::{StoreError, big};

/// How many keys one statement writes at most: a bound on its memory.
const KEYS_AT_ONCE: usize = 10_000;

/// Everything one commit writes, taken out of the state so that folding goes on meanwhile.
pub struct Write {
    shard: Shard,
    from_seq: u64,
    to_seq: u64,
    log_created_ms: i64,
    checkpoint: Checkpoint,
    rows: Vec<(&'static str, String, Option<String>)>,
    keys: Vec<KeyColumns>,
    nodes: Vec<(NodeId, NodeState)>,
    changes: Changes,
}

struct Checkpoint {
    ledger_seq: u64,
    control_seq: u64,
    at_ms: i64,
    closed_through: Option<i64>,
    seals: u64,
    sealed_at_ms: i64,
}

struct KeyColumns {
    view: KeyState,
    /// Its former secrets, as nodes are told of them.
    former: Vec<KeyState>,
    body: String,
}

impl Write {
    /// Gathers the commit that moves the checkpoint from `from_seq` to where the state is.
    #[must_use]
    pub fn gather(
        state: &ShardState,
        changes: Changes,
        from_seq: u64,
        log_created_ms: i64,
    ) -> Self {
        let rows = changes
            .held
            .iter()
            .map(|held| {
                let (kind, id) = held.name();
                (kind, id, state.row(held).map(|row| json(&row)))
            })
            .collect();
        let keys = changes
            .keys
            .iter()
            .filter_map(|key| state.key(*key))
            .map(|(row, view)| {
                let former = row.views_of_former(&view).collect();
                KeyColumns { view, former, body: json(row) }
            })
            .collect();
        let checkpoint = Checkpoint {
            ledger_seq: state.ledger_seq,
            control_seq: state.control_seq,
            at_ms: state.at.0,
            closed_through: state.closed_through.map(|hour| hour.0),
            seals: state.seals,
            sealed_at_ms: state.sealed_at.0,
        };
        let known = |node: &NodeId| Some((node.clone(), state.node(node)?.clone()));
        let nodes = changes.nodes.iter().filter_map(known).collect();
        Self {
            shard: state.shard,
            from_seq,
            to_seq: state.seq,
            log_created_ms,
            checkpoint,
            rows,
            keys,
            nodes,
            changes,
        }
    }

    /// What nodes must hear of it once it is committed: key states, and nodes whose positions moved.
    #[must_use]
    pub fn into_news(self) -> (Vec<KeyState>, Vec<(NodeId, NodeState)>) {
        let told = |key: KeyColumns| key.former.into_iter().chain([key.view]);
        (self.keys.into_iter().flat_map(told).collect(), self.nodes)
    }

    /// Where the checkpoint is after it.
    #[must_use]
    pub fn to_seq(&self) -> u64 {
        self.to_seq
    }

    /// Writes it all, or nothing.
    ///
    /// # Errors
    /// `Fenced` when the checkpoint is not where this owner left it. After any other error the commit may have
    /// landed: load the state again.
    pub async fn commit(&self, pool: &PgPool) -> Result<(), StoreError> {
        let mut tx = pool.begin().await?;
        self.move_checkpoint(&mut tx).await?;
        self.write_rows(&mut tx).await?;
        self.write_keys(&mut tx).await?;
        self.add_hours(&mut tx).await?;
        self.add_uses(&mut tx).await?;
        self.write_notes(&mut tx).await?;
        tx.commit().await?;
        Ok(())
    }

    async fn move_checkpoint(&self, tx: &mut PgConnection) -> Result<(), StoreError> {
        const FIRST: &str = "insert into checkpoint
            (shard, seq, ledger_seq, control_seq, at_ms, closed_through, seals, sealed_at_ms, log_created_ms)
            values ($1, $2, $4, $5, $6, $7, $8, $9, $10) on conflict (shard) do update set
            seq = excluded.seq, ledger_seq = excluded.ledger_seq, control_seq = excluded.control_seq,
            at_ms = excluded.at_ms, closed_through = excluded.closed_through, seals = excluded.seals,
            sealed_at_ms = excluded.sealed_at_ms
            where checkpoint.seq = $3 and checkpoint.log_created_ms = excluded.log_created_ms";
        let c = &self.checkpoint;
        let moved = sqlx::query(FIRST)
            .bind(i32::from(self.shard.0))
            .bind(big(self.to_seq))
            .bind(big(self.from_seq))
            .bind(big(c.ledger_seq))
            .bind(big(c.control_seq))
            .bind(c.at_ms)
            .bind(c.closed_through)
            .bind(big(c.seals))
            .bind(c.sealed_at_ms)
            .bind(self.log_created_ms)
            .execute(tx)
            .await?;
        if moved.rows_affected() == 1 {
            return Ok(());
        }
        Err(StoreError::Fenced { shard: self.shard.0, expected: self.from_seq })
    }

    async fn write_rows(&self, tx: &mut PgConnection) -> Result<(), StoreError> {
        const KEEP: &str = "insert into fold_state (shard, kind, id, body)
            select $1, kind, id, body::jsonb from unnest($2::text[], $3::text[], $4::text[]) as t(kind, id, body)
            on conflict (shard, kind, id) do update set body = excluded.body";
        const DROP: &str =
            "delete from fold_state f using unnest($2::text[], $3::text[]) as t(kind, id)
            where f.shard = $1 and f.kind = t.kind and f.id = t.id";
        let (kept, gone): (Vec<_>, Vec<_>) =
            self.rows.iter().partition(|(_, _, body)| body.is_some());
        if !kept.is_empty() {
            sqlx::query(KEEP)
                .bind(i32::from(self.shard.0))
                .bind(kept.iter().map(|(kind, _, _)| *kind).collect::<Vec<_>>())
                .bind(kept.iter().map(|(_, id, _)| id.as_str()).collect::<Vec<_>>())
                .bind(kept.iter().map(|(_, _, body)| body.as_deref()).collect::<Vec<_>>())
                .execute(&mut *tx)
                .await?;
        }
        if !gone.is_empty() {
            sqlx::query(DROP)
                .bind(i32::from(self.shard.0))
                .bind(gone.iter().map(|(kind, _, _)| *kind).collect::<Vec<_>>())
                .bind(gone.iter().map(|(_, id, _)| id.as_str()).collect::<Vec<_>>())
                .execute(&mut *tx)
                .await?;
        }
        Ok(())
    }

    async fn write_keys(&self, tx: &mut PgConnection) -> Result<(), StoreError> {
        const PUT: &str = "insert into key_state
            (key_id, shard, tenant_id, project_id, digest, status, reason, limited, expires_at_ms, as_of, body)
            select key_id, $1, tenant, project, digest, status, reason, limited, expires_at, as_of, body::jsonb
            from unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::bool[],
                        $9::bigint[], $10::bigint[], $11::text[])
            as t(key_id, tenant, project, digest, status, reason, limited, expires_at, as_of, body)
            on conflict (key_id) do update set
            status = excluded.status, reason = excluded.reason, limited = excluded.limited,
            expires_at_ms = excluded.expires_at_ms, as_of = excluded.as_of, body = excluded.body";
        for keys in self.keys.chunks(KEYS_AT_ONCE) {
            let each = || keys.iter().map(|key| &key.view);
            let status = each().map(|view| status(view.status)).collect::<Result<Vec<_>, _>>()?;
            sqlx::query(PUT)
                .bind(i32::from(self.shard.0))
                .bind(each().map(|view| view.key.to_string()).collect::<Vec<_>>())
                .bind(each().map(|view| view.tenant.to_string()).collect::<Vec<_>>())
                .bind(each().map(|view| view.project.to_string()).collect::<Vec<_>>())
                .bind(each().map(|view| view.digest.to_string()).collect::<Vec<_>>())
                .bind(status)
                .bind(each().map(|view| view.reason.as_str()).collect::<Vec<_>>())
                .bind(each().map(|view| view.limited).collect::<Vec<_>>())
                .bind(each().map(|view| view.expires_at.map(|at| at.0)).collect::<Vec<_>>())
                .bind(each().map(|view| big(view.as_of)).collect::<Vec<_>>())
                .bind(keys.iter().map(|key| key.body.as_str()).collect::<Vec<_>>())
                .execute(&mut *tx)
                .await?;
        }
        Ok(())
    }

    async fn add_hours(&self, tx: &mut PgConnection) -> Result<(), StoreError> {
        const ADD: &str =
            "insert into hour_total (tenant_id, hour, project_id, key_id, meter, shard, quantity)
            select tenant, hour, project, key, meter, $1, quantity
            from unnest($2::text[], $3::bigint[], $4::text[], $5::text[], $6::text[], $7::bigint[])
            as t(tenant, hour, project, key, meter, quantity)
            on conflict (tenant_id, hour, project_id, key_id, meter)
            do update set quantity = hour_total.quantity + excluded.quantity";
        let hours = &self.changes.hours;
        if hours.is_empty() {
            return Ok(());
        }
        sqlx::query(ADD)
            .bind(i32::from(self.shard.0))
            .bind(hours.keys().map(|cell| cell.tenant.to_string()).collect::<Vec<_>>())
            .bind(hours.keys().map(|cell| cell.hour.0).collect::<Vec<_>>())
            .bind(hours.keys().map(|cell| cell.project.to_string()).collect::<Vec<_>>())
            .bind(hours.keys().map(|cell| cell.key.to_string()).collect::<Vec<_>>())
            .bind(hours.keys().map(|cell| cell.meter.to_string()).collect::<Vec<_>>())
            .bind(hours.values().map(|units| big(*units)).collect::<Vec<_>>())
            .execute(tx)
            .await?;
        Ok(())
    }

    async fn add_uses(&self, tx: &mut PgConnection) -> Result<(), StoreError> {
        const ADD: &str = "insert into meter_use
            (scope, meter, rule, period_from, period_to, shard, consumed, outstanding)
            select scope, meter, rule, period_from, period_to, $1, consumed, outstanding
            from unnest($2::text[], $3::text[], $4::text[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[])
            as t(scope, meter, rule, period_from, period_to, consumed, outstanding)
            on conflict (scope, meter, rule, period_from, period_to) do update set
            consumed = meter_use.consumed + excluded.consumed,
            outstanding = meter_use.outstanding + excluded.outstanding";
        let uses = &self.changes.uses;
        if uses.is_empty() {
            return Ok(());
        }
        sqlx::query(ADD)
            .bind(i32::from(self.shard.0))
            .bind(uses.keys().map(|key| key.scope.to_string()).collect::<Vec<_>>())
            .bind(uses.keys().map(|key| key.meter.to_string()).collect::<Vec<_>>())
            .bind(uses.keys().map(|key| key.rule.to_string()).collect::<Vec<_>>())
            .bind(uses.keys().map(|key| key.period.from.0).collect::<Vec<_>>())
            .bind(uses.keys().map(|key| key.period.to.0).collect::<Vec<_>>())
            .bind(uses.values().map(|(consumed, _)| *consumed).collect::<Vec<_>>())
            .bind(uses.values().map(|(_, outstanding)| *outstanding).collect::<Vec<_>>())
            .execute(tx)
            .await?;
        Ok(())
    }

    async fn write_notes(&self, tx: &mut PgConnection) -> Result<(), StoreError> {
        let shard = i32::from(self.shard.0);
        for (hour, (seq, behind)) in &self.changes.closed_hours {
            sqlx::query(
                "insert into hour_closed (shard, hour, behind, seq) values ($1, $2, $3, $4)",
            )
            .bind(shard)
            .bind(hour.0)
            .bind(behind.iter().map(ToString::to_string).collect::<Vec<_>>())
            .bind(big(*seq))
            .execute(&mut *tx)
            .await?;
        }
        for found in &self.changes.quarantined {
            sqlx::query(
                "insert into quarantine (shard, stream, seq, record, reason, payload)
                values ($1, 'LOG', $2, $3, $4, $5)",
            )
            .bind(shard)
            .bind(big(found.seq))
            .bind(big(found.record))
            .bind(&found.reason)
            .bind(found.payload.replace('\0', "\u{fffd}")) // PostgreSQL's text holds no NUL.
            .execute(&mut *tx)
            .await?;
        }
        for Resolved { place, how, seq } in &self.changes.resolved {
            sqlx::query(
                "update quarantine set resolution = $3, resolved_seq = $4
                where stream = 'LOG' and seq = $1 and record = $2",
            )
            .bind(big(place.0))
            .bind(big(place.1))
            .bind(*how)
            .bind(big(*seq))
            .execute(&mut *tx)
            .await?;
        }
        for (seq, quota, period, percent) in &self.changes.crossings {
            self.write_crossing(&mut *tx, *seq, quota, (*period, *percent)).await?;
        }
        for anomaly in &self.changes.anomalies {
            sqlx::query("insert into anomaly (shard, seq, kind, detail) values ($1, $2, $3, $4)")
                .bind(shard)
                .bind(big(anomaly.seq))
                .bind(anomaly.kind)
                .bind(&anomaly.detail)
                .execute(&mut *tx)
                .await?;
        }
        Ok(())
    }

    async fn write_crossing(
        &self,
        tx: &mut PgConnection,
        seq: u64,
        quota: &QuotaRule,
        (period, percent): (Period, u8),
    ) -> Result<(), StoreError> {
        const SAY: &str = "insert into threshold
            (scope, meter, rule, period_from, period_to, percent, kind, \"limit\", shard, seq)
            values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) on conflict do nothing";
        let kind = match quota.kind {
            QuotaKind::Hard => "hard",
            QuotaKind::Soft => "soft",
        };
        sqlx::query(SAY)
            .bind(quota.scope.to_string())
            .bind(quota.meter.to_string())
            .bind(quota.period.to_string())
            .bind(period.from.0)
            .bind(period.to.0)
            .bind(i32::from(percent))
            .bind(kind)
            .bind(big(quota.limit.0))
            .bind(i32::from(self.shard.0))
            .bind(big(seq))
            .execute(tx)
            .await?;
        Ok(())
    }
}

/// Remembers that all key states up to `seq` are in their bucket.
///
/// # Errors
/// PostgreSQL.
pub async fn set_published(pool: &PgPool, shard: Shard, seq: u64) -> Result<(), StoreError> {
    sqlx::query(
        "update checkpoint set published_seq = greatest(published_seq, $2) where shard = $1",
    )
    .bind(i32::from(shard.0))
    .bind(big(seq))
    .execute(pool)
    .await?;
    Ok(())
}

/// A key's status as it is stored: the word that nodes are told.
fn status(status: KeyStatus) -> Result<String, StoreError> {
    match serde_json::to_value(status).map_err(|error| StoreError::Row(error.to_string()))? {
        serde_json::Value::String(word) => Ok(word),
        other => Err(StoreError::Row(format!("a status that is no word: {other}"))),
    }
}

/// A row as JSON.
fn json(row: &impl serde::Serialize) -> String {
    serde_json::to_string(row).expect("rows have text keys and plain values: they always serialize")
}
