//! Ids with Stripe's prefixes, minted from a seed: same script, same ids.
//!
//! One counter per kind, so an extra health check or a retried delivery moves nobody else's ids.
//! Absent on purpose: randomness of any kind.

use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// A kind of id: its prefix and the number of characters after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kind(pub &'static str, pub usize);

pub const CUSTOMER: Kind = Kind("cus_", 14);
pub const PRODUCT: Kind = Kind("prod_", 14);
pub const PRICE: Kind = Kind("price_1", 23);
pub const METER: Kind = Kind("mtr_test_", 32);
pub const ALERT: Kind = Kind("alrt_1", 23);
pub const METER_EVENT: Kind = Kind("mevt_", 24);
pub const SUMMARY: Kind = Kind("mtrusg_test_", 40);
pub const SESSION: Kind = Kind("cs_test_", 58);
pub const LINE: Kind = Kind("li_1", 23);
pub const SUBSCRIPTION: Kind = Kind("sub_1", 23);
pub const ITEM: Kind = Kind("si_", 14);
pub const INVOICE: Kind = Kind("in_1", 23);
pub const INVOICE_LINE: Kind = Kind("il_1", 23);
pub const INVOICE_ITEM: Kind = Kind("ii_1", 23);
pub const INVOICE_PAYMENT: Kind = Kind("inpay_1", 23);
pub const INTENT: Kind = Kind("pi_3", 23);
pub const INTENT_SECRET: Kind = Kind("_secret_", 25);
pub const CREDIT_NOTE: Kind = Kind("cn_1", 23);
pub const CREDIT_NOTE_LINE: Kind = Kind("cnli_1", 23);
pub const CREDIT_GRANT: Kind = Kind("credgr_test_", 24);
pub const CREDIT_TRANSACTION: Kind = Kind("cbtxn_test_", 24);
pub const DESTINATION: Kind = Kind("ed_test_", 24);
pub const ADJUSTMENT: Kind = Kind("mevtadj_test_", 24);
pub const STREAM_SESSION: Kind = Kind("mevtses_test_", 24);
pub const STREAM_TOKEN: Kind = Kind("token_test_", 40);
pub const FEATURE: Kind = Kind("feat_test_", 24);
pub const PRODUCT_FEATURE: Kind = Kind("prodft_test_", 24);
pub const ENTITLEMENT: Kind = Kind("ent_test_", 24);
pub const PAYMENT_METHOD: Kind = Kind("pm_1", 23);
pub const FINGERPRINT: Kind = Kind("", 16);
pub const COUPON: Kind = Kind("", 9);
pub const CODE: Kind = Kind("", 7);
pub const PROMOTION_CODE: Kind = Kind("promo_1", 23);
pub const DISCOUNT: Kind = Kind("di_1", 23);
pub const PORTAL_SESSION: Kind = Kind("bps_1", 23);
pub const UPCOMING: Kind = Kind("upcoming_in_1", 23);
pub const TEST_CLOCK: Kind = Kind("clock_1", 23);
pub const INVOICE_PREFIX: Kind = Kind("", 8);
pub const EVENT: Kind = Kind("evt_1", 23);
pub const ENDPOINT: Kind = Kind("we_1", 23);
pub const ENDPOINT_SECRET: Kind = Kind("whsec_", 32);
pub const REQUEST: Kind = Kind("req_", 14);
pub const DELIVERY: Kind = Kind("dlv_", 14);

const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Mints ids of every kind.
#[derive(Clone, Debug)]
pub struct Ids {
    seed: u64,
    counters: BTreeMap<Kind, u64>,
}

impl Ids {
    pub fn new(seed: u64) -> Self {
        Self { seed, counters: BTreeMap::new() }
    }

    /// The next id of `kind`.
    pub fn mint(&mut self, kind: Kind) -> String {
        let counter = self.counters.entry(kind).or_insert(0);
        *counter += 1;
        derive(kind, &[&self.seed.to_be_bytes(), &counter.to_be_bytes()])
    }
}

/// An id that follows from its material alone, for rows that are computed and not stored.
pub fn derive(kind: Kind, material: &[&[u8]]) -> String {
    let mut id = String::with_capacity(kind.0.len() + kind.1);
    id.push_str(kind.0);
    let mut block = 0u8;
    while id.len() < kind.0.len() + kind.1 {
        let mut hash = Sha256::new();
        hash.update([block]);
        hash.update(kind.0.as_bytes());
        for part in material {
            hash.update((part.len() as u64).to_be_bytes()); // Lengths keep ("ab","c") from ("a","bc").
            hash.update(part);
        }
        let room = kind.0.len() + kind.1 - id.len();
        id.extend(
            hash.finalize()
                .iter()
                .take(room)
                .map(|byte| char::from(ALPHABET[usize::from(byte % 62)])),
        );
        block += 1;
    }
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_mints_the_same_ids_in_any_interleaving_of_kinds() {
        let (mut left, mut right) = (Ids::new(7), Ids::new(7));
        let first = left.mint(CUSTOMER);
        right.mint(REQUEST);
        assert_eq!(first, right.mint(CUSTOMER));
        assert_ne!(first, left.mint(CUSTOMER));
        assert_ne!(first, Ids::new(8).mint(CUSTOMER));
    }

    #[test]
    fn an_id_has_its_prefix_and_length() {
        let id = Ids::new(1).mint(SESSION);
        assert_eq!((&id[..8], id.len()), ("cs_test_", 66));
        assert_ne!(derive(SUMMARY, &[b"ab", b"c"]), derive(SUMMARY, &[b"a", b"bc"]));
    }
}
