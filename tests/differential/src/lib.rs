//! Looks for differences between what is delivered and what is counted, by machine: generated answers, generated
//! requests, and neighbours that do bad things. See the README.

pub mod answers;
pub mod fairness;
mod gzip;
mod http;
mod lenient;
mod random;
mod raw;
pub mod requests;
pub mod rig;
pub mod usage;
mod well;

/// Why a test could not be made.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What a test found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Found {
    pub cases: u64,
    pub differences: u64,
}
