//! The frozen part of a meter report, and the identifier that follows from it.
//!
//! Invariant: the same sealed line gives the same identifier, timestamp and quantity for ever. The quantity is not
//! part of the identifier, so an identifier can never come back with another value without it being seen.

use schemas::{Hour, MeterName, Quantity, TenantId, Timestamp};
use sha2::{Digest, Sha256};

/// The provider's account that is told: test and live usage never share an identifier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// A name for it, without control characters; never changed once rows exist.
    pub name: String,
    /// Real money.
    pub live: bool,
}

/// The part of an hour that lies in one billing period.
///
/// An hour with no period's edge inside is one segment; segments count from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Segment {
    pub index: u16,
    /// Where it begins, within the hour.
    pub from: Timestamp,
}

impl Segment {
    /// The whole hour, or what of it comes after `billed_from`, the beginning of the tenant's first period.
    ///
    /// The provider bills nothing that is dated before a subscription begins, so the hour of its beginning must be
    /// dated behind that. Hours that do not hold `billed_from` stay as they are: nothing moves to another hour.
    #[must_use]
    pub fn first(hour: Hour, billed_from: Option<Timestamp>) -> Self {
        let from = billed_from.filter(|from| from.hour() == hour).unwrap_or(hour.start());
        Self { index: 0, from }
    }
}

/// One sealed line as it will be reported: never changed once written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub tenant: TenantId,
    /// The customer at the provider.
    pub customer: String,
    pub meter: MeterName,
    pub hour: Hour,
    pub segment: Segment,
    /// Counts the seals of this hour. Range: from 1.
    pub revision: u64,
    /// What this seal adds. Range: from 1.
    pub quantity: Quantity,
}

impl Row {
    /// What the provider knows this report by: `tb1:` and 64 hexadecimal digits, 68 characters.
    #[must_use]
    pub fn identifier(&self, account: &Account) -> String {
        let mode = if account.live { "live" } else { "test" };
        let text = format!(
            "{}\n{mode}\n{}\n{}\n{}\n{}\n{}",
            account.name, self.customer, self.meter, self.hour.0, self.segment.index, self.revision
        );
        let digest: [u8; 32] = Sha256::digest(text.as_bytes()).into();
        format!("tb1:{}", hex::encode(digest))
    }

    /// The moment that the provider counts it in: the beginning of the hour, or of the period within it; never now.
    ///
    /// Unit: seconds since 1970-01-01T00:00:00Z, rounded down.
    #[must_use]
    pub fn timestamp_s(&self) -> i64 {
        self.hour.start().max(self.segment.from).0.div_euclid(1000)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;
    use schemas::TOOL_CALLS;

    use super::*;

    pub fn row(hour: i64, revision: u64, quantity: u64) -> Row {
        Row {
            tenant: "tnt_00000000000000000000000000000001".parse().unwrap(),
            customer: "cus_1".to_owned(),
            meter: TOOL_CALLS.parse().unwrap(),
            hour: Hour(hour),
            segment: Segment::first(Hour(hour), None),
            revision,
            quantity: Quantity(quantity),
        }
    }

    pub fn account() -> Account {
        Account { name: "default".to_owned(), live: false }
    }

    #[test]
    fn an_identifier_never_changes() {
        let identifier = row(498_660, 1, 5).identifier(&account());
        assert_eq!(identifier, FROZEN, "a change here bills every open row twice");
        assert_eq!(identifier.len(), 68);
    }

    /// Computed apart: `printf 'default\ntest\ncus_1\ntool_calls\n498660\n0\n1' | sha256sum`.
    const FROZEN: &str = "tb1:c0f2c9f4dc471f6c389fc5bc42f868c99b48fefad828ff17c3a1795707598fd8";

    #[test]
    fn whatever_tells_two_reports_apart_tells_their_identifiers_apart() {
        let one = row(7, 1, 5);
        let others = [
            Row { customer: "cus_2".to_owned(), ..one.clone() },
            Row { meter: "tokens".parse().unwrap(), ..one.clone() },
            Row { hour: Hour(8), ..one.clone() },
            Row { segment: Segment { index: 1, from: Timestamp(0) }, ..one.clone() },
            Row { revision: 2, ..one.clone() },
        ];
        for other in others {
            assert_ne!(other.identifier(&account()), one.identifier(&account()), "{other:?}");
        }
        let live = Account { live: true, ..account() };
        assert_ne!(one.identifier(&live), one.identifier(&account()));
        assert_eq!(
            row(7, 1, 6).identifier(&account()),
            one.identifier(&account()),
            "the value is not its name"
        );
    }

    #[test]
    fn a_report_is_dated_inside_its_hour_and_period() {
        #[track_caller]
        fn check(billed_from_ms: Option<i64>, after_s: i64) {
            let hour = Hour(498_660);
            let from = billed_from_ms.map(|ms| hour.start().plus_ms(ms));
            let row = Row { segment: Segment::first(hour, from), ..row(498_660, 1, 5) };
            assert_eq!(row.timestamp_s(), 498_660 * 3600 + after_s, "{billed_from_ms:?}");
        }
        check(None, 0);
        check(Some(0), 0);
        check(Some(1_200_500), 1200);
        check(Some(3_599_999), 3599);
        check(Some(3_600_000), 0);
        check(Some(-1), 0);
    }

    proptest! {
        /// Stripe takes identifiers of at most 100 characters and idempotency keys of at most 255.
        #[test]
        fn an_identifier_fits(hour in -10_000_000i64..10_000_000, revision: u64, customer in "cus_[A-Za-z0-9]{1,60}") {
            let identifier = Row { customer, ..row(hour, revision, 1) }.identifier(&account());
            prop_assert!(identifier.len() <= 100 && identifier.is_ascii());
        }
    }
}
