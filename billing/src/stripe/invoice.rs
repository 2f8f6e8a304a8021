//! Invoices: read whole, as they stand now, with all their lines.
//!
//! Small types of our own: of the invoice only what is used is read, so a field of tomorrow changes nothing.

use std::collections::{BTreeMap, HashMap};

use billing_core::money::Minor;
use schemas::{Period, Quantity, Timestamp};
use serde::{Deserialize, Serialize};
use stripe_client_core::{RequestBuilder, StripeMethod};

use super::{Client, StripeError};
use crate::store::invoice::{Invoice, Line};

/// The metadata entry by which what we collect beside an invoice names its correction.
pub const CORRECTION: &str = "tollbook_correction";

/// An id, or the whole object where it was expanded.
#[derive(Deserialize)]
#[serde(untagged)]
enum Reference {
    Id(String),
    Object { id: String },
}

impl Reference {
    fn id(self) -> String {
        match self {
            Self::Id(id) | Self::Object { id } => id,
        }
    }
}

#[derive(Deserialize)]
struct RawInvoice {
    id: String,
    customer: Option<Reference>,
    status: Option<String>,
    billing_reason: Option<String>,
    currency: String,
    created: i64,
    total: i64,
    #[serde(default)]
    status_transitions: Transitions,
    #[serde(default)]
    parent: Option<Parent>,
    lines: RawLines,
}

#[derive(Default, Deserialize)]
struct Transitions {
    finalized_at: Option<i64>,
}

#[derive(Deserialize)]
struct Parent {
    subscription_details: Option<Details>,
    subscription_item_details: Option<Details>,
    invoice_item_details: Option<Details>,
}

#[derive(Deserialize)]
struct Details {
    subscription: Option<Reference>,
}

#[derive(Deserialize)]
struct RawLines {
    data: Vec<RawLine>,
    has_more: bool,
}

#[derive(Deserialize)]
struct RawLine {
    id: String,
    amount: i64,
    quantity: Option<i64>,
    period: Span,
    parent: Option<Parent>,
    pricing: Option<Pricing>,
    #[serde(default)]
    metadata: HashMap<String, String>,
}

#[derive(Deserialize)]
struct Span {
    start: i64,
    end: i64,
}

#[derive(Deserialize)]
struct Pricing {
    price_details: Option<PriceDetails>,
}

#[derive(Deserialize)]
struct PriceDetails {
    price: Option<Reference>,
}

#[derive(Serialize)]
struct Page<'a> {
    limit: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    starting_after: Option<&'a str>,
}

/// A final invoice as it stands now; `None` = it is a draft, or gone.
///
/// # Errors
/// See [`StripeError`].
pub async fn read(stripe: &Client, id: &str) -> Result<Option<Invoice>, StripeError> {
    let request = RequestBuilder::new(StripeMethod::Get, format!("/invoices/{id}"));
    let body = match stripe.call(&request, None).await {
        Ok(body) => body,
        Err(error) if error.is_missing() => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut raw: RawInvoice = parse(&body)?;
    let Some(finalized_s) = raw.status_transitions.finalized_at else { return Ok(None) };
    while raw.lines.has_more {
        let after = raw.lines.data.last().map(|line| line.id.clone());
        let page = Page { limit: 100, starting_after: after.as_deref() };
        let request =
            RequestBuilder::new(StripeMethod::Get, format!("/invoices/{id}/lines")).query(&page);
        let more: RawLines = parse(&stripe.call(&request, None).await?)?;
        raw.lines.has_more = more.has_more && !more.data.is_empty();
        raw.lines.data.extend(more.data);
    }
    invoice(raw, finalized_s).map(Some)
}

fn invoice(raw: RawInvoice, finalized_s: i64) -> Result<Invoice, StripeError> {
    let subscription = raw.parent.and_then(Parent::subscription);
    let lines = raw.lines.data.into_iter().map(line).collect::<Result<Vec<_>, _>>()?;
    Ok(Invoice {
        invoice: raw.id,
        customer: raw.customer.map(Reference::id).unwrap_or_default(),
        subscription,
        status: raw.status.unwrap_or_default(),
        reason: raw.billing_reason.unwrap_or_default(),
        currency: raw.currency,
        created_at: at(raw.created),
        finalized_at: at(finalized_s),
        total: minor(raw.total)?,
        lines,
    })
}

impl Parent {
    fn subscription(self) -> Option<String> {
        let all =
            [self.subscription_details, self.subscription_item_details, self.invoice_item_details];
        all.into_iter().flatten().find_map(|details| details.subscription).map(Reference::id)
    }
}

fn line(raw: RawLine) -> Result<Line, StripeError> {
    let quantity = raw.quantity.unwrap_or(0);
    let quantity = u64::try_from(quantity).map_err(|_| {
        StripeError::Unreadable(format!("line {} has the quantity {quantity}", raw.id))
    })?;
    let price = raw.pricing.and_then(|pricing| pricing.price_details?.price).map(Reference::id);
    Ok(Line {
        subscription: raw.parent.and_then(Parent::subscription),
        price,
        period: Period { from: at(raw.period.start), to: at(raw.period.end) },
        quantity: Quantity(quantity),
        amount: minor(raw.amount)?,
        correction: raw.metadata.get(CORRECTION).cloned(),
        line: raw.id,
    })
}

fn at(seconds: i64) -> Timestamp {
    Timestamp(seconds.saturating_mul(1000))
}

fn minor(units: i64) -> Result<Minor, StripeError> {
    Minor::try_new(units).map_err(|error| StripeError::Unreadable(error.to_string()))
}

fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, StripeError> {
    serde_json::from_slice(body).map_err(|error| StripeError::Unreadable(error.to_string()))
}

/// An invoice of a list, as far as it must be known to be read or waited for.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Listed {
    pub id: String,
    /// Seconds since 1970.
    pub created: i64,
    pub status: Option<String>,
}

