//! The whole of Tollbook on one machine: all parts and all services, wired together as production wires them.
//!
//! `deploy/up`, the end-to-end tests and the benchmarks start it; `stack` keeps the processes. What is here knows
//! which service needs which address and secret, and speaks the public HTTP of the services, nothing else.

mod api;
mod calls;
mod demo;
mod live;
mod ties;
mod wiring;

pub use api::{Api, ApiError};
pub use calls::{Calls, make_calls};
pub use demo::{Demo, Key, provision};
pub use live::live;
pub use ties::{Ties, ties, wait_for_ties};
pub use wiring::{Plant, PlantSettings, STRIPE_KEY};

/// Why the whole did not come up or did not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum PlantError {
    #[error(transparent)]
    Stack(#[from] stack::StackError),
    #[error(transparent)]
    Api(#[from] ApiError),
    #[error("{0}")]
    Unexpected(String),
}

impl PlantError {
    /// All that is known, for a person: with the mend and the tail of the log where there is one.
    #[must_use]
    pub fn report(&self) -> String {
        match self {
            Self::Stack(error) => error.report(),
            Self::Api(error) => error.to_string(),
            Self::Unexpected(text) => text.clone(),
        }
    }
}
