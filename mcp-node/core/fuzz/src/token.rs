//! A token is read or refused, and what is taken of one is within what was asked for.

use mcp_node_core::token::{Expected, LONGEST, read};
use schemas::Timestamp;

/// Looks at `bytes` as a token of an issuer that it names itself.
pub fn check(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (issuer, audience) = ("i".to_owned(), "a".to_owned());
    let expected = Expected { issuer, audience, key_claim: "tollbook_key".to_owned() };
    let Ok(parts) = read(text) else { return };
    assert!(text.len() <= LONGEST);
    assert!(text.starts_with(parts.signed) && parts.signed.len() < text.len());
    for now in [0, i64::MIN, i64::MAX] {
        let Ok(said) = parts.said(&expected, Timestamp(now)) else { continue };
        assert!(now < said.until.0, "it is over");
        assert!(said.scopes.iter().all(|scope| !scope.is_empty() && !scope.contains(' ')));
        assert_eq!(parts.check_issuer(&expected), Ok(()));
    }
}
