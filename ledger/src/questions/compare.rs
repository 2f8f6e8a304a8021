//! Compares two schemas of the ledger, table by table and row by row, and names what differs.
//!
//! The tables are those that the rebuilt schema has, so a table that is added later is compared without a word
//! here; what is no function of the log is listed in [`NOT_OF_THE_LOG`], and nothing else is left out.

use futures::StreamExt;
use sha2::{Digest, Sha256};
use sqlx::{AssertSqlSafe, PgConnection};

use super::{QuestionError, merge::merge};

/// Columns that say when or in which order something was stored, or what was told to others, and why they differ
/// between two folds of one log: numbers given by the database, its clock, and how far the bucket `keys` has come.
const NOT_OF_THE_LOG: [&str; 3] = ["found_at", "id", "published_seq"];
/// The only `id` that is a number of the database: everywhere else an id is the state's own.
const NUMBERED: &str = "anomaly";
/// How many differing rows of a table are named.
const MAX_NAMED: usize = 5;

/// A table's name and the columns of its primary key, both quoted for SQL.
struct Table {
    name: String,
    key: Vec<String>,
}

/// A row that is not the same on both sides; `None` = it is not there.
#[derive(Clone, Debug)]
pub(super) struct Differing {
    pub key: String,
    pub live: Option<String>,
    pub rebuilt: Option<String>,
}

/// One table of both sides.
#[derive(Debug)]
pub(super) struct Compared {
    pub table: String,
    pub live: Side,
    pub rebuilt: Side,
    pub differences: u64,
    /// The first of them.
    pub first: Vec<Differing>,
}

/// How many rows, and the digest of them in order.
#[derive(Clone, Debug, Default)]
pub(super) struct Side {
    pub rows: u64,
    digest: Sha256,
}

impl Side {
    fn add(&mut self, row: Option<&str>) {
        if let Some(row) = row {
            self.rows += 1;
            self.digest.update(row.as_bytes());
            self.digest.update(b"\n");
        }
    }

    /// SHA-256 over the rows, each with a newline, in hexadecimal.
    pub fn digest(&self) -> String {
        hex::encode(self.digest.clone().finalize())
    }
}

/// Compares all tables. The connections see one schema each (`search_path`), at one snapshot.
///
/// # Errors
/// PostgreSQL, or a live schema that lacks a table.
pub(super) async fn compare(
    live: &mut PgConnection,
    rebuilt: &mut PgConnection,
) -> Result<Vec<Compared>, QuestionError> {
    let mut found = Vec::new();
    for table in tables(rebuilt).await? {
        found.push(compare_table(live, rebuilt, &table).await?);
    }
    Ok(found)
}

async fn tables(connection: &mut PgConnection) -> Result<Vec<Table>, sqlx::Error> {
    const TABLES: &str = "select quote_ident(c.relname), array(
            select quote_ident(a.attname) from pg_index i, unnest(i.indkey) with ordinality k(number, place)
            join pg_attribute a on a.attrelid = c.oid and a.attnum = k.number
            where i.indrelid = c.oid and i.indisprimary order by k.place)
        from pg_class c join pg_namespace n on n.oid = c.relnamespace
        where n.nspname = current_schema() and c.relkind in ('r', 'p') and not c.relispartition
        and c.relname <> '_sqlx_migrations' order by c.relname";
    let rows: Vec<(String, Vec<String>)> = sqlx::query_as(TABLES).fetch_all(connection).await?;
    Ok(rows.into_iter().map(|(name, key)| Table { name, key }).collect())
}

async fn compare_table(
    live: &mut PgConnection,
    rebuilt: &mut PgConnection,
    table: &Table,
) -> Result<Compared, QuestionError> {
    let left_out = left_out(&table.name);
    let query = rows_query(table, &left_out);
    let rows = |connection| {
        sqlx::query_as::<_, (String, String)>(AssertSqlSafe(query.clone()))
            .bind(left_out.clone())
            .fetch(connection)
            .boxed()
    };
    let mut compared = Compared {
        table: table.name.clone(),
        live: Side::default(),
        rebuilt: Side::default(),
        differences: 0,
        first: Vec::new(),
    };
    merge(rows(live), rows(rebuilt), |key, live, rebuilt| {
        compared.live.add(live.as_deref());
        compared.rebuilt.add(rebuilt.as_deref());
        if live != rebuilt {
            compared.differences += 1;
            if compared.first.len() < MAX_NAMED {
                compared.first.push(Differing { key, live, rebuilt });
            }
        }
    })
    .await?;
    Ok(compared)
}

fn left_out(table: &str) -> Vec<String> {
    let of_table = |column: &&str| *column != "id" || table == NUMBERED;
    NOT_OF_THE_LOG.into_iter().filter(of_table).map(ToOwned::to_owned).collect()
}

/// Each row's key and body as canonical JSON, in the order of their bytes. A table whose key is a number of the
/// database is keyed by the whole body.
fn rows_query(Table { name, key }: &Table, left_out: &[String]) -> String {
    let body = "(to_jsonb(t) - $1::text[])::text";
    let key = if key.is_empty() || key.iter().any(|column| left_out.contains(column)) {
        body.to_owned()
    } else {
        let columns: Vec<String> = key.iter().map(|column| format!("t.{column}")).collect();
        format!("jsonb_build_array({})::text", columns.join(", "))
    };
    format!("select {key}, {body} from {name} t order by {key} collate \"C\", {body} collate \"C\"")
}
