//! Decides what a command means for the directory. Pure: no clock, no randomness, no I/O.

use schemas::{ControlFact, KeyId, ProjectId, Scope, TenantId, Timestamp, subject};

use super::{
    Directory,
    command::{Command, RotateKey},
};

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Append these facts on this subject, if its last sequence is still `expected`.
    Append { tenant: TenantId, subject: String, expected: u64, facts: Vec<ControlFact> },
    /// It is so already; nothing is appended.
    AlreadySo,
}

/// Why a command is not obeyed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("there is no tenant {0}")]
    NoTenant(TenantId),
    #[error("there is no project {0}")]
    NoProject(ProjectId),
    #[error("there is no API key {0}")]
    NoKey(KeyId),
    #[error("the API key {0} is revoked")]
    Revoked(KeyId),
    #[error("`expires_at` lies in the past")]
    AlreadyExpired,
    #[error("message {0} of the control log could not be read: what it decided here is not known")]
    UnreadableHistory(u64),
}

/// Decides. `now` is the shell's clock.
///
/// # Errors
/// See [`Refusal`].
pub fn decide(
    directory: &Directory,
    command: &Command,
    now: Timestamp,
) -> Result<Verdict, Refusal> {
    let (tenant, facts) = facts_of(directory, command)?;
    match command {
        Command::CreateKey(create) if create.expires_at.is_some_and(|end| end <= now) => {
            return Err(Refusal::AlreadyExpired);
        }
        Command::RevokeKey { key }
            if directory.key(*key).is_some_and(|key| key.revoked_at.is_some()) =>
        {
            return Ok(Verdict::AlreadySo);
        }
        Command::RotateKey(RotateKey { key, .. }) | Command::SetRate { key, .. }
            if directory.key(*key).is_some_and(|key| key.revoked_at.is_some()) =>
        {
            return Err(Refusal::Revoked(*key));
        }
        // A quota is said again even when it holds already: a decision is what its idempotency key is known by.
        Command::CreateTenant { .. }
        | Command::CreateProject { .. }
        | Command::CreateKey(_)
        | Command::RevokeKey { .. }
        | Command::RotateKey(_)
        | Command::SetRate { .. }
        | Command::SetQuota(_) => {}
    }
    // A decision goes to the subject of its first fact.
    let subject = facts.first().map(subject::control).unwrap_or_default();
    if let Some(unreadable) =
        directory.unreadable().iter().rev().find(|message| message.subject == subject)
    {
        return Err(Refusal::UnreadableHistory(unreadable.seq));
    }
    let expected = directory.last_on(&subject);
    Ok(Verdict::Append { tenant, subject, expected, facts })
}

/// The facts that a command comes to, whether they hold already or not, and whose they are.
///
/// # Errors
/// What it names does not exist.
pub fn facts_of(
    directory: &Directory,
    command: &Command,
) -> Result<(TenantId, Vec<ControlFact>), Refusal> {
    match command {
        Command::CreateTenant { tenant, name, time_zone, billing } => {
            let (name, time_zone) = (name.clone(), time_zone.clone());
            let fact =
                ControlFact::TenantCreated { tenant: *tenant, name, time_zone, billing: *billing };
            Ok((*tenant, vec![fact]))
        }
        Command::CreateProject { tenant, project, name } => {
            directory.tenant(*tenant).ok_or(Refusal::NoTenant(*tenant))?;
            let fact = ControlFact::ProjectCreated {
                tenant: *tenant,
                project: *project,
                name: name.clone(),
            };
            Ok((*tenant, vec![fact]))
        }
        Command::CreateKey(create) => {
            let project =
                directory.project(create.project).ok_or(Refusal::NoProject(create.project))?;
            Ok((project.tenant, create.facts(project.tenant)))
        }
        Command::RevokeKey { key } => {
            let found = directory.key(*key).ok_or(Refusal::NoKey(*key))?;
            Ok((found.tenant, vec![ControlFact::KeyRevoked { key: *key }]))
        }
        Command::RotateKey(RotateKey { key, digest, hint, former_until }) => {
            let found = directory.key(*key).ok_or(Refusal::NoKey(*key))?;
            let fact = ControlFact::KeyRotated {
                key: *key,
                digest: *digest,
                hint: hint.clone(),
                former_until: *former_until,
            };
            Ok((found.tenant, vec![fact]))
        }
        Command::SetRate { key, rate } => {
            let found = directory.key(*key).ok_or(Refusal::NoKey(*key))?;
            Ok((found.tenant, vec![ControlFact::KeyRateSet { key: *key, rate: *rate }]))
        }
        Command::SetQuota(quota) => {
            let tenant = directory.owner(quota.scope).ok_or(match quota.scope {
                Scope::Tenant(id) => Refusal::NoTenant(id),
                Scope::Project(id) => Refusal::NoProject(id),
                Scope::Key(id) => Refusal::NoKey(id),
            })?;
            Ok((tenant, vec![ControlFact::QuotaSet { quota: quota.clone() }]))
        }
    }
}

