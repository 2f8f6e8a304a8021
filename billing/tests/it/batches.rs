//! Statements that are closed together: a kill between any two steps of the batch, and one that cannot be closed.

use schemas::TenantId;
use stack::{Part, Service};

use crate::{statements::SOON, world::World};

const TENANTS: usize = 3;
/// The batch stands at a step in the database for as long as it takes to be killed.
const STAND: &str = "create function stand() returns trigger language plpgsql
    as $$ begin perform pg_sleep(600); return new; end $$";

/// Lets the months of three tenants end while the database stands still at a step; gives the tenants.
async fn stand_at(world: &World, trigger: &'static str) -> Vec<TenantId> {
    world.sql(STAND).await;
    world.sql(trigger).await;
    let all = world.months_have_ended(TENANTS).await;
    world
        .until("the batch stands still", async || {
            let sql = "select count(*) from pg_stat_activity where wait_event = 'PgSleep'";
            let standing: i64 = sqlx::query_scalar(sql).fetch_one(&world.pool).await.unwrap();
            standing > 0
        })
        .await;
    all.into_iter().map(|(tenant, _)| tenant).collect()
}

/// Kills billing, clears the way, starts it again and looks for one closing of each tenant.
async fn kill_and_go_on(world: &World, billing: &mut Service, tenants: &[TenantId]) {
    billing.kill().await.unwrap();
    world
        .sql("select pg_terminate_backend(pid) from pg_stat_activity where wait_event = 'PgSleep'")
        .await;
    world.sql("drop function stand cascade").await;
    billing.start_again().await.unwrap();
    for tenant in tenants {
        let statement = world.until_statement(*tenant, "ties", 0).await;
        assert_eq!(statement["state"], "closed");
        assert_eq!(statement["bills"].as_array().unwrap().len(), 1, "{statement}");
    }
    assert_eq!(world.closed().await.len(), TENANTS, "each is one fact");
    let billed: i64 = sqlx::query_scalar("select sum(units)::bigint from bill")
        .fetch_one(&world.pool)
        .await
        .unwrap();
    assert_eq!(billed, 12 * 3);
    world.assert_valid().await;
}

async fn count(world: &World, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql).fetch_one(&world.pool).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_while_a_batch_is_frozen_leaves_nothing_half_done() {
    let world = World::new().await;
    let mut billing = world.start_with(&SOON).await;
    let trigger = "create trigger stand before update of billed_revision on meter_report
        for each row when (new.billed_revision is not null) execute function stand()";
    let tenants = stand_at(&world, trigger).await;
    // Statements were moved and bills were written, but in a transaction that never ended.
    assert_eq!(count(&world, "select count(*) from bill").await, 0);
    assert_eq!(world.closed().await.len(), 0);
    kill_and_go_on(&world, &mut billing, &tenants).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_between_the_facts_of_a_batch_and_their_mark_publishes_nothing_twice() {
    let world = World::new().await;
    let mut billing = world.start_with(&SOON).await;
    let trigger = "create trigger stand before update of published on bill
        for each row execute function stand()";
    let tenants = stand_at(&world, trigger).await;
    let frozen = count(&world, "select count(*) from bill where not published").await;
    assert!(frozen > 0, "a batch is frozen");
    assert_eq!(i64::try_from(world.closed().await.len()).unwrap(), frozen, "and on the log");
    kill_and_go_on(&world, &mut billing, &tenants).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_between_a_closed_batch_and_its_tie_out_ties_it_later() {
    let world = World::new().await;
    let mut billing = world.start_with(&SOON).await;
    let trigger = "create trigger stand before update of tied_at_ms on statement
        for each row execute function stand()";
    let tenants = stand_at(&world, trigger).await;
    let open = "select count(*) from statement where state = 'closed' and verdict = 'open'";
    assert!(count(&world, open).await > 0, "closed, and not tied");
    kill_and_go_on(&world, &mut billing, &tenants).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_cannot_be_closed_keeps_no_other_of_its_batch_open() {
    let world = World::new().await;
    let _billing = world.start_with(&SOON).await;
    // All at once, so that they are one batch; the tenant whose bill is refused is the first by name.
    world.sql("create function refuse() returns trigger language plpgsql as $$ begin
        if new.tenant_id = (select min(tenant_id) from tenant) then raise 'refused' using errcode = '23514'; end if;
        return new; end $$").await;
    world
        .sql("create trigger refuse before insert on bill for each row execute function refuse()")
        .await;
    let mut tenants: Vec<TenantId> =
        world.months_have_ended(TENANTS).await.into_iter().map(|(tenant, _)| tenant).collect();
    tenants.sort();
    for tenant in &tenants[1..] {
        world.until_statement(*tenant, "ties", 0).await;
    }
    let refused = world.statements(tenants[0]).await;
    assert_eq!((&refused[0]["state"], &refused[0]["revision"]), (&"due".into(), &(-1).into()));
    world.sql("drop function refuse cascade").await;
    world.until_statement(tenants[0], "ties", 0).await;
    assert_eq!(world.closed().await.len(), TENANTS);
    world.assert_valid().await;
}
