//! Whether a key may be used: revoked before all, then what billing says where billing has a say.

use schemas::{Access, BillingMode, KeyStatus};

pub fn status(
    revoked: bool,
    billing: Option<BillingMode>,
    access: Option<&(Access, String)>,
) -> (KeyStatus, String) {
    if revoked {
        return (KeyStatus::Revoked, "revoked".to_owned());
    }
    match (billing, access) {
        (Some(BillingMode::Stripe), None) => (KeyStatus::Pending, "no subscription yet".to_owned()),
        (Some(BillingMode::Stripe), Some((Access::Suspended, reason))) => {
            (KeyStatus::Suspended, reason.clone())
        }
        (Some(BillingMode::Stripe), Some((Access::Active, _)))
        | (Some(BillingMode::None) | None, _) => (KeyStatus::Active, String::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn billing_decides_only_where_it_has_a_say() {
        let active = (Access::Active, "subscription active".to_owned());
        let suspended = (Access::Suspended, "payment overdue".to_owned());
        #[track_caller]
        fn check(
            revoked: bool,
            billing: BillingMode,
            access: Option<&(Access, String)>,
            wanted: KeyStatus,
        ) {
            let (found, reason) = status(revoked, Some(billing), access);
            assert_eq!(found, wanted);
            assert_eq!(reason.is_empty(), wanted == KeyStatus::Active, "{reason}");
        }
        check(false, BillingMode::Stripe, None, KeyStatus::Pending);
        check(false, BillingMode::Stripe, Some(&active), KeyStatus::Active);
        check(false, BillingMode::Stripe, Some(&suspended), KeyStatus::Suspended);
        check(false, BillingMode::None, None, KeyStatus::Active);
        check(false, BillingMode::None, Some(&suspended), KeyStatus::Active);
        check(true, BillingMode::None, Some(&active), KeyStatus::Revoked);
        check(true, BillingMode::Stripe, None, KeyStatus::Revoked);
    }
}
