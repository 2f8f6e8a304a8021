//! The book of plans that this process rates by, and how prices at the provider name a plan's charge.
//!
//! A price names what it collects in its metadata (`tollbook_plan` = `starter@1`, `tollbook_charge` = `base`) or in its
//! lookup key (`starter@1/base/usd`). The plans are those that ship with the rules, those of a folder, and the one
//! that the settings' own price amounts to. Absent on purpose: changing a plan; another version is another plan.

use std::{collections::HashMap, path::Path};

use billing_core::{
    currency::{Currency, CurrencyError},
    money::{Exact, ExactError},
    plan::{Allowance, Book, Charge, Plan, PlanError, PlanRef, PriceList},
    price::Price,
};
use schemas::{Quantity, TOOL_CALLS};

use crate::config::Config;

/// The metadata entry that names the plan.
pub const PLAN: &str = "tollbook_plan";
/// The metadata entry that names the plan's charge.
pub const CHARGE: &str = "tollbook_charge";
/// The charge of the plan that the settings describe.
pub const CALLS: &str = "tool-calls";

/// The plans that ship with the rules.
const SHIPPED: [&str; 4] = [
    include_str!("../core/plans/enterprise.v1.json"),
    include_str!("../core/plans/free.v1.json"),
    include_str!("../core/plans/starter.v1.json"),
    include_str!("../core/plans/team.v1.json"),
];

