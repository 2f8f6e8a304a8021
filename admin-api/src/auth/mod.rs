//! Who may ask: operators by bearer token (the API), people by a session cookie (the pages).
//!
//! The API never takes the cookie and the pages change nothing, so a forged request from another site has nothing
//! to ride on.

pub mod bearer;
pub mod session;

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// A secret as it is kept and compared: by digest, in constant time, whatever the lengths are.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    #[must_use]
    pub fn of(secret: &str) -> Self {
        Self(Sha256::digest(secret.as_bytes()).into())
    }

    #[must_use]
    pub fn matches(self, other: Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}
