-- One row a record that a node wrote, in the words of `schemas::fact::usage`. All of `LOG` that was read
-- shows in `max(stream_seq)`: where the last message read has no rows of its own, a row `mark` stands for it.
--
-- One INSERT is one part, so it must stay inside one partition: the month of `received_at`, which the writer
-- never mixes. No deduplication window, no materialised view: both can lose rows when the server is killed.
CREATE TABLE IF NOT EXISTS usage_events
(
    src         UInt16,                                                  -- incarnation of the stream, see stream_incarnations
    stream_seq  UInt64 CODEC(Delta(8), ZSTD(1)),                         -- of the message that brought the record
    received_at DateTime64(3, 'UTC') CODEC(Delta(8), ZSTD(1)),           -- when the stream stored that message
    node        LowCardinality(String),                                  -- node, epoch, shard, seq: the position
    epoch       UInt64 CODEC(Delta(8), ZSTD(1)),
    shard       UInt16 CODEC(ZSTD(1)),
    seq         UInt64 CODEC(Delta(8), ZSTD(1)),
    record      Enum8('mark' = 0, 'usage' = 1, 'refused' = 2, 'lease_closed' = 3, 'epoch_ended' = 4),
    at          DateTime64(3, 'UTC') CODEC(Delta(8), ZSTD(1)),           -- event time; received_at where a record has none
    tenant_id   UUID,                                                    -- the nil UUID where a record names none
    project_id  UUID,
    key_id      UUID,
    lease_id    UUID,
    method      LowCardinality(String),
    tool        LowCardinality(String),
    outcome     Enum8('none' = 0, 'success' = 1, 'tool_error' = 2, 'protocol_error' = 3, 'input_required' = 4,
                      'task_created' = 5, 'upstream_error' = 6, 'timeout' = 7, 'cancelled' = 8),
    refusal     Enum8('none' = 0, 'quota_exhausted' = 1, 'units_held' = 2, 'ledger_unreachable' = 3,
                      'cannot_record' = 4, 'rate_limited' = 5, 'tool_not_allowed' = 6, 'key_not_active' = 7),
    calls       UInt64 CODEC(T64, ZSTD(1)),                              -- calls the record stands for: 1, or those refused
    tool_calls  UInt64 CODEC(T64, ZSTD(1)),                              -- billable units of the default meter
    quantities  Map(LowCardinality(String), UInt64),                     -- usage: other meters; lease_closed: what was spent
    duration_us UInt64 CODEC(T64, ZSTD(1)),
    bytes_in    UInt64 CODEC(T64, ZSTD(1)),
    bytes_out   UInt64 CODEC(T64, ZSTD(1)),
    INDEX ix_seq stream_seq TYPE minmax GRANULARITY 1,
    INDEX ix_at at TYPE minmax GRANULARITY 1,
    PROJECTION hw (SELECT src, max(stream_seq), count() GROUP BY src)    -- makes the mark a look-up
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(received_at)
ORDER BY (tenant_id, project_id, tool, at)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1, old_parts_lifetime = 480;