#[cfg(test)]
mod tests {
    use schemas::{
        BillingMode, KeyDigest, MeterName, PeriodRule, Quantity, QuotaKind, QuotaRule, RateLimits,
    };
    use uuid::Uuid;

    use super::*;
    use crate::directory::{
        command::CreateKey,
        evolve::tests::{control, directory},
    };

    const TENANT: TenantId = TenantId(Uuid::from_u128(1));
    const PROJECT: ProjectId = ProjectId(Uuid::from_u128(2));
    const KEY: KeyId = KeyId(Uuid::from_u128(3));
    const NOW: Timestamp = Timestamp(1_000);

    fn tenant_created() -> ControlFact {
        let (name, time_zone) = ("Acme".into(), "UTC".into());
        ControlFact::TenantCreated { tenant: TENANT, name, time_zone, billing: BillingMode::None }
    }

    fn project_created() -> ControlFact {
        ControlFact::ProjectCreated { tenant: TENANT, project: PROJECT, name: "Search".into() }
    }

    fn create_key(expires_at: Option<Timestamp>, quota: Option<QuotaRule>) -> CreateKey {
        CreateKey {
            key: KEY,
            project: PROJECT,
            name: "k".into(),
            digest: KeyDigest([7; 32]),
            hint: "tb_…abcd".into(),
            scopes: vec![],
            tools: None,
            expires_at,
            quota,
        }
    }

    fn quota(scope: Scope, limit: u64) -> QuotaRule {
        let (meter, kind, period) = (MeterName::tool_calls(), QuotaKind::Hard, PeriodRule::Month);
        QuotaRule { scope, meter, limit: Quantity(limit), kind, period }
    }

