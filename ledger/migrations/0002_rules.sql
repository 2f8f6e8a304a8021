-- Counters by any period rule, what is told of quotas, and what becomes of what is in quarantine.

-- The view is built on columns that change.
drop view quota_use;

alter table meter_use add column rule text not null default 'month'; -- month, day, anchored.<ms>.<months>
alter table meter_use alter column rule drop default;
alter table meter_use drop constraint meter_use_pkey;
alter table meter_use add primary key (scope, meter, rule, period_from, period_to);

-- What each hard or soft quota has left, in its periods so far.
create view quota_use as
select u.scope, u.meter, u.rule, u.period_from, u.period_to, (q.body -> 'quota' -> 'row' ->> 'limit')::bigint as "limit",
       q.body -> 'quota' -> 'row' ->> 'kind' as kind, u.consumed, u.outstanding
from meter_use u
join fold_state q on q.shard = u.shard and q.kind = 'quota' and q.id = u.scope || '/' || u.meter || '/' || u.rule;

-- Quotas that reached 80 or 100 % of their limit, as the ledger said it.
create table threshold (
    scope       text    not null,
    meter       text    not null,
    rule        text    not null,
    period_from bigint  not null,
    period_to   bigint  not null,
    percent     integer not null,
    kind        text    not null,            -- hard, soft
    "limit"     bigint  not null,            -- as it was then
    shard       integer not null,
    seq         bigint  not null,            -- the sequence of LOG that says so
    primary key (scope, meter, rule, period_from, percent, seq)
);

alter table quarantine add column resolution text;    -- discarded, counted, replayed; null = it waits for a person
alter table quarantine add column resolved_seq bigint; -- the sequence of LOG that says so
