//! Settings of the process, read once: defaults, `--config` file, `BILLING_*`. What is wrong is refused at start.
//!
//! Absent on purpose: secrets as defaults, and floats (a price is a whole number of minor units per 1,000).

use std::{path::Path, str::FromStr};

use billing_core::{dunning::Ladder, plan::PlanRef, report::Account};
use runtime::settings::{Secret, SettingsError};
use schemas::MeterName;
use serde::{Deserialize, Deserializer};

/// Settings as written; every number has its unit in its name.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub nats_url: String,
    pub postgres_url: Secret,
    /// `host:port` of `/stripe/webhook`, `/billing/*`, `/health`, `/ready` and `/metrics`.
    pub listen: String,
    /// Where usage is reported.
    pub provider: ProviderKind,
    /// The folder of the provider `file`.
    pub reports_dir: Option<String>,
    /// The meters that the provider `file` takes, with commas.
    reports_meters: String,
    pub stripe_url: String,
    /// Needed where Stripe is the provider.
    stripe_api_key: Option<Secret>,
    /// One signing secret, or two while one is rolled, with a comma between them; needed where Stripe is the provider.
    stripe_webhook_secrets: Option<Secret>,
    /// A name for the account at Stripe; part of every report's identifier, so it never changes.
    pub stripe_account: String,
    /// How long one call to Stripe may take. Unit: milliseconds. Range: `100..=80_000`.
    pub stripe_timeout_ms: u32,
    /// Bearer token of `/billing/*`.
    pub operator_token: Secret,
    /// The meter's event name at Stripe. Range: 1 to 100 characters.
    pub meter_event_name: String,
    pub product_name: String,
    /// How checkout and setup find the metered price.
    pub price_lookup_key: String,
    pub price_currency: String,
    /// What `setup` makes the price of 1,000 calls. Unit: minor units of the currency (cents).
    pub price_per_1000_minor: u32,
    /// A folder with plans of our own, `*.json`, beside those that ship; empty = none.
    pub plans_dir: Option<String>,
    /// A folder with drafts of plans, `*.json`: every bill is rated by them too, as a shadow; empty = none.
    pub shadow_plans_dir: Option<String>,
    /// The plans that setup makes prices of and checkout offers, as `starter@1,team@1`.
    pub sell_plans: String,
    /// Whether `serve` makes the meter, product and price first if they are missing.
    #[serde(deserialize_with = "flag")]
    pub setup: bool,
    /// Meter events a second at most. Range: `1..=1_000`. Stripe takes 1,000 live, 25 in a sandbox.
    pub reports_per_s: u32,
    /// Meter events on their way at once, each of another customer or meter. Range: `1..=256`.
    pub reports_in_flight: u16,
    /// When to look for what was never delivered: seconds, minutes, hours, days, months, weekdays, in UTC.
    pub sweep_cron: String,
    /// How often statements are looked for that are due, when no invoice wakes us. Unit: milliseconds. Range: from 50.
    pub statements_every_ms: u32,
    /// How long late use of a closed period must have settled before it is corrected. Unit: milliseconds.
    pub correct_after_ms: i64,
    /// How long keys serve after a payment fell due. Unit: days. Range: `1..=365`.
    pub grace_days: u16,
    /// The days of the grace on which the customer is told, in order, with commas.
    pub notice_days: String,
    /// From which age on an unsettled report is counted as stuck. Unit: milliseconds. Range: from 1,000.
    pub stuck_after_ms: i64,
}

/// Where usage is reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProviderKind {
    /// To Stripe's meters, which bill it.
    Stripe,
    /// To a folder, for a finance system that takes files. Nothing is asked of Stripe.
    File,
}

/// A setting that the process will not start with.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error("BILLING_{key}: {what}")]
    Refused { key: &'static str, what: &'static str },
}

