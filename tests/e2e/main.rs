//! The whole of Tollbook on real parts: a file per story.

#![allow(clippy::unwrap_used)] // The lint knows test functions, but not their helpers.

mod crash;
mod door;
mod floors;
mod outage;
mod page;
mod questions;
mod story;
mod webhook;
mod world;
