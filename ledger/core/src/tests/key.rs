use schemas::{Access, BillingMode, ControlFact, KeyStatus, Scope};

use crate::testing::{KEY, TENANT, World, quota};

fn status(world: &World) -> KeyStatus {
    world.state.key(KEY).unwrap().1.status
}

#[test]
fn a_key_follows_its_tenants_subscription() {
    let mut world = World::new();
    assert_eq!(status(&world), KeyStatus::Active, "billed by nobody");
    world.access(Access::Suspended);
    assert_eq!(status(&world), KeyStatus::Suspended);
    world.access(Access::Active);
    assert_eq!(status(&world), KeyStatus::Active);
    world.control(vec![ControlFact::KeyRevoked { key: KEY }]);
    world.access(Access::Active);
    assert_eq!(status(&world), KeyStatus::Revoked, "nothing brings a revoked key back");
}

#[test]
fn a_key_of_a_tenant_that_stripe_bills_waits_for_its_subscription() {
    let mut world = World::new();
    let tenant = schemas::TenantId(uuid::Uuid::from_u128(77));
    let key = schemas::KeyId(uuid::Uuid::from_u128(78));
    let mut fact = World::key_fact(key);
    if let ControlFact::KeyCreated { tenant: of, .. } = &mut fact {
        *of = tenant;
    }
    let billing = BillingMode::Stripe;
    world.control(vec![
        ControlFact::TenantCreated { tenant, name: "s".into(), time_zone: "UTC".into(), billing },
        fact,
    ]);
    assert_eq!(world.state.key(key).unwrap().1.status, KeyStatus::Pending);
    let access = Access::Active;
    let reason = "subscription active".to_owned();
    world.control(vec![ControlFact::AccessChanged {
        tenant,
        access,
        reason,
        subscription: Some("sub_1".into()),
        plan: Some("team@2".into()),
    }]);
    let view = world.state.key(key).unwrap().1;
    assert_eq!((view.status, view.plan.as_deref()), (KeyStatus::Active, Some("team@2")));
}

#[test]
fn every_change_that_nodes_must_know_raises_as_of() {
    let mut world = World::new();
    let mut last = world.state.key(KEY).unwrap().1.as_of;
    let mut rises = |world: &World, what: &str| {
        let now = world.state.key(KEY).unwrap().1.as_of;
        assert!(now > last, "{what}");
        last = now;
    };
    world.control(vec![quota(Scope::Tenant(TENANT), 5)]);
    assert!(world.state.key(KEY).unwrap().1.limited);
    rises(&world, "a quota of the tenant");
    world.access(Access::Suspended);
    rises(&world, "access");
    world.control(vec![quota(Scope::Key(KEY), 5)]);
    rises(&world, "a quota of the key");
    world.control(vec![ControlFact::KeyRevoked { key: KEY }]);
    rises(&world, "revocation");
}
