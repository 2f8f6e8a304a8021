//! What each endpoint does. One file per noun; this one holds the route table and what all of them share.
//!
//! A handler runs under the world's lock, at one instant. It reads all its parameters and makes all its checks before its first
//! effect, so a refusal changes nothing. Documents are stored as Stripe shows them, except that prices inside subscriptions and
//! lines are kept by id and joined on reading ([`render`]).

pub mod alert;
pub mod checkout;
pub mod coupon;
pub mod credit_grant;
pub mod credit_note;
pub mod customer;
pub mod discount;
pub mod entitlement;
pub mod event;
pub mod event_destination;
pub mod feature;
pub mod invoice;
pub mod invoice_item;
pub mod meter;
pub mod meter_event;
pub mod meter_event_adjustment;
pub mod meter_stream;
pub mod payment_method;
pub mod portal;
pub mod preview;
pub mod price;
pub mod product;
pub mod search;
pub mod subscription;
pub mod subscription_item;
pub mod summary;
pub mod test_clock;
pub mod thin_event;
pub mod webhook_endpoint;

use crate::error::ApiError;
use crate::ids::Kind;
use crate::list::{self, Page};
use crate::params::Params;
use crate::schema::spec;
use crate::store::table::{Table, id_of};
use crate::store::{Store, World};
use serde_json::{Map, Value};

/// The API version whose objects the simulator speaks.
pub const API_VERSION: &str = "2026-10-28.endive";
/// All versions with the same objects, so far as the simulator has them.
pub const API_VERSIONS: [&str; 2] = ["2026-09-30.endive", API_VERSION];

