//! How often something may happen from one client address: so many times a minute, all at once or spread.
//!
//! The generic cell rate algorithm: an address is one number, the moment at which all that it did will have been paid
//! off. Addresses of one IPv6 /64 are one, since whoever has one of them has all. Memory is bounded: two generations, of
//! which the older is forgotten when the younger is full; an address that is forgotten begins anew.

use std::{collections::HashMap, net::IpAddr};

const MINUTE_US: u64 = 60_000_000;

/// How many addresses a generation holds.
const MAX_ADDRESSES: usize = 32_768;

/// What happened from which address.
#[derive(Debug, Default)]
pub struct AddressLimit {
    young: HashMap<u128, u64>,
    old: HashMap<u128, u64>,
}

impl AddressLimit {
    /// Counts one from `address`, at `now_us` on a clock that never goes back; 0 a minute = any number.
    ///
    /// # Errors
    /// It would be too many; what it would have to wait. Unit: milliseconds. Then it is not counted.
    pub fn count(&mut self, address: IpAddr, per_minute: u32, now_us: u64) -> Result<(), u64> {
        if per_minute == 0 {
            return Ok(());
        }
        let group = group(address);
        let before = self.young.get(&group).or_else(|| self.old.get(&group)).copied();
        let paid_off = before.unwrap_or(0).max(now_us) + MINUTE_US / u64::from(per_minute);
        let beyond = (paid_off - now_us).saturating_sub(MINUTE_US);
        if beyond > 0 {
            return Err(beyond.div_ceil(1_000));
        }
        if self.young.len() >= MAX_ADDRESSES && !self.young.contains_key(&group) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(group, paid_off);
        Ok(())
    }

    /// How many addresses are remembered.
    #[must_use]
    pub fn addresses(&self) -> usize {
        self.young.len() + self.old.len()
    }
}

/// What stands for an address and all that go by the same hand.
fn group(address: IpAddr) -> u128 {
    match address.to_canonical() {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => address.to_bits() & !u128::from(u64::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn so_many_a_minute_at_once_or_spread() {
        let mut limit = AddressLimit::default();
        let (one, other) = (address("192.0.2.1"), address("192.0.2.2"));
        for _ in 0..6 {
            assert_eq!(limit.count(one, 6, 0), Ok(()));
        }
        assert_eq!(limit.count(one, 6, 0), Err(10_000));
        assert_eq!(limit.count(one, 6, 4 * SECOND), Err(6_000));
        assert_eq!(limit.count(other, 6, 0), Ok(()));
        assert_eq!(limit.count(one, 6, 10 * SECOND), Ok(()));
        assert_eq!(limit.count(one, 6, 10 * SECOND), Err(10_000));
        assert_eq!(limit.count(one, 0, 10 * SECOND), Ok(()));
        let refused = (0..6).filter(|_| limit.count(one, 6, 90 * SECOND).is_err()).count();
        assert_eq!(refused, 0, "after a minute all may come again");
    }

    #[test]
    fn whoever_has_one_address_of_a_network_has_all() {
        let mut limit = AddressLimit::default();
        assert!(limit.count(address("2001:db8::1"), 1, 0).is_ok());
        assert!(limit.count(address("2001:db8::ffff:0:0:2"), 1, 0).is_err());
        assert!(limit.count(address("2001:db8:0:1::1"), 1, 0).is_ok());
        assert!(limit.count(address("192.0.2.1"), 1, 0).is_ok());
        assert!(limit.count(address("::ffff:192.0.2.1"), 1, 0).is_err());
    }

    #[test]
    fn memory_is_bounded_and_the_newest_stay() {
        let mut limit = AddressLimit::default();
        let last = u32::try_from(5 * MAX_ADDRESSES).unwrap();
        for bits in 0..last {
            assert!(limit.count(IpAddr::V4(bits.into()), 1, 0).is_ok());
            assert!(limit.addresses() <= 2 * MAX_ADDRESSES);
        }
        assert!(limit.count(IpAddr::V4((last - 1).into()), 1, 0).is_err());
        assert!(limit.count(IpAddr::V4(0.into()), 1, 0).is_ok(), "forgotten");
    }
}
