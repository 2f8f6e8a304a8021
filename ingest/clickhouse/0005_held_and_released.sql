-- held: an event that cannot be counted as it stands (too new, too old, too much); it keeps its position and counts for
-- nothing, as in the ledger. released: an event that a person counted out of quarantine; it has no position of its own.
ALTER TABLE usage_events MODIFY COLUMN record Enum8('mark' = 0, 'usage' = 1, 'refused' = 2, 'lease_closed' = 3,
    'epoch_ended' = 4, 'held' = 5, 'released' = 6);
