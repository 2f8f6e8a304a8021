//! What an event of Stripe's means for us. Only the fields that are used are read; the rest may be anything.
//!
//! An event is a hint that something changed, never the change itself: what is true is read again from Stripe.

use billing_core::term::Sighting;
use schemas::{TenantId, Timestamp};
use serde::Deserialize;
use serde_json::Value;

use crate::plans::named;

/// What an event asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// Look at this customer again. `claim` = the tenant that the checkout was opened for.
    Touches {
        customer: String,
        claim: Option<TenantId>,
        /// The subscription that the event is of, and the plan that it was on then: the one thing that an event says
        /// and that Stripe cannot be asked for afterwards.
        seen: Option<(String, Sighting)>,
        /// The invoice to read again.
        invoice: Option<String>,
    },
    /// Stripe could not use meter events that it had taken: people must look, and the event says at which.
    MeterTrouble { kind: String, event: String },
    /// It is kept, and that is all.
    Nothing,
}

/// Why an event cannot be worked on: a stable word and the detail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unusable {
    pub reason: &'static str,
    pub detail: String,
}

#[derive(Deserialize)]
struct Event {
    #[serde(default)]
    id: String,
    #[serde(rename = "type")]
    kind: String,
    /// Absent in nothing that Stripe sends; a thin event has it too.
    livemode: bool,
    /// Set on events of accounts that are connected to ours.
    account: Option<String>,
    /// Seconds since 1970; of a thin event a text.
    #[serde(default)]
    created: Value,
    data: Option<Data>,
}

#[derive(Deserialize)]
struct Data {
    object: Object,
}

#[derive(Deserialize)]
struct Object {
    id: Option<String>,
    customer: Option<Reference>,
    client_reference_id: Option<String>,
    #[serde(default)]
    items: Value,
}

/// An id, or the whole object where it was expanded.
#[derive(Deserialize)]
#[serde(untagged)]
enum Reference {
    Id(String),
    Object { id: String },
}

/// Reads an event as it was delivered; `live` = the mode that our account is in.
///
/// # Errors
/// Not an event, of the other mode, of another account, or without the field that its type must have.
pub fn read(body: &[u8], live: bool) -> Result<Meaning, Unusable> {
    let event: Event =
        serde_json::from_slice(body).map_err(|error| unusable("unreadable", error))?;
    if event.livemode != live {
        return Err(unusable("wrong_mode", format!("livemode is {}", event.livemode)));
    }
    if let Some(account) = event.account {
        return Err(unusable("wrong_account", account));
    }
    let Some(Data { object }) = event.data else {
        return thin(event.kind, event.id);
    };
    let created = event.created.as_i64().map(|seconds| Timestamp(seconds.saturating_mul(1000)));
    meaning(&event.kind, object, created)
}

/// What an event without an object means: a thin one.
fn thin(kind: String, event: String) -> Result<Meaning, Unusable> {
    match kind.as_str() {
        "v1.billing.meter.error_report_triggered" | "v1.billing.meter.no_meter_found" => {
            Ok(Meaning::MeterTrouble { kind, event })
        }
        kind if kind.starts_with("customer.") || kind.starts_with("invoice.") => {
            Err(unusable("unreadable", format!("a {kind} without an object")))
        }
        _ => Ok(Meaning::Nothing),
    }
}

fn meaning(kind: &str, object: Object, created: Option<Timestamp>) -> Result<Meaning, Unusable> {
    let customer = match object.customer {
        Some(Reference::Id(id) | Reference::Object { id }) => Some(id),
        None => None,
    };
    let touches = |customer: Option<String>, seen, invoice| match customer {
        Some(customer) => Ok(Meaning::Touches { customer, claim: None, seen, invoice }),
        None => Err(unusable("unreadable", format!("a {kind} without a customer"))),
    };
    match kind {
        "checkout.session.completed" | "checkout.session.async_payment_succeeded" => {
            let claim = object.client_reference_id.and_then(|claim| claim.parse().ok());
            // A session for a guest's single payment has no customer and is none of ours.
            Ok(customer.map_or(Meaning::Nothing, |customer| Meaning::Touches {
                customer,
                claim,
                seen: None,
                invoice: None,
            }))
        }
        "customer.deleted" => match object.id {
            Some(customer) => touches(Some(customer), None, None),
            None => Err(unusable("unreadable", "a customer.deleted without a customer")),
        },
        "invoice.finalized"
        | "invoice.paid"
        | "invoice.payment_failed"
        | "invoice.overdue"
        | "invoice.payment_action_required"
        | "invoice.voided"
        | "invoice.marked_uncollectible" => touches(customer, None, object.id),
        "invoice.finalization_failed" => {
            // No money moves until a person has mended it.
            tracing::error!(invoice = object.id, "Stripe could not finalize an invoice");
            metrics::counter!("billing_finalization_failed_total").increment(1);
            touches(customer, None, None)
        }
        kind if kind.starts_with("customer.subscription.") => {
            let seen = object.id.zip(sighting(&object.items, created));
            touches(customer, seen, None)
        }
        _ => Ok(Meaning::Nothing),
    }
}

/// The plan that a subscription's items name, as of the event.
fn sighting(items: &Value, at: Option<Timestamp>) -> Option<Sighting> {
    let of_item = |item: &Value| {
        let price = &item["price"];
        let metadata = price["metadata"].as_object()?.iter();
        let metadata =
            metadata.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())));
        named(&metadata.collect(), price["lookup_key"].as_str())
    };
    let mut plans = items["data"].as_array()?.iter().filter_map(of_item).map(|(plan, _)| plan);
    let plan = plans.next()?;
    // Items of two plans name none: what is billed then is for a person to say.
    plans.all(|other| other == plan).then_some(Sighting { at: at?, plan })
}

