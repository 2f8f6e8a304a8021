-- Billing's own schema. Times are whole milliseconds since 1970 (`_ms`), hours whole UTC hours since 1970.

-- How far each fold has come. A stream made anew shows another birth.
create table checkpoint (
    projection text primary key,
    seq bigint not null default 0 check (seq >= 0),
    stream_born_ms bigint
);
insert into checkpoint (projection) values ('control'), ('log'), ('stripe');

-- Tenants as the control log has them: a projection, its writer is the fold of CONTROL alone.
create table tenant (
    tenant_id text primary key,
    billing text not null check (billing in ('stripe', 'none')),
    customer text unique,
    access text check (access in ('active', 'suspended')),
    reason text not null default '',
    subscription text,
    -- The sequence of the last message on `control.subscription.<tenant>` that is folded here.
    decided_seq bigint not null default 0
);

-- When subscriptions began: read from Stripe, where it never changes, before a decision names the subscription.
create table subscription (
    subscription text primary key,
    began_at_ms bigint not null
);

-- Customers made for a checkout, before the control log says that they are linked.
create table made_customer (
    tenant_id text primary key,
    customer text not null unique,
    made_at_ms bigint not null
);

-- One sealed line each: frozen but for the columns from `state` on. Nothing is ever deleted here.
create table meter_report (
    tenant_id text not null,
    meter text not null,
    hour bigint not null,
    segment integer not null,
    revision bigint not null check (revision > 0),
    quantity bigint not null check (quantity > 0),
    -- Where the line stands on LOG.
    log_seq bigint not null,
    -- The second that the provider counts it in.
    event_s bigint not null,
    -- Both are unknown until the tenant's customer is, and then frozen too.
    customer text,
    identifier text unique,
    state text not null check (state in
        ('pending', 'sent', 'ambiguous', 'accepted', 'rejected', 'disputed', 'carried', 'not_reportable')),
    first_sent_at_ms bigint,
    last_sent_at_ms bigint,
    attempts bigint not null default 0,
    server_errors bigint not null default 0,
    due_at_ms bigint not null,
    settled_at_ms bigint,
    -- The provider's last words, or why the line is not reportable.
    said text not null default '',
    primary key (tenant_id, meter, hour, segment, revision),
    check ((customer is null) = (identifier is null)),
    check (customer is not null or state in ('pending', 'not_reportable'))
);
-- In the order in which the outbox takes them: of each lane first what has left before.
create index meter_report_open on meter_report
    (customer, meter, ((state = 'pending')), hour, segment, revision)
    where state in ('pending', 'sent', 'ambiguous') and customer is not null;
create index meter_report_hour on meter_report (customer, meter, hour);

-- What could not be worked on. The message itself stays in its stream.
create table quarantine (
    stream text not null,
    seq bigint not null,
    reason text not null,
    detail text not null,
    at_ms bigint not null,
    primary key (stream, seq)
);
