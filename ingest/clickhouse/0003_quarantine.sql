-- Messages of `LOG` that could not be read, whole, with the reason. Written before the mark of usage_events
-- passes them, so none is ever dropped.
CREATE TABLE IF NOT EXISTS quarantine
(
    src         UInt16,
    stream_seq  UInt64,
    received_at DateTime64(3, 'UTC'),
    subject     String,
    reason      LowCardinality(String),                                  -- a stable word
    detail      String,                                                  -- for people
    payload     String CODEC(ZSTD(3))
)
ENGINE = MergeTree
ORDER BY (src, stream_seq)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, old_parts_lifetime = 480;
