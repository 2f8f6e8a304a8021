//! Scopes: what a tool needs, and what a key and its token hold.
//!
//! What a tool needs is the operator's word, by name or by the beginning of names; the most specific entry speaks. What
//! is held is the key's (none = all), and where a token came, the token's too: both must cover what is needed. Absent on
//! purpose: which tools a key lists by name (`gate`), and where tokens come from.

use std::collections::{BTreeMap, BTreeSet};

/// What tools need.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ToolScopes {
    by_name: BTreeMap<String, String>,
    /// Beginnings of names, the longest first.
    by_prefix: Vec<(String, String)>,
}

/// An entry that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScopeError {
    #[error("`{0}` is no tool's name, nor the beginning of one with a `*` at its end")]
    Pattern(String),
    #[error("`{0}` is no scope: visible ASCII without quotes, backslash and `*`")]
    Scope(String),
    #[error("`{0}` stands twice")]
    Twice(String),
}

impl ToolScopes {
    /// Reads entries: a tool's name, or the beginning of names and `*`, with the scope that those tools need.
    ///
    /// # Errors
    /// See [`ScopeError`].
    pub fn try_new(
        entries: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ScopeError> {
        let (mut by_name, mut by_prefix) = (BTreeMap::new(), BTreeMap::new());
        for (pattern, scope) in entries {
            if !is_scope(&scope) {
                return Err(ScopeError::Scope(scope));
            }
            let (known, name) = match pattern.strip_suffix('*') {
                Some(prefix) => (&mut by_prefix, prefix),
                None if pattern.is_empty() => return Err(ScopeError::Pattern(pattern)),
                None => (&mut by_name, pattern.as_str()),
            };
            if name.contains('*') {
                return Err(ScopeError::Pattern(pattern));
            }
            if known.insert(name.to_owned(), scope).is_some() {
                return Err(ScopeError::Twice(pattern));
            }
        }
        let mut by_prefix: Vec<(String, String)> = by_prefix.into_iter().collect();
        by_prefix.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
        Ok(Self { by_name, by_prefix })
    }

    /// The scope that a tool needs; `None` = it needs none.
    #[must_use]
    pub fn needed(&self, tool: &str) -> Option<&str> {
        if let Some(scope) = self.by_name.get(tool) {
            return Some(scope);
        }
        let found = self.by_prefix.iter().find(|(prefix, _)| tool.starts_with(prefix.as_str()));
        found.map(|(_, scope)| scope.as_str())
    }

    /// Every scope that some tool needs.
    #[must_use]
    pub fn all(&self) -> BTreeSet<&str> {
        let prefixed = self.by_prefix.iter().map(|(_, scope)| scope.as_str());
        self.by_name.values().map(String::as_str).chain(prefixed).collect()
    }

    /// Whether no tool needs any.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty() && self.by_prefix.is_empty()
    }
}

/// A scope-token of RFC 6749, section 3.3, without the wildcard: it goes into headers as it is.
fn is_scope(text: &str) -> bool {
    let fits = |byte: u8| matches!(byte, 0x21 | 0x23..=0x5b | 0x5d..=0x7e) && byte != b'*';
    !text.is_empty() && text.bytes().all(fits)
}

/// What a caller holds.
#[derive(Clone, Copy, Debug)]
pub struct HeldScopes<'a> {
    /// The key's; empty = all.
    pub key: &'a [String],
    /// Those of the token that the caller showed; `None` = it showed the key itself.
    pub token: Option<&'a [String]>,
}

impl HeldScopes<'_> {
    /// Whether the caller may do what needs this scope.
    #[must_use]
    pub fn covers(&self, needed: &str) -> bool {
        let any = |held: &[String]| held.iter().any(|held| covers(held, needed));
        (self.key.is_empty() || any(self.key)) && self.token.is_none_or(any)
    }

    /// The scopes that cover what the caller may do, and nothing else; `*` = everything.
    #[must_use]
    pub fn effective(&self) -> Vec<String> {
        let all = ["*".to_owned()];
        let key = if self.key.is_empty() { &all[..] } else { self.key };
        let token = self.token.unwrap_or(&all);
        // Two wildcards are one within the other, or have nothing in common.
        let within = |some: &[String], others: &[String]| -> Vec<String> {
            let covered = |one: &&String| others.iter().any(|other| covers(other, one));
            some.iter().filter(covered).cloned().collect()
        };
        let both: BTreeSet<String> =
            within(key, token).into_iter().chain(within(token, key)).collect();
        both.into_iter().collect()
    }

    /// Whether there may be a scope that the caller does not hold.
    #[must_use]
    pub fn is_bounded(&self) -> bool {
        !self.key.is_empty() || self.token.is_some()
    }
}

