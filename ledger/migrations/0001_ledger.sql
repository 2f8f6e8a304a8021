-- The ledger's schema. `fold_state` is the fold's own memory, private to the ledger; the other tables are what others may read.
-- Ids are their text form (tnt_..., prj_..., key_...); times are milliseconds since 1970; hours are hours since 1970.

create table checkpoint (
    shard          integer primary key,
    seq            bigint not null,           -- the last sequence of LOG folded
    ledger_seq     bigint not null,           -- the last of them on ledger.<shard>
    control_seq    bigint not null,           -- the last sequence of CONTROL taken in
    at_ms          bigint not null,           -- the ledger's time of its last fact
    closed_through bigint,                    -- every hour up to here is closed
    seals          bigint not null,
    sealed_at_ms   bigint not null,
    published_seq  bigint not null default 0, -- key states up to here are in the bucket `keys`
    log_created_ms bigint not null            -- which LOG this is a checkpoint of
);

create table fold_state (
    shard integer not null,
    kind  text    not null,
    id    text    not null,
    body  jsonb   not null,
    primary key (shard, kind, id)
);

create table key_state (
    key_id        text primary key,
    shard         integer not null,
    tenant_id     text not null,
    project_id    text not null,
    digest        text not null unique,
    status        text not null,             -- pending, active, suspended, revoked
    reason        text not null,
    limited       boolean not null,
    expires_at_ms bigint,
    as_of         bigint not null,           -- the sequence of LOG that made it so
    body          jsonb not null             -- the fold's own row
);
create index key_state_tenant on key_state (tenant_id);
create index key_state_published on key_state (shard, as_of);

create table meter_use (
    scope       text    not null,            -- tnt_..., prj_... or key_...
    meter       text    not null,
    period_from bigint  not null,
    period_to   bigint  not null,
    shard       integer not null,
    consumed    bigint  not null,
    outstanding bigint  not null,
    primary key (scope, meter, period_from, period_to)
);
create index meter_use_shard on meter_use (shard, period_to);

create table hour_total (
    tenant_id  text    not null,
    hour       bigint  not null,
    project_id text    not null,
    key_id     text    not null,
    meter      text    not null,
    shard      integer not null,
    quantity   bigint  not null,
    primary key (tenant_id, hour, project_id, key_id, meter)
);

create table hour_closed (
    shard  integer not null,
    hour   bigint  not null,
    behind text[]  not null,                 -- the nodes whose settled leases stood behind the closing
    seq    bigint  not null,
    primary key (shard, hour)
);

create table quarantine (
    shard    integer not null,
    stream   text    not null,
    seq      bigint  not null,
    record   bigint  not null,               -- the record's position; 0 = the whole message
    reason   text    not null,
    payload  text    not null,
    found_at timestamptz not null default now(),
    primary key (stream, seq, record)
);

create table anomaly (
    id       bigint generated always as identity primary key,
    shard    integer not null,
    seq      bigint  not null,
    kind     text    not null,
    detail   text    not null,
    found_at timestamptz not null default now()
);

-- What each hard or soft quota has left, in its periods so far.
create view quota_use as
select u.scope, u.meter, u.period_from, u.period_to, (q.body -> 'quota' -> 'row' ->> 'limit')::bigint as "limit", u.consumed, u.outstanding
from meter_use u
join fold_state q on q.shard = u.shard and q.kind = 'quota' and q.id like u.scope || '/' || u.meter || '/%';
