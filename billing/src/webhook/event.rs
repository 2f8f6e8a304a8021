//! What an event of Stripe's means for us. Only the fields that are used are read; the rest may be anything.
//!
//! An event is a hint that something changed, never the change itself: what is true is read again from Stripe.

use schemas::TenantId;
use serde::Deserialize;

/// What an event asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// Look at this customer again. `claim` = the tenant that the checkout was opened for.
    Touches { customer: String, claim: Option<TenantId> },
    /// Stripe could not use meter events that it had taken: people must look.
    MeterTrouble(String),
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
    #[serde(rename = "type")]
    kind: String,
    /// Absent in nothing that Stripe sends; a thin event has it too.
    livemode: bool,
    /// Set on events of accounts that are connected to ours.
    account: Option<String>,
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
    let object = event.data.map(|data| data.object);
    let customer = |object: Option<Object>| match object.and_then(|object| object.customer) {
        Some(Reference::Id(id) | Reference::Object { id }) => Ok(id),
        None => Err(unusable("unreadable", format!("a {} without a customer", event.kind))),
    };
    match event.kind.as_str() {
        "checkout.session.completed" | "checkout.session.async_payment_succeeded" => {
            let claim = object
                .as_ref()
                .and_then(|object| object.client_reference_id.as_ref()?.parse().ok());
            // A session for a guest's single payment has no customer and is none of ours.
            Ok(customer(object)
                .map_or(Meaning::Nothing, |customer| Meaning::Touches { customer, claim }))
        }
        "customer.deleted" => match object.and_then(|object| object.id) {
            Some(customer) => Ok(Meaning::Touches { customer, claim: None }),
            None => Err(unusable("unreadable", "a customer.deleted without a customer")),
        },
        "invoice.paid" | "invoice.payment_failed" => {
            Ok(Meaning::Touches { customer: customer(object)?, claim: None })
        }
        kind if kind.starts_with("customer.subscription.") => {
            Ok(Meaning::Touches { customer: customer(object)?, claim: None })
        }
        "v1.billing.meter.error_report_triggered" | "v1.billing.meter.no_meter_found" => {
            Ok(Meaning::MeterTrouble(event.kind))
        }
        _ => Ok(Meaning::Nothing),
    }
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
        check("invoice.paid", &json!({ "customer": "cus_1" }), &touches(None));
        check("invoice.payment_failed", &json!({ "customer": "cus_1" }), &touches(None));
        check("customer.deleted", &json!({ "id": "cus_1" }), &touches(None));
        check("a.type.of_tomorrow", &json!({ "customer": 7 }), &Err("unreadable"));
        check("a.type.of_tomorrow", &json!({}), &Ok(Meaning::Nothing));
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
            Ok(Meaning::MeterTrouble("v1.billing.meter.no_meter_found".into()))
        );
    }
}