/// Loads and checks the settings.
///
/// # Errors
/// Names the first key that is missing, unknown, of the wrong type, out of range or dangerous.
pub fn load(file: Option<&Path>) -> Result<Config, ConfigError> {
    let config: Config =
        runtime::settings::load(include_str!("../billing.default.toml"), file, "BILLING_")?;
    config.check()?;
    Ok(config)
}

impl Config {
    /// The account that reports go to; its mode follows from the key.
    #[must_use]
    pub fn account(&self) -> Account {
        Account { name: self.stripe_account.clone(), live: is_live(&self.stripe_api_key()) }
    }

    /// The key of Stripe's API; blank where Stripe is not the provider.
    #[must_use]
    pub fn stripe_api_key(&self) -> Secret {
        self.stripe_api_key.clone().unwrap_or_else(|| Secret::new(String::new()))
    }

    /// The meters that the provider `file` takes.
    ///
    /// # Errors
    /// A name that is no meter's.
    pub fn meters_of_files(&self) -> Result<Vec<MeterName>, ConfigError> {
        let names = self.reports_meters.split(',').map(str::trim).filter(|name| !name.is_empty());
        let what = "names of meters, with commas";
        let refused = |_| ConfigError::Refused { key: "REPORTS_METERS", what };
        names.map(|name| name.parse().map_err(refused)).collect()
    }

    /// What happens to an overdue customer, and when.
    ///
    /// # Errors
    /// Notices that are no numbers, not in order, or outside the grace.
    pub fn ladder(&self) -> Result<Ladder, ConfigError> {
        const DAY_MS: i64 = 86_400_000;
        let refused = |what| ConfigError::Refused { key: "NOTICE_DAYS", what };
        let days = self.notice_days.split(',').map(str::trim).filter(|day| !day.is_empty());
        let days = days.map(str::parse::<u16>).collect::<Result<Vec<_>, _>>();
        let days = days.map_err(|_| refused("whole numbers of days, with commas"))?;
        let notices = days.into_iter().map(|day| i64::from(day) * DAY_MS).collect();
        Ladder::try_new(notices, i64::from(self.grace_days) * DAY_MS)
            .map_err(|_| refused("in order, and within the grace"))
    }

    /// The plans on sale.
    ///
    /// # Errors
    /// One that is not `<plan>@<version>`.
    pub fn plans_on_sale(&self) -> Result<Vec<PlanRef>, ConfigError> {
        let names = self.sell_plans.split(',').map(str::trim).filter(|name| !name.is_empty());
        let what = "plans as `starter@1,team@1`";
        let refused = || ConfigError::Refused { key: "SELL_PLANS", what };
        names.map(|name| crate::plans::parse(name).ok_or_else(refused)).collect()
    }

    /// The signing secrets.
    #[must_use]
    pub fn webhook_secrets(&self) -> Vec<Secret> {
        let all = self.stripe_webhook_secrets.as_ref().map_or("", Secret::expose);
        all.split(',').map(|secret| Secret::new(secret.trim().to_owned())).collect()
    }

    fn check(&self) -> Result<(), ConfigError> {
        let name = |text: &str, max: usize| {
            !text.trim().is_empty() && text.len() <= max && !text.chars().any(char::is_control)
        };
        let refused = |key, what| Err(ConfigError::Refused { key, what });
        if self.operator_token.is_blank() {
            return refused("OPERATOR_TOKEN", "blank");
        }
        match self.provider {
            ProviderKind::Stripe => self.check_stripe()?,
            ProviderKind::File if self.reports_dir.as_ref().is_none_or(String::is_empty) => {
                return refused("REPORTS_DIR", "the provider `file` needs a folder");
            }
            ProviderKind::File if self.meters_of_files()?.is_empty() => {
                return refused("REPORTS_METERS", "the provider `file` takes at least one meter");
            }
            ProviderKind::File => {}
        }
        for (key, text, max) in [
            ("STRIPE_ACCOUNT", &self.stripe_account, 100),
            ("METER_EVENT_NAME", &self.meter_event_name, 100),
            ("PRODUCT_NAME", &self.product_name, 250),
            ("PRICE_LOOKUP_KEY", &self.price_lookup_key, 200),
        ] {
            if !name(text, max) {
                return refused(key, "blank, too long, or with control characters");
            }
        }
        if self.price_currency.len() != 3
            || !self.price_currency.bytes().all(|b| b.is_ascii_lowercase())
        {
            return refused("PRICE_CURRENCY", "three lower-case letters, as `usd`");
        }
        if cron::Schedule::from_str(&self.sweep_cron).is_err() {
            return refused("SWEEP_CRON", "not a schedule of six fields, seconds first");
        }
        self.ladder()?;
        self.plans_on_sale()?;
        self.check_ranges()
    }

