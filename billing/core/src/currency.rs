//! Currencies and their minor units.
//!
//! The number of decimals comes from a table (ISO 4217), never from "times 100": a yen has no minor unit and a dinar has
//! thousandths. A code that is not in the table is refused. Absent on purpose: ISK, UGX and MGA, for which ISO 4217 and
//! Stripe count different minor units (a factor of 100 nobody should have to guess), and rates of exchange.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Currencies without a minor unit.
const WHOLE: &str = "bif clp djf gnf jpy kmf krw pyg rwf vnd vuv xaf xof xpf";
/// Currencies of a thousand minor units.
const THOUSANDTHS: &str = "bhd jod kwd omr tnd";
/// Currencies of a hundred minor units.
const HUNDREDTHS: &str = "aed afn all amd ang aoa ars aud awg azn bam bbd bdt bgn bmd bnd bob brl bsd bwp byn bzd cad cdf \
    chf cny cop crc cve czk dkk dop dzd egp etb eur fjd fkp gbp gel gip gmd gtq gyd hkd hnl htg huf idr ils inr jmd kes \
    kgs khr kyd kzt lak lbp lkr lrd lsl mad mdl mkd mmk mnt mop mur mvr mwk mxn myr mzn nad ngn nio nok npr nzd pab pen \
    pgk php pkr pln qar ron rsd sar sbd scr sek sgd shp sle sos srd std szl thb tjs top try ttd twd tzs uah usd uyu uzs \
    wst xcd yer zar zmw";

/// A currency: its ISO 4217 code in lower case (as Stripe spells it) and its number of decimals.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Currency {
    code: [u8; 3],
    decimals: u8,
}

/// A code that is in no table.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a currency known here: three lower-case letters of ISO 4217, such as `usd`")]
pub struct CurrencyError(pub String);

impl Currency {
    /// How many decimals its minor unit has. Range: 0, 2 or 3.
    #[must_use]
    pub fn decimals(self) -> u8 {
        self.decimals
    }

    /// The code, such as `usd`.
    #[must_use]
    pub fn code(&self) -> &str {
        std::str::from_utf8(&self.code).expect("codes are letters of the tables above")
    }
}

impl FromStr for Currency {
    type Err = CurrencyError;

    fn from_str(text: &str) -> Result<Self, CurrencyError> {
        let refused = || CurrencyError(text.chars().take(16).collect());
        let code: [u8; 3] = text.as_bytes().try_into().map_err(|_| refused())?;
        let tables = [(WHOLE, 0), (HUNDREDTHS, 2), (THOUSANDTHS, 3)];
        let found = tables
            .iter()
            .find(|(table, _)| table.split_ascii_whitespace().any(|known| known == text));
        found.map(|&(_, decimals)| Self { code, decimals }).ok_or_else(refused)
    }
}

impl TryFrom<String> for Currency {
    type Error = CurrencyError;

    fn try_from(text: String) -> Result<Self, CurrencyError> {
        text.parse()
    }
}

impl From<Currency> for String {
    fn from(currency: Currency) -> Self {
        currency.code().to_owned()
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl fmt::Debug for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_currency_has_its_own_number_of_decimals() {
        for (code, decimals) in
            [("usd", 2), ("eur", 2), ("jpy", 0), ("krw", 0), ("kwd", 3), ("tnd", 3)]
        {
            assert_eq!(code.parse::<Currency>().unwrap().decimals(), decimals, "{code}");
        }
    }

    #[test]
    fn what_is_in_no_table_is_refused() {
        for code in ["", "USD", "us", "usdx", "xxx", "isk", "ugx", "mga", "€"] {
            assert!(code.parse::<Currency>().is_err(), "{code}");
        }
    }

    #[test]
    fn no_currency_is_in_two_tables() {
        let all: Vec<&str> =
            [WHOLE, HUNDREDTHS, THOUSANDTHS].iter().flat_map(|t| t.split_whitespace()).collect();
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
        assert!(all.iter().all(|code| code.len() == 3));
    }
}
