//! Who may call what: a key's status, its end, its list of tools, the scopes that tools need.
//!
//! Absent on purpose: finding the key (the shell looks it up by digest) and how much it may call (`lease_book`).

use schemas::{KeyState, KeyStatus, Timestamp};

use crate::{
    Refusal,
    scope::{HeldScopes, ToolScopes},
};

/// Whether the key may talk to this node at all.
///
/// # Errors
/// A revoked key is refused as one that does not exist.
pub fn check_key(state: &KeyState, now: Timestamp) -> Result<(), Refusal> {
    match state.status {
        KeyStatus::Revoked => return Err(Refusal::Unauthorized),
        KeyStatus::Active | KeyStatus::Pending | KeyStatus::Suspended => {}
    }
    if state.expires_at.is_some_and(|end| now >= end) {
        return Err(Refusal::KeyExpired);
    }
    match state.status {
        KeyStatus::Pending => Err(Refusal::KeyPending(state.reason.clone())),
        KeyStatus::Suspended => Err(Refusal::KeySuspended(state.reason.clone())),
        KeyStatus::Active | KeyStatus::Revoked => Ok(()),
    }
}

/// Whether the key may call the tool. Names are compared byte for byte, as servers do.
///
/// # Errors
/// The key has a list of tools and this is none of them.
pub fn check_tool(state: &KeyState, tool: &str) -> Result<(), Refusal> {
    match &state.tools {
        Some(tools) if !tools.iter().any(|allowed| allowed == tool) => Err(Refusal::ToolNotAllowed),
        _ => Ok(()),
    }
}

/// Whether the caller holds the scope that the tool needs.
///
/// # Errors
/// It does not; the refusal names the scope.
pub fn check_scope(needs: &ToolScopes, held: HeldScopes<'_>, tool: &str) -> Result<(), Refusal> {
    match needs.needed(tool) {
        Some(scope) if !held.covers(scope) => Err(Refusal::InsufficientScope(scope.to_owned())),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use schemas::{KeyDigest, KeyId, ProjectId, Shard, TenantId};
    use uuid::Uuid;

    use super::*;

    fn state(status: KeyStatus, expires_at: Option<i64>, tools: Option<&[&str]>) -> KeyState {
        KeyState {
            key: KeyId(Uuid::from_u128(1)),
            tenant: TenantId(Uuid::from_u128(2)),
            project: ProjectId(Uuid::from_u128(3)),
            shard: Shard(0),
            digest: KeyDigest([0; 32]),
            status,
            reason: "why".into(),
            plan: None,
            scopes: vec![],
            tools: tools.map(|tools| tools.iter().map(ToString::to_string).collect()),
            expires_at: expires_at.map(Timestamp),
            rate: None,
            limited: false,
            as_of: 1,
        }
    }

    #[test]
    fn keys() {
        #[track_caller]
        fn check(status: KeyStatus, expires_at: Option<i64>, http: u16) {
            let answer = check_key(&state(status, expires_at, None), Timestamp(100));
            assert_eq!(
                answer.map_or_else(|refusal| refusal.status(), |()| 200),
                http,
                "{status:?} {expires_at:?}"
            );
        }
        check(KeyStatus::Active, None, 200);
        check(KeyStatus::Active, Some(101), 200);
        check(KeyStatus::Active, Some(100), 401);
        check(KeyStatus::Pending, None, 402);
        check(KeyStatus::Suspended, None, 402);
        check(KeyStatus::Suspended, Some(100), 401);
        check(KeyStatus::Revoked, None, 401);
        check(KeyStatus::Revoked, Some(100), 401);
    }

    #[test]
    fn a_revoked_key_is_refused_as_one_that_never_was() {
        let revoked = state(KeyStatus::Revoked, Some(1), None);
        assert_eq!(check_key(&revoked, Timestamp(100)), Err(Refusal::Unauthorized));
    }

    #[test]
    fn a_tool_that_needs_a_scope_is_for_those_who_hold_it() {
        let entry = ("debate_*".to_owned(), "debate:start".to_owned());
        let needs = ToolScopes::try_new([entry]).unwrap();
        let check = |scopes: &[&str], tool| {
            let key: Vec<String> = scopes.iter().map(ToString::to_string).collect();
            check_scope(&needs, HeldScopes { key: &key, token: None }, tool)
        };
        assert_eq!(check(&["debate:*"], "debate_now"), Ok(()));
        assert_eq!(check(&[], "debate_now"), Ok(()), "a key without scopes has all");
        assert_eq!(check(&["context:read"], "echo"), Ok(()), "no entry, no scope needed");
        let lacks = Err(Refusal::InsufficientScope("debate:start".into()));
        assert_eq!(check(&["context:read"], "debate_now"), lacks);
    }

    #[test]
    fn tools_are_compared_byte_for_byte() {
        let may = |tools: Option<&[&str]>, tool| {
            check_tool(&state(KeyStatus::Active, None, tools), tool).is_ok()
        };
        assert!(may(None, "any"));
        assert!(may(Some(&["echo", "add"]), "add"));
        assert!(!may(Some(&["echo"]), "Echo"));
        assert!(!may(Some(&["echo"]), "echo "));
        assert!(!may(Some(&[]), "echo"));
    }
}
