//! All state of the simulator, in memory: a restart is a new Stripe account.
//!
//! One lock guards everything, so each request happens at one instant and an effect, its events and its stored answer are seen
//! together or not at all. No lock is held across an await.

pub mod agenda;
pub mod cards;
pub mod deliveries;
pub mod secrets;
pub mod table;
pub mod usage;

use crate::faults::Faults;
use crate::idempotency::Idempotency;
use crate::ids::Ids;
use crate::journal::Journal;
use crate::limiter::Limiter;
use crate::settings::Settings;
use agenda::Agenda;
use cards::Cards;
use deliveries::Deliveries;
use rust_decimal::Decimal;
use secrets::Secrets;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use table::Table;
use usage::Usage;

/// Everything that requests read and change.
#[derive(Debug)]
pub struct World {
    pub ids: Ids,
    pub store: Store,
    pub usage: Usage,
    pub deliveries: Deliveries,
    pub idempotency: Idempotency,
    pub journal: Journal,
    pub faults: Faults,
    pub limiter: Limiter,
    pub tally: Tally,
    pub settings: Settings,
    pub cards: Cards,
    pub agenda: Agenda,
}

impl World {
    pub fn new(seed: u64) -> Self {
        Self {
            ids: Ids::new(seed),
            store: Store::default(),
            usage: Usage::default(),
            deliveries: Deliveries::default(),
            idempotency: Idempotency::default(),
            journal: Journal::default(),
            faults: Faults::default(),
            limiter: Limiter::default(),
            tally: Tally::default(),
            settings: Settings::default(),
            cards: Cards::default(),
            agenda: Agenda::default(),
        }
    }
}

/// What the strict self-check found. Tests assert that all are zero.
#[derive(Debug, Default)]
pub struct Tally {
    /// Requests to paths that the API description does not know.
    pub unvalidated_paths: u64,
    /// Answers and events of ours that broke the schema.
    pub invalid_responses: u64,
    /// Requests that Stripe understands and the simulator does not.
    pub not_simulated: u64,
    /// The latest complaint of each request that counted above; at most 20.
    pub complaints: Vec<String>,
}

impl Tally {
    pub fn complain(&mut self, text: String) {
        if self.complaints.len() == 20 {
            self.complaints.remove(0);
        }
        self.complaints.push(text);
    }
}

/// The documents of all resources, and what Stripe keeps beside them.
#[derive(Debug, Default)]
pub struct Store {
    pub customers: Table,
    pub products: Table,
    pub prices: Table,
    pub meters: Table,
    pub sessions: Table,
    pub subscriptions: Table,
    pub invoices: Table,
    pub invoice_items: Table,
    pub test_clocks: Table,
    pub credit_notes: Table,
    pub credit_grants: Table,
    pub credit_transactions: Table,
    pub events: Table,
    /// Thin events with their data, as `GET /v2/core/events/{id}` shows them.
    pub thin_events: Table,
    /// The same events as they are delivered.
    pub notifications: Table,
    /// Receivers of thin events.
    pub destinations: Table,
    pub coupons: Table,
    pub promotion_codes: Table,
    pub discounts: Table,
    /// Coupons as they were when a discount was made of them.
    pub discount_coupons: HashMap<String, Value>,
    pub payment_methods: Table,
    /// Numbers by payment method, until it is detached.
    pub card_numbers: HashMap<String, String>,
    pub alerts: Table,
    /// What customers used since alerts watch them, by alert and customer.
    pub alert_usage: HashMap<(String, String), Decimal>,
    /// Alerts that were told, by alert and customer.
    pub alerts_told: HashSet<(String, String)>,
    pub features: Table,
    /// Which product has which feature.
    pub product_features: Table,
    /// Active entitlements by customer.
    pub entitlements: BTreeMap<String, Vec<Value>>,
    pub portal_sessions: Table,
    /// Ends (Unix seconds) of the sessions of the event stream, by their token.
    pub stream_sessions: HashMap<String, i64>,
    pub endpoints: Table,
    /// Tiers by price: shown only when expanded.
    pub price_tiers: HashMap<String, Value>,
    /// Line items by checkout session: shown only when expanded.
    pub session_lines: HashMap<String, Vec<Value>>,
    /// Parameters of the subscription that a checkout session will open.
    pub session_plans: HashMap<String, crate::resource::subscription::plan::Plan>,
    /// When an event of a test clock happened by the simulator's own clock, in Unix seconds: lists go by that.
    pub event_ages: HashMap<String, i64>,
    /// Unix second from which a metered item's usage is on its next line, where that is later than its period's start.
    pub usage_from: HashMap<String, i64>,
    /// Usage that invoices of a threshold have billed (quantity, minor units), by item and the second from which it was counted.
    pub billed: HashMap<(String, i64), (Decimal, i64)>,
    /// Subscriptions that have or had a threshold, by customer.
    pub watched: HashMap<String, BTreeSet<String>>,
    /// Notices given: (object, what, the second it is about).
    pub noticed: HashSet<(String, &'static str, i64)>,
    /// Signing secrets by webhook endpoint: shown once, at creation.
    pub endpoint_secrets: HashMap<String, Secrets>,
}

impl Store {
    /// Any document by its id, wherever it lies.
    pub fn find(&self, id: &str) -> Option<&Value> {
        let tables = [
            &self.customers,
            &self.products,
            &self.prices,
            &self.meters,
            &self.sessions,
            &self.subscriptions,
            &self.invoices,
            &self.invoice_items,
            &self.test_clocks,
            &self.credit_grants,
            &self.features,
            &self.payment_methods,
            &self.coupons,
            &self.promotion_codes,
            &self.discounts,
        ];
        tables.into_iter().find_map(|table| table.get(id))
    }

    /// A customer that is not deleted.
    pub fn live_customer(&self, id: &str) -> Option<&Value> {
        self.customers.get(id).filter(|customer| customer["deleted"].is_null())
    }
}