fn unusable(reason: &'static str, detail: impl std::fmt::Display) -> Unusable {
    Unusable { reason, detail: detail.to_string().chars().take(300).collect() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const TENANT: &str = "tnt_00000000000000000000000000000001";

    fn event(kind: &str, object: &serde_json::Value) -> Vec<u8> {
        let event = json!({ "id": "evt_1", "object": "event", "type": kind, "livemode": false, "data": { "object": object } });
        serde_json::to_vec(&event).unwrap()
    }

    #[test]
    fn what_events_mean() {
        #[track_caller]
        fn check(kind: &str, object: &serde_json::Value, meaning: &Result<Meaning, &str>) {
            let read = read(&event(kind, object), false).map_err(|unusable| unusable.reason);
            assert_eq!(&read, meaning, "{kind}");
        }
        let touches = |claim: Option<&str>| {
            Ok(Meaning::Touches {
                customer: "cus_1".into(),
                claim: claim.map(|id| id.parse().unwrap()),
                seen: None,
                invoice: None,
            })
        };
        let completed = "checkout.session.completed";
        check(
            completed,
            &json!({ "customer": "cus_1", "client_reference_id": TENANT }),
            &touches(Some(TENANT)),
        );
        check(
            completed,
            &json!({ "customer": "cus_1", "client_reference_id": "cart 7" }),
            &touches(None),
        );
        check(
            completed,
            &json!({ "customer": { "id": "cus_1" }, "client_reference_id": null }),
            &touches(None),
        );
        check(completed, &json!({ "customer": null }), &Ok(Meaning::Nothing));
        for change in ["created", "updated", "deleted", "paused", "resumed", "a_change_of_tomorrow"]
        {
            check(
                &format!("customer.subscription.{change}"),
                &json!({ "id": "sub_1", "customer": "cus_1" }),
                &touches(None),
            );
        }
        check("customer.subscription.updated", &json!({ "id": "sub_1" }), &Err("unreadable"));
        for kind in ["paid", "payment_failed", "finalized", "voided"] {
            let Ok(Meaning::Touches { customer, claim, seen, .. }) = touches(None) else {
                unreachable!()
            };
            let of_one = Meaning::Touches { customer, claim, seen, invoice: Some("in_1".into()) };
            check(
                &format!("invoice.{kind}"),
                &json!({ "id": "in_1", "customer": "cus_1" }),
                &Ok(of_one),
            );
        }
        check(
            "invoice.finalization_failed",
            &json!({ "id": "in_1", "customer": "cus_1" }),
            &touches(None),
        );
        check(
            "invoice.created",
            &json!({ "id": "in_1", "customer": "cus_1" }),
            &Ok(Meaning::Nothing),
        );
        check("customer.deleted", &json!({ "id": "cus_1" }), &touches(None));
        check("a.type.of_tomorrow", &json!({ "customer": 7 }), &Err("unreadable"));
        check("a.type.of_tomorrow", &json!({}), &Ok(Meaning::Nothing));
    }

    #[test]
    fn an_event_of_a_subscription_says_which_plan_it_was_on_and_when() {
        let plan_in = |items: serde_json::Value| {
            let event = json!({ "id": "evt_1", "type": "customer.subscription.updated", "livemode": false, "created": 7,
                "data": { "object": { "id": "sub_1", "customer": "cus_1", "items": items } } });
            match read(&serde_json::to_vec(&event).unwrap(), false).unwrap() {
                Meaning::Touches { seen, .. } => {
                    seen.map(|(id, seen)| (id, seen.at.0, crate::plans::written(&seen.plan)))
                }
                other => panic!("{other:?}"),
            }
        };
        let of = |plan: &str| json!({ "price": { "metadata": { "tollbook_plan": plan, "tollbook_charge": "base" } } });
        let team = || Some(("sub_1".to_owned(), 7000, "team@2".to_owned()));
        assert_eq!(plan_in(json!({ "data": [of("team@2"), of("team@2")] })), team());
        assert_eq!(
            plan_in(
                json!({ "data": [{ "price": { "metadata": {}, "lookup_key": "team@2/x/usd" } }] })
            ),
            team()
        );
        for nothing in [
            json!({ "data": [of("team@2"), of("free@1")] }),
            json!({ "data": [] }),
            json!({ "data": [{}] }),
            json!(7),
        ] {
            assert_eq!(plan_in(nothing.clone()), None, "{nothing}");
        }
    }

    #[test]
    fn other_modes_and_accounts_are_not_ours() {
        let live = br#"{"id":"evt_1","type":"invoice.paid","livemode":true,"data":{"object":{"customer":"cus_1"}}}"#;
        assert_eq!(read(live, false).unwrap_err().reason, "wrong_mode");
        assert!(read(live, true).is_ok());
        let connected =
            br#"{"id":"evt_1","type":"invoice.paid","livemode":false,"account":"acct_2"}"#;
        assert_eq!(read(connected, false).unwrap_err().reason, "wrong_account");
        assert_eq!(read(b"{}", false).unwrap_err().reason, "unreadable");
        assert_eq!(read(b"\xff\x00", false).unwrap_err().reason, "unreadable");
    }

    #[test]
    fn a_thin_event_of_a_meter_is_an_alarm() {
        let thin = br#"{"id":"evt_1","object":"v2.core.event","type":"v1.billing.meter.no_meter_found","livemode":false,"created":"2026-11-20T11:59:58Z"}"#;
        assert_eq!(
            read(thin, false),
            Ok(Meaning::MeterTrouble {
                kind: "v1.billing.meter.no_meter_found".into(),
                event: "evt_1".into()
            })
        );
    }
}
