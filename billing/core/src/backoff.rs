//! How long to wait before trying again.

/// A rule for growing, jittered pauses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The first pause. Unit: milliseconds.
    pub first_ms: i64,
    /// No pause is longer. Unit: milliseconds.
    pub longest_ms: i64,
}

impl Backoff {
    /// The pause after the `tries`-th failure (from 1): doubled each time up to the longest, then cut to a random
    /// part between one half and the whole, so that many who fail together do not come back together.
    ///
    /// `random` is any number, even over its whole range. Unit of the answer: milliseconds.
    #[must_use]
    pub fn pause_ms(self, tries: u32, random: u64) -> i64 {
        let doublings = tries.saturating_sub(1).min(62);
        let whole =
            self.first_ms.saturating_mul(1i64 << doublings).clamp(1, self.longest_ms.max(1));
        let half = whole / 2;
        let spread = u64::try_from(whole - half).unwrap_or(0).saturating_add(1);
        half.saturating_add(i64::try_from(random % spread).unwrap_or(0)).max(1)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RULE: Backoff = Backoff { first_ms: 1_000, longest_ms: 300_000 };

    #[test]
    fn pauses_double_until_the_longest() {
        let longest: Vec<i64> = (1..=10)
            .map(|tries| {
                (0..=1_000_000).step_by(7).map(|random| RULE.pause_ms(tries, random)).max().unwrap()
            })
            .collect();
        assert!(longest.windows(2).all(|pair| pair[0] <= pair[1]), "{longest:?}");
        assert_eq!(RULE.pause_ms(1, 500), 1_000);
        assert_eq!(RULE.pause_ms(u32::MAX, 150_000), 300_000);
    }

    proptest! {
        /// A pause lies between half of the rule's and the whole of it, whatever the dice say.
        #[test]
        fn a_pause_stays_in_its_range(tries: u32, random: u64) {
            let whole = (1_000i64 << tries.saturating_sub(1).min(20)).min(300_000);
            let pause = RULE.pause_ms(tries, random);
            prop_assert!((whole / 2..=whole).contains(&pause), "{pause} of {whole}");
        }
    }
}
