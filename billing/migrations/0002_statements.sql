-- Statements: what each tenant owes for each billing period, tied to the provider's sums and invoices.

-- Subscriptions as the provider's copy was last read.
create table subscribed (
    subscription text primary key,
    tenant_id text not null,
    customer text not null,
    status text not null,
    began_at_ms bigint not null,
    -- Where its periods are counted from, and how many months each has.
    anchor_ms bigint not null,
    months integer not null check (months between 1 and 120),
    currency text not null,
    trial_until_ms bigint,
    ended_at_ms bigint,
    -- When the period began that the provider had it in when it was read.
    current_from_ms bigint not null,
    -- Everything before this has a statement; the period that begins here ends at `next_end_ms`.
    stated_to_ms bigint not null,
    next_end_ms bigint not null,
    read_at_ms bigint not null
);
create index subscribed_due on subscribed (next_end_ms);
create index subscribed_of on subscribed (tenant_id);

-- Which plan a subscription was seen on, and when. Terms are a function of the set of these rows.
create table plan_seen (
    subscription text not null,
    at_ms bigint not null,
    plan text not null,
    version bigint not null check (version > 0),
    primary key (subscription, at_ms, plan, version)
);

-- What a price at the provider stands for. It never changes there.
create table price (
    price text primary key,
    metered boolean not null,
    plan text,
    version bigint,
    charge text,
    check ((plan is null) = (version is null) and (plan is null) = (charge is null))
);

-- The provider's final invoices. Only the status of one can change.
create table invoice (
    invoice text primary key,
    customer text not null,
    subscription text,
    status text not null,
    reason text not null,
    currency text not null,
    created_at_ms bigint not null,
    finalized_at_ms bigint not null,
    total_minor bigint not null
);
create index invoice_of on invoice (subscription, created_at_ms);

create table invoice_line (
    invoice text not null references invoice,
    line text not null,
    subscription text,
    price text,
    from_ms bigint not null,
    to_ms bigint not null,
    quantity bigint not null,
    amount_minor bigint not null,
    -- The key of the correction that this line collects, if it does.
    correction text,
    primary key (invoice, line)
);
create index invoice_line_of on invoice_line (subscription, from_ms);
create index invoice_line_correction on invoice_line (correction) where correction is not null;

-- One period of one subscription: due when it has ended, closed once and for ever.
create table statement (
    tenant_id text not null,
    subscription text not null,
    from_ms bigint not null,
    to_ms bigint not null,
    customer text not null,
    currency text not null,
    state text not null default 'due' check (state in ('due', 'closing', 'closed')),
    -- The latest revision of the bill; -1 = there is no bill yet.
    revision integer not null default -1,
    invoice text,
    -- Nothing is done before.
    due_at_ms bigint not null,
    closed_at_ms bigint,
    -- The tie-out as it was last made.
    ledger_units bigint not null default 0,
    summary_units bigint not null default 0,
    invoiced_units bigint not null default 0,
    carried_units bigint not null default 0,
    expected_minor bigint not null default 0,
    invoiced_minor bigint not null default 0,
    verdict text not null default 'open',
    owner text not null default 'nobody',
    detail text not null default '',
    tied_at_ms bigint,
    primary key (tenant_id, subscription, from_ms),
    check (from_ms < to_ms),
    check ((state = 'due') = (revision < 0))
);
create index statement_open on statement (due_at_ms) where state <> 'closed';
create index statement_untied on statement (from_ms) where verdict = 'open';
create index statement_apart on statement (owner) where owner <> 'nobody';

-- Bills, as they were computed: revision 0 closes the period, each later one corrects the one before it. Never changed
-- but for the columns from `published` on.
create table bill (
    tenant_id text not null,
    subscription text not null,
    from_ms bigint not null,
    revision integer not null check (revision >= 0),
    -- `Bill::canonical`; empty where no plan prices the period.
    bill text not null,
    digest text not null,
    total_minor bigint not null,
    -- What it comes to beyond the revision before it.
    difference_minor bigint not null,
    units bigint not null,
    made_at_ms bigint not null,
    -- Whether its fact is on CONTROL.
    published boolean not null default false,
    -- How a correction is collected or paid back.
    collection text not null default 'none' check
        (collection in ('none', 'pending', 'sent', 'issued', 'invoiced', 'credited', 'refused')),
    sent_at_ms bigint,
    provider_id text,
    said text not null default '',
    primary key (tenant_id, subscription, from_ms, revision),
    foreign key (tenant_id, subscription, from_ms) references statement
);
create index bill_open on bill (collection) where collection in ('pending', 'sent', 'issued');

-- In which order the provider took reports: the order of an invoice's units.
create sequence report_accepted;
alter table meter_report add column accepted_no bigint;
alter table meter_report add column billed_subscription text;
-- The revision of the bill that holds the line; none = no bill does yet.
alter table meter_report add column billed_revision integer;
create index meter_report_dated on meter_report (tenant_id, event_s);
-- Lines that no bill holds: those of running periods, and late ones.
create index meter_report_unbilled on meter_report (tenant_id, event_s)
    where billed_revision is null and state <> 'not_reportable';

-- How far each overdue customer was told.
create table dunning (
    tenant_id text primary key,
    customer text not null,
    overdue_since_ms bigint,
    notices integer not null default 0,
    look_again_at_ms bigint
);
create index dunning_due on dunning (look_again_at_ms) where look_again_at_ms is not null;