#[derive(Deserialize)]
struct ListPage {
    data: Vec<Listed>,
}

#[derive(Serialize)]
struct Newest<'a> {
    subscription: &'a str,
    limit: u8,
}

/// The newest hundred invoices of a subscription, drafts too.
///
/// # Errors
/// See [`StripeError`].
pub async fn newest(stripe: &Client, subscription: &str) -> Result<Vec<Listed>, StripeError> {
    let query = Newest { subscription, limit: 100 };
    let request = RequestBuilder::new(StripeMethod::Get, "/invoices").query(&query);
    let page: ListPage = parse(&stripe.call(&request, None).await?)?;
    Ok(page.data)
}

#[derive(Serialize)]
struct OpenOf<'a> {
    customer: &'a str,
    status: &'static str,
    limit: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    starting_after: Option<&'a str>,
}

#[derive(Deserialize)]
struct OpenPage {
    data: Vec<RawOpen>,
    has_more: bool,
}

#[derive(Deserialize)]
struct RawOpen {
    id: String,
    created: i64,
    #[serde(default)]
    attempted: bool,
    due_date: Option<i64>,
    #[serde(default)]
    status_transitions: Transitions,
    parent: Option<Parent>,
}

/// Since when the oldest open invoice of each subscription of a customer is due.
///
/// An invoice that is sent falls due at its date, one that is charged when it was final and the card was tried.
///
/// # Errors
/// See [`StripeError`].
pub async fn overdue(
    stripe: &Client,
    customer: &str,
) -> Result<BTreeMap<String, Timestamp>, StripeError> {
    let mut since: BTreeMap<String, Timestamp> = BTreeMap::new();
    let mut after: Option<String> = None;
    loop {
        let query =
            OpenOf { customer, status: "open", limit: 100, starting_after: after.as_deref() };
        let request = RequestBuilder::new(StripeMethod::Get, "/invoices").query(&query);
        let page: OpenPage = parse(&stripe.call(&request, None).await?)?;
        after = page.data.last().map(|open| open.id.clone());
        for open in page.data.into_iter().filter(|open| open.attempted || open.due_date.is_some()) {
            let Some(subscription) = open.parent.and_then(Parent::subscription) else { continue };
            let fell = open.due_date.or(open.status_transitions.finalized_at);
            let fell = at(fell.unwrap_or(open.created));
            since.entry(subscription).and_modify(|one| *one = fell.min(*one)).or_insert(fell);
        }
        if !page.has_more || after.is_none() {
            return Ok(since);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invoice_reads_also_with_fields_of_tomorrow() {
        let text = r#"{"id":"in_1","object":"invoice","customer":{"id":"cus_1","x":1},"status":"open","billing_reason":"subscription_cycle",
            "currency":"usd","created":100,"total":55,"status_transitions":{"finalized_at":3700,"paid_at":null},
            "parent":{"type":"subscription_details","subscription_details":{"subscription":"sub_1"}},
            "lines":{"object":"list","has_more":false,"data":[
              {"id":"il_1","amount":55,"quantity":70,"period":{"start":10,"end":100},"metadata":{"tollbook_correction":"k"},
               "parent":{"type":"subscription_item_details","subscription_item_details":{"subscription":"sub_1","of_tomorrow":1}},
               "pricing":{"type":"price_details","price_details":{"price":"price_1"}}},
              {"id":"il_2","amount":-5,"quantity":null,"period":{"start":10,"end":10},"parent":null,"pricing":null}]}}"#;
        let raw: RawInvoice = serde_json::from_str(text).unwrap();
        let found = invoice(raw, 3700).unwrap();
        assert_eq!(
            (found.customer.as_str(), found.subscription.as_deref()),
            ("cus_1", Some("sub_1"))
        );
        let [one, two] = &found.lines[..] else { panic!("{found:?}") };
        assert_eq!(
            (one.quantity, one.amount.units(), one.period.to),
            (Quantity(70), 55, Timestamp(100_000))
        );
        assert_eq!((one.price.as_deref(), one.correction.as_deref()), (Some("price_1"), Some("k")));
        assert_eq!(
            (two.price.as_deref(), two.amount.units(), two.subscription.as_deref()),
            (None, -5, None)
        );
        let negative = text.replace("\"quantity\":70", "\"quantity\":-70");
        assert!(invoice(serde_json::from_str(&negative).unwrap(), 1).is_err());
    }
}
