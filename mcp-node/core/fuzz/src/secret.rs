//! A text has the form of a secret only if its check characters say so, and what may be shown of it is not it.

use schemas::{KeyDigest, secret};

/// Looks at `bytes` as a secret, and makes a secret of them.
pub fn check(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        let well_formed = secret::is_well_formed(text);
        assert!(!well_formed || text.is_ascii());
        assert!(
            secret::hint(text).chars().count() <= secret::PREFIX.len() + 5,
            "a hint tells too much"
        );
        assert!(text.parse::<KeyDigest>().is_err() || text.len() == 64);
    }
    let mut random = [0; 32];
    for (place, byte) in random.iter_mut().zip(bytes) {
        *place = *byte;
    }
    let made = secret::write(random);
    assert!(secret::is_well_formed(&made));
    let wrong = bytes.first().map_or(0, |byte| usize::from(*byte)) % made.len();
    let other = if made.as_bytes()[wrong] == b'x' { "y" } else { "x" };
    let mut mistyped = made.clone();
    mistyped.replace_range(wrong..=wrong, other);
    assert!(!secret::is_well_formed(&mistyped), "{mistyped} passes for {made}");
}
