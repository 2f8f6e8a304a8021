-- What operators begin, decide and look at.

-- A provisioning that was begun under an idempotency key. Its ids follow from the key; what is kept is what was asked,
-- so that the key cannot be used for something else.
create table provision (
    -- SHA-256 of the key, in hexadecimal digits.
    key_digest text primary key,
    -- SHA-256 of the request, in hexadecimal digits.
    asked_digest text not null,
    tenant_id text not null,
    begun_at_ms bigint not null,
    finished_at_ms bigint
);

-- What was decided of a message in quarantine, and how often it was read again in vain.
alter table quarantine add column tries integer not null default 0;
alter table quarantine add column resolution text check (resolution in ('replayed', 'discarded'));
alter table quarantine add column why text not null default '';
alter table quarantine add column resolved_at_ms bigint;
alter table quarantine add check ((resolution is null) = (resolved_at_ms is null));

-- What other rules would have billed, beside each bill. No bill and no statement follows from it.
create table shadow (
    -- Digest of the rules: the engine's version and every plan.
    rules text not null,
    tenant_id text not null,
    subscription text not null,
    from_ms bigint not null,
    to_ms bigint not null,
    revision integer not null,
    currency text not null,
    -- Null = the rules cannot rate the period; `why_not` says why.
    total_minor bigint,
    was_minor bigint not null,
    difference_minor bigint,
    -- Whether it is the same bill to the last byte.
    same boolean not null,
    why_not text not null default '',
    made_at_ms bigint not null,
    primary key (rules, tenant_id, subscription, from_ms, revision),
    foreign key (tenant_id, subscription, from_ms, revision) references bill
);
create index shadow_differs on shadow (rules, from_ms) where not same;

-- What the provider holds of a period beside what it took from us, as last compared.
create table drift (
    tenant_id text not null,
    subscription text not null,
    meter text not null,
    from_ms bigint not null,
    to_ms bigint not null,
    taken_units bigint not null,
    told_units bigint not null,
    -- Since when the two differ; null = they agree.
    since_ms bigint,
    compared_at_ms bigint not null,
    primary key (subscription, meter, from_ms)
);
create index drift_apart on drift (since_ms) where since_ms is not null;
create index drift_compared on drift (compared_at_ms);
