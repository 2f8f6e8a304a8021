//! Where meter reports go, behind a trait: the domain knows no payment provider.
//!
//! A provider takes reports and can be asked what it holds. Absent on purpose: customers, checkouts and
//! subscriptions, which only some providers have.

pub mod file;
pub mod stripe;

use std::future::Future;

use billing_core::report::{Outcome, Row};
use schemas::{Hour, MeterName, Period, Quantity};

/// How telling a provider ended, with its own words for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    pub outcome: Outcome,
    /// What the provider said, cut short; empty when it took the report.
    pub said: String,
}

/// A provider's books cannot be read now.
#[derive(Debug, thiserror::Error)]
#[error("the provider's books cannot be read")]
pub struct Unread {
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
    /// How long to leave it alone. Unit: milliseconds.
    pub retry_after_ms: Option<i64>,
    /// Whether asking again may help.
    pub transient: bool,
}

/// A sink of meter reports.
pub trait Provider: Send + Sync + 'static {
    /// Whether it takes reports of this meter.
    fn takes(&self, meter: &MeterName) -> bool;

    /// Whether tenants are customers there under their own ids, each of them; else a link says who is whose.
    fn names_customers(&self) -> bool {
        false
    }

    /// Sends a report once, without any retry. Whatever happens is an outcome.
    fn tell(&self, row: &Row, identifier: &str, key: &str) -> impl Future<Output = Told> + Send;

    /// What it holds of a customer and meter in one hour.
    fn hour_total(
        &self,
        customer: &str,
        meter: &MeterName,
        hour: Hour,
    ) -> impl Future<Output = Result<Quantity, Unread>> + Send;

    /// What it holds of a customer and meter in a whole period.
    fn period_total(
        &self,
        customer: &str,
        meter: &MeterName,
        period: Period,
    ) -> impl Future<Output = Result<Quantity, Unread>> + Send;
}
