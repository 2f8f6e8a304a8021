//! Compare-and-append: an INSERT that carries its own proof of where the table stood.
//!
//! The statement reads the table's mark itself, drops the rows at or below it, and refuses if the mark lies below
//! what its sender knows to be stored. Every INSERT into one table of one stream has the same `query_id`, so the
//! server runs one at a time. Together: whatever arrives late, twice or from a second process changes nothing.

use std::{fmt::Write, time::Duration};

use bytes::Bytes;
use clickhouse::{Client, error::Error};

/// The table ends before what was stored in it: it lost rows while this process ran.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{table} no longer holds message {expected} of the log, which was stored in it: it lost rows"
)]
pub struct Gap {
    pub table: &'static str,
    pub expected: u64,
}

/// Why an attempt did not end well. After anything but `Gap` the same rows can be sent again.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    #[error(transparent)]
    Gap(#[from] Gap),
    /// Another INSERT of this stream runs: an earlier attempt, or another process.
    #[error("another insert runs")]
    Busy,
    /// The rows may be stored, now or later.
    #[error("no certain answer")]
    Unknown(#[source] Error),
}

/// Appends to one table, for one life of the stream.
pub struct Appender {
    client: Client,
    table: &'static str,
    columns: String,
    structure: String,
    src: u16,
    stored: u64,
}

const SEND_TIMEOUT: Duration = Duration::from_secs(30);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// The server's error codes (`ErrorCodes.cpp`): a running query has this id; `throwIf` threw.
const SAME_QUERY_ID: u32 = 216;
const THROWN_IF: u32 = 395;

impl Appender {
    /// Reads where the table stands. `columns` are names and types in the order in which rows are encoded.
    ///
    /// # Errors
    /// When ClickHouse does not answer.
    pub async fn open(
        client: &Client,
        table: &'static str,
        columns: &[(&str, &str)],
        src: u16,
    ) -> Result<Self, Error> {
        let names: Vec<&str> = columns.iter().map(|(name, _)| *name).collect();
        let mut structure = String::new();
        for (name, kind) in columns {
            let comma = if structure.is_empty() { "" } else { ", " };
            write!(structure, "{comma}{name} {}", kind.replace('\'', "\\'"))
                .expect("a String takes all");
        }
        let query = format!("SELECT max(stream_seq) FROM {table} WHERE src = {src}");
        let stored = client.query_raw(&query).fetch_one().await?;
        // One name in all the server, so that no second INSERT of this kind can run beside the first.
        let query_id = format!("ingest:{}.{table}:{src}", client.database().unwrap_or_default());
        let client =
            client.clone().with_setting("query_id", query_id).with_setting("async_insert", "0");
        Ok(Self { client, table, columns: names.join(", "), structure, src, stored })
    }

    /// The last message of the stream that is known to be stored.
    pub fn stored(&self) -> u64 {
        self.stored
    }

    /// Tries once to store rows whose last one belongs to message `last`.
    ///
    /// # Errors
    /// See [`AppendError`].
    pub async fn try_append(&mut self, last: u64, rows: &Bytes) -> Result<(), AppendError> {
        self.insert(rows).await.map_err(|error| self.classify(error))?;
        self.stored = self.stored.max(last);
        Ok(())
    }

    fn classify(&self, error: Error) -> AppendError {
        match code_of(&error) {
            Some(SAME_QUERY_ID) => AppendError::Busy,
            Some(THROWN_IF) => Gap { table: self.table, expected: self.stored }.into(),
            _ => AppendError::Unknown(error),
        }
    }

    async fn insert(&self, rows: &Bytes) -> Result<(), Error> {
        const CHUNK: usize = 1024 * 1024;
        let mut insert = self
            .client
            .insert_formatted_with(self.statement())
            .with_setting("max_insert_threads", "1")
            // One block, so one part, so all or nothing.
            .with_setting("min_insert_block_size_rows", "100000000")
            .with_setting("min_insert_block_size_bytes", "0")
            .with_timeouts(Some(SEND_TIMEOUT), Some(ANSWER_TIMEOUT));
        let mut rest = rows.clone();
        while !rest.is_empty() {
            insert.send(rest.split_to(rest.len().min(CHUNK))).await?;
        }
        insert.end().await
    }

    fn statement(&self) -> String {
        let Self { table, columns, structure, src, stored, .. } = self;
        let mark = format!("(SELECT max(stream_seq) FROM {table} WHERE src = {src})");
        format!(
            "INSERT INTO {table} ({columns}) SELECT {columns} FROM input('{structure}') \
             WHERE stream_seq > {mark} AND throwIf({mark} < {stored}, 'gap') = 0 FORMAT RowBinary"
        )
    }
}

/// The server's own number for an error, as it says it at the beginning of its answer.
pub fn code_of(error: &Error) -> Option<u32> {
    let Error::BadResponse(text) = error else { return None };
    let digits = text.strip_prefix("Code: ")?;
    digits.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_known_by_its_number() {
        let said = |text: &str| code_of(&Error::BadResponse(text.to_owned()));
        assert_eq!(
            said("Code: 216. DB::Exception: Query with id = x is already running."),
            Some(216)
        );
        assert_eq!(said("Code: 395"), Some(395));
        assert_eq!(said("no code: 216"), None);
        assert_eq!(code_of(&Error::TimedOut), None);
    }
}
