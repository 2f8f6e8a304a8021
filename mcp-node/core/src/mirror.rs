//! Headers that repeat the body (2026-07-28: `Mcp-Method`, `Mcp-Name`): they must say what the body says.
//!
//! We decide by the body; a server behind us may route by the header. So a difference is refused.

use std::borrow::Cow;

use crate::Refusal;

/// Compares one header with what the body says. A header that is absent says nothing.
///
/// `header` holds the header's values; a name or method beyond plain text may come as `=?base64?...?=`, which
/// `decode` turns into bytes.
///
/// # Errors
/// Two headers of this name, one that cannot be read, or one that differs.
pub fn check<'a>(
    mut header: impl Iterator<Item = &'a [u8]>,
    body: &str,
    decode: impl Fn(&[u8]) -> Option<Vec<u8>>,
) -> Result<(), Refusal> {
    let Some(value) = header.next() else { return Ok(()) };
    if header.next().is_some() {
        return Err(Refusal::HeaderMismatch(
            "A header that mirrors the body stands more than once.",
        ));
    }
    let encoded = value.strip_prefix(b"=?base64?").and_then(|rest| rest.strip_suffix(b"?="));
    let said = match encoded {
        Some(text) => decode(text).map(Cow::Owned),
        None => Some(Cow::Borrowed(value.trim_ascii())),
    };
    if said.as_deref() == Some(body.as_bytes()) {
        return Ok(());
    }
    Err(Refusal::HeaderMismatch("A header that mirrors the body says something else."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_says_what_the_body_says_or_nothing() {
        let backwards = |text: &[u8]| Some(text.iter().rev().copied().collect::<Vec<u8>>());
        let check = |values: &[&'static str], body| {
            check(values.iter().map(|v| v.as_bytes()), body, backwards).is_ok()
        };
        assert!(check(&[], "echo"));
        assert!(check(&["echo"], "echo"));
        assert!(check(&[" echo "], "echo"));
        assert!(check(&["=?base64?ohce?="], "echo"));
        assert!(!check(&["=?base64?echo?="], "echo"));
        assert!(!check(&["Echo"], "echo"));
        assert!(!check(&["echo", "echo"], "echo"), "one of them could be read, or the other");
        assert!(!check(&[""], "echo"));
    }
}