    #[test]
    fn commands() {
        #[track_caller]
        #[allow(clippy::needless_pass_by_value, reason = "rows read better")]
        fn check(given: &[ControlFact], when: &Command, then: Result<Verdict, Refusal>) {
            assert_eq!(
                decide(&directory(given), when, NOW),
                then,
                "given {given:?}, when {when:?}"
            );
        }
        let on = |subject: &str, expected, facts| {
            let subject = subject.to_owned();
            Ok(Verdict::Append { tenant: TENANT, subject, expected, facts })
        };
        let key_subject = format!("control.key.{KEY}");
        let key_created = create_key(None, None).facts(TENANT).remove(0);
        let given = [tenant_created(), project_created(), key_created.clone()];
        let (none, with_project) = (&given[..0], &given[..2]);
        let new_project =
            Command::CreateProject { tenant: TENANT, project: PROJECT, name: "Search".into() };
        let new_key = |expires_at, quota| Command::CreateKey(create_key(expires_at, quota));
        let revoke = Command::RevokeKey { key: KEY };
        let set = |scope, limit| Command::SetQuota(quota(scope, limit));

        check(none, &new_project, Err(Refusal::NoTenant(TENANT)));
        check(
            &given[..1],
            &new_project,
            on(&format!("control.project.{PROJECT}"), 0, vec![project_created()]),
        );
        check(&given[..1], &new_key(None, None), Err(Refusal::NoProject(PROJECT)));
        check(with_project, &new_key(None, None), on(&key_subject, 0, vec![key_created]));
        check(with_project, &new_key(Some(NOW), None), Err(Refusal::AlreadyExpired));
        // The quota comes in the same decision, and always limits the new key, whatever scope was named.
        let limited = new_key(Some(NOW.plus_ms(1)), Some(quota(Scope::Tenant(TENANT), 5)));
        let mut facts = create_key(Some(NOW.plus_ms(1)), None).facts(TENANT);
        facts.push(ControlFact::QuotaSet { quota: quota(Scope::Key(KEY), 5) });
        check(with_project, &limited, on(&key_subject, 0, facts));

        check(with_project, &revoke, Err(Refusal::NoKey(KEY)));
        check(&given, &revoke, on(&key_subject, 3, vec![ControlFact::KeyRevoked { key: KEY }]));
        let mut revoked = given.to_vec();
        revoked.push(ControlFact::KeyRevoked { key: KEY });
        check(&revoked, &revoke, Ok(Verdict::AlreadySo));

        let (digest, hint) = (KeyDigest([8; 32]), "tb_…efgh".to_owned());
        let rotate = Command::RotateKey(RotateKey {
            key: KEY,
            digest,
            hint: hint.clone(),
            former_until: Timestamp(9_000),
        });
        let rotated =
            ControlFact::KeyRotated { key: KEY, digest, hint, former_until: Timestamp(9_000) };
        check(with_project, &rotate, Err(Refusal::NoKey(KEY)));
        check(&given, &rotate, on(&key_subject, 3, vec![rotated]));
        check(&revoked, &rotate, Err(Refusal::Revoked(KEY)));
        let rate = Some(RateLimits { per_minute: 60, burst: 5, concurrent: None });
        let limit = Command::SetRate { key: KEY, rate };
        check(with_project, &limit, Err(Refusal::NoKey(KEY)));
        check(
            &given,
            &limit,
            on(&key_subject, 3, vec![ControlFact::KeyRateSet { key: KEY, rate }]),
        );
        check(&revoked, &limit, Err(Refusal::Revoked(KEY)));

        check(none, &set(Scope::Tenant(TENANT), 1), Err(Refusal::NoTenant(TENANT)));
        check(none, &set(Scope::Project(PROJECT), 1), Err(Refusal::NoProject(PROJECT)));
        check(none, &set(Scope::Key(KEY), 1), Err(Refusal::NoKey(KEY)));
        let rule = quota(Scope::Key(KEY), 9);
        let mut with_quota = given.to_vec();
        with_quota.push(ControlFact::QuotaSet { quota: rule.clone() });
        let said = vec![ControlFact::QuotaSet { quota: rule }];
        check(
            &given,
            &set(Scope::Key(KEY), 9),
            on(&format!("control.quota.{KEY}"), 0, said.clone()),
        );
        check(&with_quota, &set(Scope::Key(KEY), 9), on(&format!("control.quota.{KEY}"), 4, said));
    }

    #[test]
    fn nothing_is_decided_where_the_history_cannot_be_read() {
        let create = Command::CreateTenant {
            tenant: TENANT,
            name: "Acme".into(),
            time_zone: "UTC".into(),
            billing: BillingMode::None,
        };
        let mut found = directory(&[]);
        found.apply_unreadable(1, format!("control.tenant.{TENANT}"), "of tomorrow".into());
        assert_eq!(decide(&found, &create, NOW), Err(Refusal::UnreadableHistory(1)));
        let elsewhere = control(2, vec![tenant_created()]);
        assert_eq!(found.applied(), 1);
        found.apply(2, "control.tenant.other", &elsewhere);
        assert_eq!(found.applied(), 2);
    }
}