/// Why there is no book.
#[derive(Debug, thiserror::Error)]
pub enum PlansError {
    #[error("the folder of plans cannot be read: {0}")]
    Folder(#[from] std::io::Error),
    #[error("plan {file}: {source}")]
    Plan { file: String, source: PlanError },
    #[error("{0}")]
    Book(#[from] PlanError),
    #[error("{0}")]
    Currency(#[from] CurrencyError),
    #[error("{0}")]
    Price(#[from] ExactError),
}

/// Loads all plans.
///
/// # Errors
/// Names the first plan that cannot be used.
pub fn load(config: &Config) -> Result<Book, PlansError> {
    Ok(Book::try_new(all(config)?)?)
}

/// Loads all plans with the drafts of SHADOW_PLANS_DIR in place of those of the same name and version.
///
/// # Errors
/// Names the first plan that cannot be used.
pub fn load_with_drafts(config: &Config) -> Result<Book, PlansError> {
    let mut plans = all(config)?;
    if let Some(folder) = &config.shadow_plans_dir {
        let drafts = of_folder(Path::new(folder))?;
        plans.retain(|plan| drafts.iter().all(|draft| draft.reference() != plan.reference()));
        plans.extend(drafts);
    }
    Ok(Book::try_new(plans)?)
}

fn all(config: &Config) -> Result<Vec<Plan>, PlansError> {
    let mut plans = Vec::new();
    for text in SHIPPED {
        plans.push(Plan::parse(text)?);
    }
    if let Some(folder) = &config.plans_dir {
        plans.extend(of_folder(Path::new(folder))?);
    }
    plans.push(of_settings(config)?);
    Ok(plans)
}

fn of_folder(folder: &Path) -> Result<Vec<Plan>, PlansError> {
    let mut files: Vec<_> = std::fs::read_dir(folder)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    files.retain(|path| path.extension().is_some_and(|end| end == "json"));
    files.sort();
    let read = |path: std::path::PathBuf| {
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Plan::parse(&std::fs::read_to_string(&path)?)
            .map_err(|source| PlansError::Plan { file, source })
    };
    files.into_iter().map(read).collect()
}

/// The name of the plan that the settings' own price amounts to: another price is another plan.
#[must_use]
pub fn own_plan(config: &Config) -> PlanRef {
    let plan = format!("payg-{}-{}", config.price_currency, config.price_per_1000_minor);
    PlanRef { plan, version: 1 }
}

fn of_settings(config: &Config) -> Result<Plan, PlansError> {
    let currency: Currency = config.price_currency.parse()?;
    let PlanRef { plan, version } = own_plan(config);
    let amount = major(config.price_per_1000_minor, currency.decimals())?;
    let price = Price::PerUnit { amount, per: 1000, included: Quantity::ZERO };
    let meter = Some(TOOL_CALLS.parse().expect("the default meter has a meter's name"));
    let charge = Charge { charge: CALLS.to_owned(), meter, price, minimum: None, maximum: None };
    let list = PriceList { charges: vec![charge], minimum: None, maximum: None };
    Ok(Plan {
        v: 1,
        plan,
        version,
        title: config.product_name.clone(),
        trial_days: 0,
        rounding: billing_core::money::Rounding::default(),
        allowance: Allowance::default(),
        prices: [(currency, list)].into(),
    })
}

/// Minor units as a decimal of major units.
fn major(minor: u32, decimals: u8) -> Result<Exact, ExactError> {
    let width = usize::from(decimals) + 1;
    let digits = format!("{minor:0>width$}");
    let (whole, part) = digits.split_at(digits.len() - usize::from(decimals));
    if part.is_empty() { whole.parse() } else { format!("{whole}.{part}").parse() }
}

/// Reads `<plan>@<version>`.
#[must_use]
pub fn parse(text: &str) -> Option<PlanRef> {
    let (plan, version) = text.split_once('@')?;
    let version = version.parse().ok().filter(|version| *version > 0)?;
    (!plan.is_empty()).then(|| PlanRef { plan: plan.to_owned(), version })
}

/// `<plan>@<version>`.
#[must_use]
pub fn written(plan: &PlanRef) -> String {
    format!("{}@{}", plan.plan, plan.version)
}

/// What a price says that it collects; nothing of what it says is believed without a plan and a charge.
#[must_use]
pub fn named(
    metadata: &HashMap<String, String>,
    lookup_key: Option<&str>,
) -> Option<(PlanRef, String)> {
    if let (Some(plan), Some(charge)) = (metadata.get(PLAN), metadata.get(CHARGE)) {
        return Some((parse(plan)?, charge.clone()));
    }
    let mut parts = lookup_key?.split('/');
    Some((parse(parts.next()?)?, parts.next().filter(|charge| !charge.is_empty())?.to_owned()))
}

/// The lookup key of a plan's charge in a currency.
#[must_use]
pub fn lookup_key(plan: &PlanRef, charge: &str, currency: &str) -> String {
    format!("{}/{charge}/{currency}", written(plan))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::config;

    #[test]
    fn a_price_names_its_plan_by_metadata_or_by_its_key() {
        let metadata = |plan: &str, charge: &str| {
            HashMap::from([
                (PLAN.to_owned(), plan.to_owned()),
                (CHARGE.to_owned(), charge.to_owned()),
            ])
        };
        let starter =
            || Some((PlanRef { plan: "starter".to_owned(), version: 1 }, "base".to_owned()));
        assert_eq!(named(&metadata("starter@1", "base"), Some("team@2/base/usd")), starter());
        assert_eq!(named(&HashMap::new(), Some("starter@1/base/usd")), starter());
        for key in
            ["tollbook_tool_calls", "starter@0/base", "starter@1", "starter@1//usd", "@1/base", ""]
        {
            assert_eq!(named(&HashMap::new(), Some(key)), None, "{key}");
        }
        assert_eq!(named(&metadata("starter", "base"), None), None);
        let (plan, charge) = starter().unwrap();
        assert_eq!(named(&HashMap::new(), Some(&lookup_key(&plan, &charge, "usd"))), starter());
    }

    #[test]
    fn the_settings_price_is_a_plan_and_another_price_another_plan() {
        let one = config(&[]).unwrap();
        let book = load(&one).unwrap();
        let plan = &book.get(&own_plan(&one)).unwrap().plan;
        let list = plan.prices.values().next().unwrap();
        let amount: Exact = "1".parse().unwrap();
        let price = Price::PerUnit { amount, per: 1000, included: Quantity::ZERO };
        assert_eq!(list.charges[0].price, price);
        let other = config(&[("price_per_1000_minor", "12345")]).unwrap();
        assert_ne!(own_plan(&one), own_plan(&other));
        assert_eq!(major(12_345, 2), "123.45".parse());
        assert_eq!(major(7, 2), "0.07".parse());
        assert_eq!(major(7, 0), "7".parse());
        assert_eq!(major(7, 3), "0.007".parse());
    }
}
