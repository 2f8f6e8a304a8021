//! Which currencies Stripe takes. A code of three letters that is none of them is refused, as there.
//!
//! The list is that of Stripe's own refusal; a few of its codes are of money that is no more.

use crate::error::ApiError;
use crate::params::Params;

const KNOWN: &str = "usd aed afn all amd ang aoa ars aud awg azn bam bbd bdt bgn bhd bif bmd bnd bob brl bsd btn bwp byn bzd cad cdf \
    chf clp cny cop crc cve czk djf dkk dop dzd eek egp etb eur fjd fkp gbp gel ghs gip gmd gnf gtq gyd hkd hnl hrk htg huf idr ils \
    inr isk jmd jod jpy kes kgs khr kmf krw kwd kyd kzt lak lbp lkr lrd lsl ltl lvl mad mdl mga mkd mmk mnt mop mro mur mvr mwk mxn \
    myr mzn nad ngn nio nok npr nzd omr pab pen pgk php pkr pln pyg qar ron rsd rub rwf sar sbd scr sek sgd shp sle sll sos srd std \
    svc szl thb tjs tnd top try ttd twd tzs uah ugx usdc uyu uzs vef vnd vuv wst xaf xcd xcg xof xpf yer zar zmw";

/// Takes `currency` in lower case.
///
/// # Errors
/// 400 for one that Stripe does not take.
pub fn take(params: &mut Params) -> Result<Option<String>, ApiError> {
    let path = params.path_of("currency");
    let Some(currency) = params.text("currency").map(|text| text.to_lowercase()) else {
        return Ok(None);
    };
    if KNOWN.split(' ').any(|known| known == currency) {
        return Ok(Some(currency));
    }
    let all = KNOWN.split(' ').collect::<Vec<_>>().join(", ");
    let message =
        format!("Invalid currency: {currency}. Stripe currently supports these currencies: {all}");
    Err(ApiError::invalid(&path, message))
}

/// As [`take`], where the endpoint cannot do without.
///
/// # Errors
/// 400 for none, or for one that Stripe does not take.
pub fn required(params: &mut Params) -> Result<String, ApiError> {
    let path = params.path_of("currency");
    take(params)?.ok_or_else(|| ApiError::missing(&path))
}
