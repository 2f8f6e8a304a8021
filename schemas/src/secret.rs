//! API key secrets: their form, their check characters, and the digest that alone is stored.
//!
//! `tb_<43 characters of base 62: 256 random bits><6 characters of base 62: the first 32 bits of SHA-256
//! over all before them>`. The check characters find a typing error, or a scanner a leaked key, with no
//! look-up; they protect nothing. A random 256-bit secret needs no slow hash: SHA-256 is its digest.

use std::{fmt, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// What every secret begins with.
pub const PREFIX: &str = "tb_";
const BODY: usize = 43;
const CHECK: usize = 6;
const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Writes a secret around 32 random bytes; whoever calls brings the randomness.
#[must_use]
pub fn write(random: [u8; 32]) -> String {
    let mut secret = PREFIX.to_owned();
    secret.push_str(&base62(random, BODY));
    let check = check_characters(&secret);
    secret.push_str(&check);
    secret
}

/// Whether a text has a secret's form, its check characters included. Says nothing about whether the key exists.
#[must_use]
pub fn is_well_formed(text: &str) -> bool {
    let plain = text.len() == PREFIX.len() + BODY + CHECK
        && text.starts_with(PREFIX)
        && text.bytes().skip(PREFIX.len()).all(|b| b.is_ascii_alphanumeric());
    plain
        && text.get(PREFIX.len() + BODY..)
            == Some(check_characters(&text[..PREFIX.len() + BODY]).as_str())
}

/// What may be shown of a secret for ever: its beginning and its last four characters.
#[must_use]
pub fn hint(secret: &str) -> String {
    let tail: String = secret.chars().skip(secret.chars().count().saturating_sub(4)).collect();
    format!("{PREFIX}…{tail}")
}

fn check_characters(text: &str) -> String {
    let digest: [u8; 32] = Sha256::digest(text.as_bytes()).into();
    let mut head = [0; 32];
    head[28..].copy_from_slice(&digest[..4]);
    base62(head, CHECK)
}

/// A 256-bit number in base 62, most significant digit first, padded with zeros to `width`.
fn base62(mut number: [u8; 32], width: usize) -> String {
    let mut digits = vec![b'0'; width];
    for digit in digits.iter_mut().rev() {
        let mut remainder: u16 = 0;
        for byte in &mut number {
            let value = remainder * 256 + u16::from(*byte);
            *byte = u8::try_from(value / 62)
                .expect("a remainder under 62 times 256 over 62 fits a byte");
            remainder = value % 62;
        }
        *digit = DIGITS[usize::from(remainder)];
    }
    digits.into_iter().map(char::from).collect()
}

/// SHA-256 of a secret: what is stored, compared and used to find a key. In JSON 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
pub struct KeyDigest(#[schemars(with = "String", regex(pattern = r"^[0-9a-f]{64}$"))] pub [u8; 32]);

/// A text that is no digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not 64 lower-case hexadecimal digits")]
pub struct DigestError;

impl KeyDigest {
    /// The digest of a secret.
    #[must_use]
    pub fn of(secret: &str) -> Self {
        Self(Sha256::digest(secret.as_bytes()).into())
    }
}

impl fmt::Display for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Enough to tell two apart in a log, too little to look one up by.
        write!(f, "KeyDigest({}…)", &hex::encode(self.0)[..8])
    }
}

impl FromStr for KeyDigest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let mut bytes = [0; 32];
        let lower = !text.bytes().any(|b| b.is_ascii_uppercase());
        match hex::decode_to_slice(text, &mut bytes) {
            Ok(()) if lower => Ok(Self(bytes)),
            _ => Err(DigestError),
        }
    }
}

impl TryFrom<String> for KeyDigest {
    type Error = DigestError;

    fn try_from(text: String) -> Result<Self, DigestError> {
        text.parse()
    }
}

impl From<KeyDigest> for String {
    fn from(digest: KeyDigest) -> String {
        digest.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_wrong_character_is_seen_without_a_look_up() {
        let secret = write([7; 32]);
        assert_eq!(secret.len(), 52);
        assert!(is_well_formed(&secret));
        for place in PREFIX.len()..secret.len() {
            let mut typo = secret.clone().into_bytes();
            typo[place] = if typo[place] == b'x' { b'y' } else { b'x' };
            assert!(!is_well_formed(std::str::from_utf8(&typo).unwrap()), "at {place}");
        }
        for other in ["", "tb_", &secret[1..], &format!("{secret}0"), &secret.replace("tb_", "tbä")]
        {
            assert!(!is_well_formed(other), "{other}");
        }
    }

    #[test]
    fn secrets_keep_all_their_bits() {
        assert_ne!(
            write([0; 32]),
            write({
                let mut one = [0; 32];
                one[0] = 1;
                one
            })
        );
        assert_ne!(
            write([0; 32]),
            write({
                let mut one = [0; 32];
                one[31] = 1;
                one
            })
        );
        assert!(is_well_formed(&write([255; 32])));
    }

    #[test]
    fn a_digest_shows_little_in_a_log_and_reads_back_whole() {
        let digest = KeyDigest::of("tb_x");
        assert_eq!(digest.to_string().parse(), Ok(digest));
        assert!(!format!("{digest:?}").contains(&digest.to_string()));
        assert!("AB".repeat(32).parse::<KeyDigest>().is_err());
    }
}
