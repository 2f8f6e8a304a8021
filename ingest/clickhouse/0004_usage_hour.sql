-- Usage by hour of the event. Rows of one cell may be unmerged: always sum(), max() and ...Merge() them.
-- Rows of the nil tenant are the marks: everything of that month up to seq_hi is in. TRUNCATE both tables
-- with ingest stopped and it is built again.
CREATE TABLE IF NOT EXISTS usage_hour
(
    tenant_id  UUID,
    project_id UUID,
    key_id     UUID,
    tool       LowCardinality(String),
    hour       DateTime('UTC') CODEC(Delta(4), ZSTD(1)),
    src        UInt16,
    calls      SimpleAggregateFunction(sum, UInt64) CODEC(T64, ZSTD(1)), -- billable
    free       SimpleAggregateFunction(sum, UInt64) CODEC(T64, ZSTD(1)), -- answered, not billable
    refused    SimpleAggregateFunction(sum, UInt64) CODEC(T64, ZSTD(1)),
    bytes_in   SimpleAggregateFunction(sum, UInt64) CODEC(T64, ZSTD(1)),
    bytes_out  SimpleAggregateFunction(sum, UInt64) CODEC(T64, ZSTD(1)),
    seq_hi     SimpleAggregateFunction(max, UInt64) CODEC(Delta(8), ZSTD(1)),
    duration   AggregateFunction(quantilesTiming(0.5, 0.95, 0.99), UInt32) CODEC(ZSTD(1)) -- milliseconds
)
ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMM(hour)
ORDER BY (tenant_id, project_id, key_id, tool, hour, src)
SETTINGS old_parts_lifetime = 480;

-- How far the rollup as a whole has come: everything up to stream_seq is in it. For "as of", not for correctness.
CREATE TABLE IF NOT EXISTS rollup_progress
(
    rollup      LowCardinality(String),
    src         UInt16,
    stream_seq  SimpleAggregateFunction(max, UInt64),
    received_at SimpleAggregateFunction(max, DateTime64(3, 'UTC'))
)
ENGINE = AggregatingMergeTree
ORDER BY (rollup, src);
