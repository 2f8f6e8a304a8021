-- Which life of the stream a `src` number stands for: a stream that is made anew counts its sequences from 1
-- again, so its rows must never be compared with those of its predecessor.
CREATE TABLE IF NOT EXISTS stream_incarnations
(
    src        UInt16,
    stream     LowCardinality(String),
    created_at DateTime64(3, 'UTC'),                                     -- as the stream itself says
    noted_at   DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC')
)
ENGINE = MergeTree
ORDER BY (stream, src)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;