/// Whether one scope that is held covers another that is needed: the same one, `debate:*` for `debate:start`, or `*`.
#[must_use]
pub fn covers(held: &str, needed: &str) -> bool {
    match held.strip_suffix('*') {
        Some("") => true,
        Some(family) if family.ends_with(':') => {
            needed.len() > family.len() && needed.starts_with(family)
        }
        _ => held == needed,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn scopes(entries: &[(&str, &str)]) -> Result<ToolScopes, ScopeError> {
        ToolScopes::try_new(entries.iter().map(|(tool, scope)| ((*tool).into(), (*scope).into())))
    }

    fn owned(texts: &[&str]) -> Vec<String> {
        texts.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_wildcard_covers_its_family_and_nothing_beside_it() {
        #[track_caller]
        fn check(held: &str, needed: &str, expected: bool) {
            assert_eq!(covers(held, needed), expected, "{held} for {needed}");
        }
        check("context:read", "context:read", true);
        check("context:read", "context:write", false);
        check("context:read", "context:read:deep", false);
        check("Context:read", "context:read", false);
        check("debate:*", "debate:start", true);
        check("debate:*", "debate:start:now", true);
        check("debate:*", "debate:", false);
        check("debate:*", "debate", false);
        check("debate:*", "debates:start", false);
        check("deb*", "debate:start", false);
        check("*", "debate:start", true);
        check("", "debate:start", false);
        check(":*", "debate:start", false);
    }

    #[test]
    fn the_max_specific_entry_says_what_a_tool_needs() {
        let scopes = scopes(&[
            ("*", "any:use"),
            ("debate_*", "debate:use"),
            ("debate_start*", "debate:start"),
            ("debate_starter", "context:read"),
        ]);
        let scopes = scopes.unwrap();
        for (tool, scope) in [
            ("echo", "any:use"),
            ("debate_end", "debate:use"),
            ("debate_", "debate:use"),
            ("debate_start", "debate:start"),
            ("debate_started", "debate:start"),
            ("debate_starter", "context:read"),
        ] {
            assert_eq!(scopes.needed(tool), Some(scope), "{tool}");
        }
        assert_eq!(ToolScopes::default().needed("echo"), None);
        let all: Vec<&str> = scopes.all().into_iter().collect();
        assert_eq!(all, ["any:use", "context:read", "debate:start", "debate:use"]);
    }

    #[test]
    fn both_the_key_and_its_token_must_hold_it() {
        #[track_caller]
        fn check(key: &[&str], token: Option<&[&str]>, expected: bool) {
            let (key, token) = (owned(key), token.map(owned));
            let held = HeldScopes { key: &key, token: token.as_deref() };
            assert_eq!(held.covers("context:read"), expected, "{held:?}");
        }
        check(&[], None, true);
        check(&["context:*"], None, true);
        check(&["debate:*"], None, false);
        check(&[], Some(&["context:read"]), true);
        check(&[], Some(&[]), false);
        check(&["context:read"], Some(&["debate:*"]), false);
        check(&["debate:*"], Some(&["context:read"]), false);
        check(&["context:*", "debate:*"], Some(&["x", "context:read"]), true);
    }

    #[test]
    fn what_cannot_be_a_header_or_a_name_is_refused() {
        let pattern = |text: &str| Err(ScopeError::Pattern(text.into()));
        let scope = |text: &str| Err(ScopeError::Scope(text.into()));
        assert_eq!(scopes(&[("", "a")]), pattern(""));
        assert_eq!(scopes(&[("a*b", "a")]), pattern("a*b"));
        assert_eq!(scopes(&[("a**", "a")]), pattern("a**"));
        for bad in ["", "a b", "a\"", "a\\", "a:*", "é", "a\r\nx: y"] {
            assert_eq!(scopes(&[("tool", bad)]), scope(bad));
        }
        assert_eq!(scopes(&[("a", "x"), ("a", "y")]), Err(ScopeError::Twice("a".into())));
        assert!(scopes(&[("a", "x"), ("a*", "y")]).is_ok(), "a name and a beginning of names");
    }

    proptest! {
        /// More scopes never take anything away; a token never adds to what its key holds.
        #[test]
        fn holding_is_monotone_and_a_token_only_narrows(
            key in proptest::collection::vec("[ab*]{0,2}:?[ab*]{0,2}", 1..4),
            token in proptest::collection::vec("[ab*]{0,2}:?[ab*]{0,2}", 0..4),
            more in "[ab]{1,2}:[ab*]{1,2}",
            needed in "[ab]{1,2}:[ab]{1,2}",
        ) {
            let with = |key: &[String], token: Option<&[String]>| HeldScopes { key, token }.covers(&needed);
            let both = with(&key, Some(&token));
            prop_assert_eq!(both, with(&key, None) && with(&[], Some(&token)));
            let effective = HeldScopes { key: &key, token: Some(&token) }.effective();
            prop_assert_eq!(both, effective.iter().any(|held| covers(held, &needed)), "{:?}", effective);
            let mut wider = key.clone();
            wider.push(more);
            prop_assert!(!both || with(&wider, Some(&token)));
        }
    }
}
