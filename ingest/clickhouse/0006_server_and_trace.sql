-- Which of a node's servers was asked ('' = its only one), and the trace that a call belongs to ('' = none), as tools for
-- traces write them: 32 and 16 hex digits. A call is found by its trace without reading all of the table.
ALTER TABLE usage_events
    ADD COLUMN IF NOT EXISTS server LowCardinality(String),
    ADD COLUMN IF NOT EXISTS trace_id String CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS span_id String CODEC(ZSTD(1)),
    ADD INDEX IF NOT EXISTS ix_trace trace_id TYPE bloom_filter(0.01) GRANULARITY 1,
    MODIFY COLUMN refusal Enum8('none' = 0, 'quota_exhausted' = 1, 'units_held' = 2, 'ledger_unreachable' = 3,
        'cannot_record' = 4, 'rate_limited' = 5, 'tool_not_allowed' = 6, 'key_not_active' = 7, 'upstream_unavailable' = 8);
