//! What every provider of reports must do: one contract, which Stripe's meters and the folder of files both pass.

use billing::{
    provider::{Provider, file::FileDrop, stripe::StripeMeters},
    stripe::{Client, catalog::Meter},
};
use billing_core::report::{Account, Outcome, Row, Segment};
use runtime::settings::Secret;
use schemas::{BillingMode, Hour, Period, Quantity, TOOL_CALLS, TenantId};
use stack::Folder;
use uuid::Uuid;

use crate::world::{API_KEY, World, hour};

fn row(tenant: TenantId, customer: &str, hour: Hour, revision: u64, quantity: u64) -> Row {
    Row {
        tenant,
        customer: customer.to_owned(),
        meter: TOOL_CALLS.parse().unwrap(),
        hour,
        segment: Segment::first(hour, None),
        revision,
        quantity: Quantity(quantity),
    }
}

/// The contract. The provider knows the customer, and holds nothing of it yet.
async fn holds(provider: &impl Provider, tenant: TenantId, customer: &str) {
    let account = Account { name: "default".to_owned(), live: false };
    let meter = TOOL_CALLS.parse().unwrap();
    assert!(provider.takes(&meter), "it takes the default meter");
    assert!(!provider.takes(&"nothing_of_the_kind".parse().unwrap()), "and no other");
    let (first, second) =
        (row(tenant, customer, hour(3), 1, 5), row(tenant, customer, hour(2), 2, 7));
    for one in [&first, &second] {
        let identifier = one.identifier(&account);
        let told = provider.tell(one, &identifier, &identifier).await;
        assert_eq!(told.outcome, Outcome::Accepted, "{told:?}");
    }
    // The same again, under another key, is known by its identifier and counts once.
    let identifier = first.identifier(&account);
    let again = provider.tell(&first, &identifier, "another-key").await.outcome;
    assert_eq!(again, Outcome::Duplicate { identifier: identifier.clone() });
    // Another amount under a known identifier never counts.
    let other = Row { quantity: Quantity(6), ..first.clone() };
    let other = provider.tell(&other, &identifier, "a-third-key").await.outcome;
    assert!(matches!(other, Outcome::Duplicate { .. } | Outcome::Refused), "{other:?}");
    // Its books: by the hour and by the period, half-open, of this customer alone.
    let total = async |hour| provider.hour_total(customer, &meter, hour).await.unwrap();
    assert_eq!((total(hour(3)).await, total(hour(2)).await), (Quantity(5), Quantity(7)));
    assert_eq!(total(hour(1)).await, Quantity::ZERO);
    let sum = async |from: i64, to: i64| {
        let period = Period { from: hour(from).start(), to: hour(to).start() };
        provider.period_total(customer, &meter, period).await.unwrap()
    };
    assert_eq!((sum(3, 1).await, sum(3, 2).await), (Quantity(12), Quantity(5)));
    assert_eq!((sum(2, 1).await, sum(9, 3).await), (Quantity(7), Quantity::ZERO));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stripes_meters_keep_the_contract() {
    let world = World::new().await;
    let _billing = world.start().await;
    let tenant = world.tenant(BillingMode::Stripe).await;
    let (customer, _) = world.subscribe(tenant).await;
    let id =
        world.sim_get("/v1/billing/meters").await["data"][0]["id"].as_str().unwrap().to_owned();
    let client =
        Client::new(&world.sim, Secret::new(API_KEY.to_owned()), std::time::Duration::from_secs(5));
    let provider = StripeMeters::new(&client, Meter { id, event_name: TOOL_CALLS.to_owned() });
    holds(&provider, tenant, &customer).await;
    world.assert_valid().await;
}

#[tokio::test]
async fn a_folder_of_files_keeps_the_contract() {
    let folder = Folder::temporary().unwrap();
    let drop = folder.part("drop").unwrap();
    let new = || FileDrop::try_new(&drop, vec![TOOL_CALLS.parse().unwrap()]).unwrap();
    let tenant = TenantId(Uuid::from_u128(1));
    holds(&new(), tenant, "cus_1").await;
    // What a finance system has taken in still counts, and nothing half written is left.
    let files = || {
        std::fs::read_dir(&drop)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.is_file())
    };
    assert_eq!(files().count(), 2);
    for path in files().collect::<Vec<_>>() {
        assert!(path.extension().unwrap() == "json", "{}", path.display());
        std::fs::rename(&path, drop.join("taken").join(path.file_name().unwrap())).unwrap();
    }
    let one = row(tenant, "cus_1", hour(3), 1, 5);
    let identifier = one.identifier(&Account { name: "default".to_owned(), live: false });
    assert_eq!(new().tell(&one, &identifier, "").await.outcome, Outcome::Duplicate { identifier });
    assert_eq!(new().hour_total("cus_1", &one.meter, hour(3)).await.unwrap(), Quantity(5));
}
