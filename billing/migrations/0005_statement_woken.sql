-- How often a statement was woken: a reader that puts it off says which count it saw, and misses no invoice.
alter table statement add column woken bigint not null default 0;