pub type Answer = Result<Value, ApiError>;
/// `(call, id in the path, parameters)`.
pub type Handler = fn(&mut Call<'_>, &str, Params) -> Answer;

/// The handler of an operation, or `None` when it is not simulated.
pub fn handler(method: &str, template: &str) -> Option<Handler> {
    match template.strip_prefix("/v1") {
        Some(path) => v1_handler(method, path),
        None => v2_handler(method, template.strip_prefix("/v2")?),
    }
}

fn v2_handler(method: &str, path: &str) -> Option<Handler> {
    let handler: Handler = match (method, path) {
        ("GET", "/core/event_destinations") => event_destination::list,
        ("POST", "/core/event_destinations") => event_destination::create,
        ("GET", "/core/event_destinations/{id}") => event_destination::retrieve,
        ("POST", "/core/event_destinations/{id}") => event_destination::update,
        ("DELETE", "/core/event_destinations/{id}") => event_destination::delete,
        ("POST", "/core/event_destinations/{id}/enable") => event_destination::enable,
        ("POST", "/core/event_destinations/{id}/disable") => event_destination::disable,
        ("GET", "/core/events") => thin_event::list,
        ("GET", "/core/events/{id}") => thin_event::retrieve,
        ("POST", "/billing/meter_events") => meter_event::create_v2,
        ("POST", "/billing/meter_event_adjustments") => meter_event_adjustment::create_v2,
        ("POST", "/billing/meter_event_session") => meter_stream::open,
        ("POST", "/billing/meter_event_stream") => meter_stream::send,
        _ => return None,
    };
    Some(handler)
}

fn v1_handler(method: &str, path: &str) -> Option<Handler> {
    let handler: Handler = match (method, path) {
        ("POST", "/customers") => customer::create,
        ("GET", "/customers") => customer::list,
        ("GET", "/customers/{id}") => customer::retrieve,
        ("POST", "/customers/{id}") => customer::update,
        ("DELETE", "/customers/{id}") => customer::delete,
        ("GET", "/customers/search") => search::customers,
        ("GET", "/products/search") => search::products,
        ("GET", "/prices/search") => search::prices,
        ("GET", "/subscriptions/search") => search::subscriptions,
        ("GET", "/invoices/search") => search::invoices,
        ("GET", "/customers/{id}/payment_methods") => payment_method::list_of_customer,
        ("GET", "/customers/{customer}/payment_methods/{id}") => {
            payment_method::retrieve_of_customer
        }
        ("GET", "/coupons") => coupon::list,
        ("POST", "/coupons") => coupon::create,
        ("GET", "/coupons/{id}") => coupon::retrieve,
        ("POST", "/coupons/{id}") => coupon::update,
        ("DELETE", "/coupons/{id}") => coupon::delete,
        ("GET", "/promotion_codes") => coupon::list_codes,
        ("POST", "/promotion_codes") => coupon::create_code,
        ("GET", "/promotion_codes/{id}") => coupon::retrieve_code,
        ("POST", "/promotion_codes/{id}") => coupon::update_code,
        ("GET", "/payment_methods") => payment_method::list,
        ("POST", "/payment_methods") => payment_method::create,
        ("GET", "/payment_methods/{id}") => payment_method::retrieve,
        ("POST", "/payment_methods/{id}") => payment_method::update,
        ("POST", "/payment_methods/{id}/attach") => payment_method::attach,
        ("POST", "/payment_methods/{id}/detach") => payment_method::detach,
        ("POST", "/products") => product::create,
        ("GET", "/products") => product::list,
        ("GET", "/products/{id}") => product::retrieve,
        ("POST", "/products/{id}") => product::update,
        ("DELETE", "/products/{id}") => product::delete,
        ("GET", "/products/{id}/features") => feature::list_of_product,
        ("POST", "/products/{id}/features") => feature::attach,
        ("DELETE", "/products/{productId}/features/{id}") => feature::detach,
        ("GET", "/entitlements/features") => feature::list,
        ("POST", "/entitlements/features") => feature::create,
        ("GET", "/entitlements/features/{id}") => feature::retrieve,
        ("POST", "/entitlements/features/{id}") => feature::update,
        ("GET", "/entitlements/active_entitlements") => entitlement::list,
        ("GET", "/entitlements/active_entitlements/{id}") => entitlement::retrieve,
        ("POST", "/prices") => price::create,
        ("GET", "/prices") => price::list,
        ("GET", "/prices/{id}") => price::retrieve,
        ("POST", "/prices/{id}") => price::update,
        ("POST", "/billing/meters") => meter::create,
        ("GET", "/billing/meters") => meter::list,
        ("GET", "/billing/meters/{id}") => meter::retrieve,
        ("POST", "/billing/meters/{id}") => meter::update,
        ("POST", "/billing/meters/{id}/deactivate") => meter::deactivate,
        ("POST", "/billing/meters/{id}/reactivate") => meter::reactivate,
        ("GET", "/billing/alerts") => alert::list,
        ("POST", "/billing/alerts") => alert::create,
        ("GET", "/billing/alerts/{id}") => alert::retrieve,
        ("POST", "/billing/alerts/{id}/activate") => alert::activate,
        ("POST", "/billing/alerts/{id}/archive") => alert::archive,
        ("POST", "/billing/alerts/{id}/deactivate") => alert::deactivate,
        ("GET", "/billing/meters/{id}/event_summaries") => summary::list,
        ("POST", "/billing/meter_event_adjustments") => meter_event_adjustment::create,
        ("POST", "/billing_portal/sessions") => portal::create,
        ("POST", "/billing/meter_events") => meter_event::create,
        ("POST", "/checkout/sessions") => checkout::create,
        ("GET", "/checkout/sessions") => checkout::list,
        ("GET", "/checkout/sessions/{id}") => checkout::retrieve,
        ("POST", "/checkout/sessions/{id}") => checkout::update,
        ("GET", "/checkout/sessions/{id}/line_items") => checkout::line_items,
        ("POST", "/checkout/sessions/{id}/expire") => checkout::expire,
        ("POST", "/subscriptions") => subscription::create,
        ("GET", "/subscriptions") => subscription::list,
        ("GET", "/subscriptions/{id}") => subscription::retrieve,
        ("POST", "/subscriptions/{id}") => subscription::update::update,
        ("DELETE", "/subscriptions/{id}") => subscription::cancel,
        ("POST", "/subscriptions/{id}/migrate") => subscription::update::migrate,
        ("POST", "/subscriptions/{id}/pause") => subscription::pause::pause,
        ("POST", "/subscriptions/{id}/resume") => subscription::pause::resume,
        ("GET", "/invoices") => invoice::list,
        ("POST", "/invoices") => invoice::create,
        ("POST", "/invoices/create_preview") => preview::create,
        ("GET", "/invoices/{id}") => invoice::retrieve,
        ("POST", "/invoices/{id}") => invoice::update,
        ("DELETE", "/invoices/{id}") => invoice::delete,
        ("GET", "/invoices/{id}/lines") => invoice::lines,
        ("POST", "/invoices/{id}/finalize") => invoice::finalize,
        ("POST", "/invoices/{id}/send") => invoice::send,
        ("POST", "/invoices/{id}/pay") => invoice::pay,
        ("POST", "/invoices/{id}/void") => invoice::void,
        ("POST", "/invoices/{id}/mark_uncollectible") => invoice::mark_uncollectible,
        ("POST", "/invoiceitems") => invoice_item::create,
        ("GET", "/invoiceitems") => invoice_item::list,
        ("GET", "/invoiceitems/{id}") => invoice_item::retrieve,
        ("POST", "/invoiceitems/{id}") => invoice_item::update,
        ("DELETE", "/invoiceitems/{id}") => invoice_item::delete,
        ("GET", "/subscription_items") => subscription_item::list,
        ("POST", "/subscription_items") => subscription_item::create,
        ("GET", "/subscription_items/{id}") => subscription_item::retrieve,
        ("POST", "/subscription_items/{id}") => subscription_item::update,
        ("DELETE", "/subscription_items/{id}") => subscription_item::delete,
        ("GET", "/credit_notes") => credit_note::list,
        ("POST", "/credit_notes") => credit_note::create,
        ("GET", "/credit_notes/preview") => credit_note::preview,
        ("GET", "/credit_notes/preview/lines") => credit_note::preview_lines,
        ("GET", "/credit_notes/{id}") => credit_note::retrieve,
        ("POST", "/credit_notes/{id}") => credit_note::update,
        ("GET", "/credit_notes/{id}/lines") => credit_note::lines,
        ("POST", "/credit_notes/{id}/void") => credit_note::void,
        ("GET", "/billing/credit_grants") => credit_grant::list,
        ("POST", "/billing/credit_grants") => credit_grant::create,
        ("GET", "/billing/credit_grants/{id}") => credit_grant::retrieve,
        ("POST", "/billing/credit_grants/{id}") => credit_grant::update,
        ("POST", "/billing/credit_grants/{id}/expire") => credit_grant::expire,
        ("POST", "/billing/credit_grants/{id}/void") => credit_grant::void,
        ("GET", "/billing/credit_balance_summary") => credit_grant::summary,
        ("GET", "/billing/credit_balance_transactions") => credit_grant::transactions,
        ("GET", "/billing/credit_balance_transactions/{id}") => credit_grant::transaction,
        ("POST", "/test_helpers/test_clocks") => test_clock::create,
        ("GET", "/test_helpers/test_clocks") => test_clock::list,
        ("GET", "/test_helpers/test_clocks/{id}") => test_clock::retrieve,
        ("POST", "/test_helpers/test_clocks/{id}/advance") => test_clock::advance,
        ("DELETE", "/test_helpers/test_clocks/{id}") => test_clock::delete,
        ("GET", "/events") => event::list,
        ("GET", "/events/{id}") => event::retrieve,
        ("POST", "/webhook_endpoints") => webhook_endpoint::create,
        ("GET", "/webhook_endpoints") => webhook_endpoint::list,
        ("GET", "/webhook_endpoints/{id}") => webhook_endpoint::retrieve,
        ("POST", "/webhook_endpoints/{id}") => webhook_endpoint::update,
        ("DELETE", "/webhook_endpoints/{id}") => webhook_endpoint::delete,
        _ => return None,
    };
    Some(handler)
}

/// Who caused what happens: shown in the events.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    pub request_id: Option<String>,
    pub idempotency_key: Option<String>,
}