    fn check_stripe(&self) -> Result<(), ConfigError> {
        let (secrets, key) = (self.webhook_secrets(), self.stripe_api_key());
        let refused = |key, what| Err(ConfigError::Refused { key, what });
        if !(1..=2).contains(&secrets.len()) || secrets.iter().any(Secret::is_blank) {
            // A blank secret would let anybody sign.
            return refused("STRIPE_WEBHOOK_SECRETS", "one or two secrets, none of them blank");
        }
        if !["sk_test_", "sk_live_", "rk_test_", "rk_live_"]
            .iter()
            .any(|kind| key.expose().strip_prefix(kind).is_some_and(|rest| !rest.trim().is_empty()))
        {
            return refused("STRIPE_API_KEY", "not a secret or restricted key of Stripe");
        }
        if is_live(&key) && self.stripe_url.trim_end_matches('/') != "https://api.stripe.com" {
            return refused("STRIPE_URL", "a live key is only ever sent to https://api.stripe.com");
        }
        if http::Uri::from_str(&self.stripe_url).map_or(true, |uri| uri.host().is_none()) {
            return refused("STRIPE_URL", "not an absolute URL");
        }
        Ok(())
    }

    fn check_ranges(&self) -> Result<(), ConfigError> {
        let out = |key| Err(ConfigError::Refused { key, what: "out of range" });
        match () {
            () if !(100..=80_000).contains(&self.stripe_timeout_ms) => out("STRIPE_TIMEOUT_MS"),
            () if !(1..=1_000).contains(&self.reports_per_s) => out("REPORTS_PER_S"),
            () if !(1..=256).contains(&self.reports_in_flight) => out("REPORTS_IN_FLIGHT"),
            () if self.price_per_1000_minor == 0 => out("PRICE_PER_1000_MINOR"),
            () if self.stuck_after_ms < 1_000 => out("STUCK_AFTER_MS"),
            () if self.statements_every_ms < 50 => out("STATEMENTS_EVERY_MS"),
            () if self.correct_after_ms < 0 => out("CORRECT_AFTER_MS"),
            () if !(1..=365).contains(&self.grace_days) => out("GRACE_DAYS"),
            () => Ok(()),
        }
    }
}

fn is_live(key: &Secret) -> bool {
    key.expose().starts_with("sk_live_") || key.expose().starts_with("rk_live_")
}

