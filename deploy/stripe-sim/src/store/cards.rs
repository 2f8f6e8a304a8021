//! How each customer's card will answer: the script behind every payment.
//!
//! A card is good until a test says otherwise. An outcome lasts for a number of payments or until it is changed.

use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// What a card answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    #[default]
    Ok,
    /// The bank says no.
    Decline,
    /// The bank wants the buyer to confirm; nobody does.
    RequiresAction,
    /// There is no card: payments fail, and a trial ends without a payment method.
    Missing,
}

/// The order for one customer.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Card {
    pub outcome: Outcome,
    /// Payments that it lasts for; absent: until changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<u32>,
}

/// Cards by customer.
#[derive(Debug, Default)]
pub struct Cards {
    by_customer: HashMap<String, Card>,
    /// What each customer's default payment method answers.
    defaults: HashMap<String, Outcome>,
}

impl Cards {
    pub fn set(&mut self, customer: &str, card: Card) {
        self.by_customer.insert(customer.to_owned(), card);
    }

    /// The customer's default payment method answers so.
    pub fn set_default(&mut self, customer: &str, outcome: Outcome) {
        self.defaults.insert(customer.to_owned(), outcome);
    }

    /// The customer has no default payment method any more.
    pub fn forget_default(&mut self, customer: &str) {
        self.defaults.remove(customer);
    }

    /// What the next payment will meet: what was ordered, else what the default payment method answers.
    pub fn peek(&self, customer: &str) -> Outcome {
        let card = self.by_customer.get(customer);
        let ordered = card.filter(|card| card.times != Some(0)).map(|card| card.outcome);
        ordered.or(self.defaults.get(customer).copied()).unwrap_or_default()
    }

    /// Makes a payment and says how it went.
    pub fn charge(&mut self, customer: &str) -> Outcome {
        let outcome = self.peek(customer);
        if let Some(Card { times: Some(times), .. }) = self.by_customer.get_mut(customer) {
            *times = times.saturating_sub(1);
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outcome_lasts_as_long_as_ordered() {
        let mut cards = Cards::default();
        assert_eq!(cards.charge("cus_1"), Outcome::Ok);
        cards.set("cus_1", Card { outcome: Outcome::Decline, times: Some(2) });
        assert_eq!(cards.peek("cus_1"), Outcome::Decline);
        let three = [cards.charge("cus_1"), cards.charge("cus_1"), cards.charge("cus_1")];
        assert_eq!(three, [Outcome::Decline, Outcome::Decline, Outcome::Ok]);
        cards.set("cus_1", Card { outcome: Outcome::Missing, times: None });
        assert_eq!([cards.charge("cus_1"), cards.charge("cus_1")], [Outcome::Missing; 2]);
    }
}
