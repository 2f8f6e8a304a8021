//! A local Stripe for tests: stateful, strict and reproducible.
//!
//! Two sides on one loopback address: `/v1/...` behaves like Stripe's API for the billing subset that `README.md` lists, and
//! `/_sim/...` is the tester's hand behind the scenes. Every request and every answer is checked against the API description in
//! `data/`. State lives in memory and ends with the process. No code or account of Stripe is involved.

mod api;
mod app;
mod clock;
mod config;
mod control;
mod currency;
mod deliver;
mod error;
mod expand;
mod faults;
mod form;
mod idempotency;
mod ids;
mod journal;
mod life;
mod limiter;
mod list;
mod params;
mod rating;
mod resource;
mod schema;
mod server;
mod settings;
mod sign;
mod store;

pub use config::{Config, DEFAULT_API_KEY};
pub use server::Server;

#[cfg(test)]
mod tests;
