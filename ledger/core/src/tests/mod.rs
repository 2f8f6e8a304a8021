//! The rules as claims. Each file reads beside the module of its name.

mod grant;
mod hour;
mod key;
mod laws;
mod notice;
mod quarantine;
mod record;
mod rules;