/// One request at work.
pub struct Call<'a> {
    pub world: &'a mut World,
    pub origin: Origin,
    /// Unix milliseconds of the simulator's clock, or of the test clock that the call is on.
    pub now_ms: i64,
    pub base_url: &'a str,
    pub summary_lag_ms: i64,
    /// Unix seconds of the simulator's clock while the call is on a test clock.
    pub beside_test_clock: Option<i64>,
    events: Vec<String>,
    outbox: Vec<String>,
}

impl<'a> Call<'a> {
    pub fn new(
        world: &'a mut World,
        origin: Origin,
        now_ms: i64,
        base_url: &'a str,
        summary_lag_ms: i64,
    ) -> Self {
        Self {
            world,
            origin,
            now_ms,
            base_url,
            summary_lag_ms,
            beside_test_clock: None,
            events: Vec::new(),
            outbox: Vec::new(),
        }
    }

    /// Unix seconds.
    pub fn now(&self) -> i64 {
        self.now_ms.div_euclid(1000)
    }

    pub fn mint(&mut self, kind: Kind) -> String {
        self.world.ids.mint(kind)
    }

    pub fn store(&mut self) -> &mut Store {
        &mut self.world.store
    }

    /// Puts a changed document back and tells what changed, if anything did.
    pub fn save(
        &mut self,
        table: fn(&mut Store) -> &mut Table,
        document: Value,
        event_type: &str,
    ) -> Value {
        let id = id_of(&document).to_owned();
        let stored = table(self.store()).get(&id).expect("only stored documents change").clone();
        let before = render(self.world, &stored);
        let after = render(self.world, &document);
        table(self.store()).replace(document);
        let previous = difference(&before, &after);
        if !previous.is_empty() {
            self.emit(event_type, &after, Some(previous));
        }
        after
    }