/// `true`, `false`, 1 or 0: the environment has no booleans of its own.
fn flag<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Flag {
        Bool(bool),
        Number(u8),
    }
    match Flag::deserialize(deserializer)? {
        Flag::Bool(flag) => Ok(flag),
        Flag::Number(0) => Ok(false),
        Flag::Number(1) => Ok(true),
        Flag::Number(_) => Err(serde::de::Error::custom("neither 0 nor 1")),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A loaded configuration: the defaults and what a test must say; `more` is TOML that comes on top.
    pub fn config(more: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let mut keys = std::collections::BTreeMap::from([
            ("nats_url", "\"nats://127.0.0.1:1\""),
            ("postgres_url", "\"postgres:///x\""),
            ("stripe_url", "\"http://127.0.0.1:1\""),
            ("stripe_api_key", "\"sk_test_x\""),
            ("stripe_webhook_secrets", "\"whsec_a\""),
            ("operator_token", "\"op\""),
        ]);
        keys.extend(more.iter().copied());
        let mut table: Vec<String> = include_str!("../billing.default.toml")
            .lines()
            .filter(|line| !keys.contains_key(line.split(" = ").next().unwrap_or_default()))
            .map(str::to_owned)
            .collect();
        table.extend(keys.iter().map(|(key, value)| format!("{key} = {value}")));
        let config: Config =
            runtime::settings::load(&table.join("\n"), None, "BILLING_TEST_NOTHING_")?;
        config.check()?;
        Ok(config)
    }

    #[test]
    fn dangerous_settings_are_refused_at_start() {
        #[track_caller]
        fn check(key: &str, value: &str, named: &str) {
            let refused = config(&[(key, value)]).expect_err(key).to_string();
            assert!(refused.contains(named), "{refused}");
        }
        assert!(config(&[]).is_ok());
        check("stripe_webhook_secrets", "\"\"", "STRIPE_WEBHOOK_SECRETS");
        check("stripe_webhook_secrets", "\"  \"", "STRIPE_WEBHOOK_SECRETS");
        check("stripe_webhook_secrets", "\"whsec_a, \"", "STRIPE_WEBHOOK_SECRETS");
        check("stripe_webhook_secrets", "\"a,b,c\"", "STRIPE_WEBHOOK_SECRETS");
        check("operator_token", "\" \"", "OPERATOR_TOKEN");
        check("stripe_api_key", "\"pk_test_x\"", "STRIPE_API_KEY");
        check("stripe_api_key", "\"sk_test_\"", "STRIPE_API_KEY");
        check("stripe_api_key", "\"sk_live_x\"", "only ever sent to https://api.stripe.com");
        check("meter_event_name", "\"\"", "METER_EVENT_NAME");
        check("sweep_cron", "\"every day\"", "SWEEP_CRON");
        check("reports_per_s", "0", "REPORTS_PER_S");
        check("notice_days", "\"3,1\"", "NOTICE_DAYS");
        check("notice_days", "\"0,14\"", "NOTICE_DAYS");
        check("grace_days", "0", "NOTICE_DAYS");
        check("sell_plans", "\"starter\"", "SELL_PLANS");
        check("statements_every_ms", "1", "STATEMENTS_EVERY_MS");
        check("typo", "1", "typo");
        check("provider", "\"paper\"", "provider");
        check("provider", "\"file\"", "REPORTS_DIR");
        let live =
            [("stripe_api_key", "\"sk_live_x\""), ("stripe_url", "\"https://api.stripe.com/\"")];
        assert!(config(&live).unwrap().account().live);
    }

    #[test]
    fn files_need_a_folder_and_nothing_of_stripe() {
        let folder = [("provider", "\"file\""), ("reports_dir", "\"/x\"")];
        let keyless = [("stripe_api_key", "\"\""), ("stripe_webhook_secrets", "\"\"")];
        let config = |more: &[(&str, &str)]| config(&[&folder, &keyless[..], more].concat());
        let of_calls = config(&[]).unwrap();
        assert_eq!(of_calls.meters_of_files().unwrap(), [MeterName::tool_calls()]);
        assert!(config(&[("reports_meters", "\" , \"")]).is_err());
        assert!(config(&[("reports_meters", "\"Not A Meter\"")]).is_err());
    }

    #[test]
    fn two_secrets_hold_while_one_is_rolled_and_none_shows() {
        let config =
            config(&[("stripe_webhook_secrets", "\"whsec_a,whsec_b\""), ("setup", "1")]).unwrap();
        let secrets = config.webhook_secrets();
        assert_eq!(secrets.iter().map(Secret::expose).collect::<Vec<_>>(), ["whsec_a", "whsec_b"]);
        assert!(config.setup);
        let shown = format!("{config:?}");
        for hidden in ["whsec_a", "sk_test_x", "\"op\"", "postgres:"] {
            assert!(!shown.contains(hidden), "{shown}");
        }
    }
}
