//! A fixed budget of seeds runs clean, and every deliberate mistake is caught by one of them.

#![allow(clippy::unwrap_used)]

use clap::ValueEnum;
use sim::{Bug, run};

#[test]
fn a_budget_of_seeds_breaks_no_law() {
    for seed in 0..3_000 {
        run(seed, None).unwrap_or_else(|violation| panic!("seed {seed}: {}", violation.0));
    }
}

#[test]
fn the_same_seed_is_the_same_world() {
    for seed in 0..20 {
        assert_eq!(run(seed, None), run(seed, None));
        assert_eq!(run(seed, Some(Bug::NoFence)), run(seed, Some(Bug::NoFence)));
    }
}

#[test]
fn every_deliberate_mistake_is_caught() {
    for bug in Bug::value_variants() {
        assert!((0..500).any(|seed| run(seed, Some(*bug)).is_err()), "{bug:?} passes 500 seeds");
    }
}