    /// Checks every event of this call against the API description.
    ///
    /// # Errors
    /// Says where the first one breaks it.
    pub fn check_events(&self) -> Result<(), String> {
        let mut events = self.events.iter().filter_map(|id| self.world.store.events.get(id));
        events.try_for_each(|event| spec().check_event(event))
    }

    /// The ids of the deliveries that are due now.
    pub fn into_outbox(self) -> Vec<String> {
        self.outbox
    }
}

/// An object of `component`: its always-present fields as null, then `fields` over them.
pub fn object(component: &str, fields: Value) -> Value {
    let mut document = spec().blank(component);
    let Value::Object(fields) = fields else { unreachable!("fields are written as a JSON object") };
    document.extend(fields);
    Value::Object(document)
}

/// A document as the API shows it.
pub fn render(world: &World, document: &Value) -> Value {
    match document["object"].as_str() {
        Some("subscription") => subscription::render(&world.store, document),
        Some("item") => checkout::render_line(&world.store, document),
        Some("invoice") => invoice::render(document),
        Some("event") => event::render(world, document),
        _ => document.clone(),
    }
}

/// Answers one document by the id in the path.
///
/// # Errors
/// 404 when there is none.
pub fn show(call: &Call<'_>, table: &Table, noun: &str, id: &str, params: Params) -> Answer {
    params.finish()?;
    let document = table.get(id).ok_or_else(|| ApiError::not_found(noun, id))?;
    Ok(render(call.world, document))
}

/// Answers one page of a table.
///
/// # Errors
/// 400 for a bad page; 501 for a filter that nobody read.
pub fn page(
    world: &World,
    table: &Table,
    noun: &str,
    url: &str,
    mut params: Params,
    keep: impl Fn(&Value) -> bool,
) -> Answer {
    let page = Page::take(&mut params)?;
    params.finish()?;
    let (rows, has_more) = page.cut(noun, table.newest_first(), keep)?;
    let rows = rows.into_iter().map(|row| render(world, row)).collect();
    Ok(list::object(url, rows, has_more))
}

/// The fields of `before` that changed, with their old values; hashes are compared field by field.
pub fn difference(before: &Value, after: &Value) -> Map<String, Value> {
    let mut changed = Map::new();
    let (Value::Object(old), Value::Object(new)) = (before, after) else { return changed };
    for name in old.keys().chain(new.keys().filter(|name| !old.contains_key(*name))) {
        match (old.get(name).unwrap_or(&Value::Null), new.get(name).unwrap_or(&Value::Null)) {
            (old, new) if old == new => {}
            (old @ Value::Object(_), new @ Value::Object(_)) => {
                changed.insert(name.clone(), Value::Object(difference(old, new)));
            }
            (old, _) => {
                changed.insert(name.clone(), old.clone());
            }
        }
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_handler_serves_an_operation_of_the_description() {
        let served = spec()
            .operations
            .iter()
            .filter(|operation| handler(&operation.method, &operation.template).is_some());
        assert_eq!(served.count(), 139);
    }

    #[test]
    fn previous_attributes_hold_old_values_of_what_changed() {
        let before = json!({ "a": 1, "same": 2, "metadata": { "x": "1", "y": "2" }, "list": [1] });
        let after = json!({ "a": 3, "same": 2, "metadata": { "x": "1", "z": "4" }, "list": [1, 2], "new": 1 });
        let expect =
            json!({ "a": 1, "metadata": { "y": "2", "z": null }, "list": [1], "new": null });
        assert_eq!(Value::Object(difference(&before, &after)), expect);
    }
}
