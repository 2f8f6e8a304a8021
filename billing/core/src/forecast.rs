//! What a running period will come to if it goes on as it has: the rule, stated.
//!
//! Units at the end = units so far × the period's length / what of it has passed, rounded down to whole units. What
//! is forecast beyond the units so far is used at the period's last moment, so it is priced by the plan that holds
//! now. Absent on purpose: seasons, weekdays and trends; a rule that anyone can check by hand is worth more here.

use schemas::{AmountError, Period, Quantity, Timestamp};

/// The units that are still to come, if use goes on as so far. Nothing is known of a period that has not begun.
///
/// # Errors
/// Past `u64::MAX`.
pub fn to_come(so_far: Quantity, period: Period, now: Timestamp) -> Result<Quantity, AmountError> {
    let of = period.to.ms_since(period.from);
    let passed = now.min(period.to).ms_since(period.from);
    if passed <= 0 || of <= passed {
        return Ok(Quantity::ZERO);
    }
    let (of, passed) = (u128::from(of.unsigned_abs()), u128::from(passed.unsigned_abs()));
    let whole = u128::from(so_far.0).checked_mul(of).ok_or(AmountError)? / passed;
    let whole = u64::try_from(whole).map_err(|_| AmountError)?;
    Quantity(whole).checked_sub(so_far)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forecast_is_the_rule_of_three() {
        #[track_caller]
        fn check(so_far: u64, now: i64, to_come_then: u64) {
            let period = Period { from: Timestamp(1000), to: Timestamp(5000) };
            assert_eq!(
                to_come(Quantity(so_far), period, Timestamp(now)),
                Ok(Quantity(to_come_then))
            );
        }
        check(0, 2000, 0);
        check(10, 2000, 30);
        check(10, 3000, 10);
        check(10, 4000, 3);
        check(10, 5000, 0);
        check(10, 9000, 0);
        check(10, 1000, 0);
        check(10, 500, 0);
        let period = Period { from: Timestamp(0), to: Timestamp(i64::MAX) };
        assert_eq!(to_come(Quantity(u64::MAX), period, Timestamp(1)), Err(AmountError));
    }
}
