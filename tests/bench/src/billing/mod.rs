//! What billing promises: bills rated a second, a close of 10,000 tenants, webhooks taken a second, and the time from a
//! paid checkout to a key that serves on every node.

mod close;
mod rating;
mod stripe;

use serde::Serialize;

use crate::{
    Outcome, machine,
    report::{finish, percentile, short, whole},
};

const BILLS: usize = 300_000;

#[derive(Serialize)]
struct Figures {
    rated_lines_per_s: u64,
    usage_lines_folded_per_s: u64,
    close_10k_tenants_s: f64,
    webhooks_per_s: u64,
    activation_nodes: usize,
    activation_p50_ms: f64,
    activation_p99_ms: f64,
}

/// Runs the benchmark.
///
/// # Errors
/// A part does not come up, an event is not taken, or a key does not become active.
pub async fn run() -> Outcome<()> {
    println!("{}", machine::describe());
    let (lines, used) = rating::run(BILLS)?;
    println!("rating: {lines:.0} bill lines/s, {used:.0} lines of use/s");
    let world = stripe::World::start().await?;
    let activations = world.activations().await?;
    println!(
        "activation on {} nodes: p50 {:.1} ms, p99 {:.1} ms over {}",
        stripe::NODES,
        percentile(&activations, 50),
        percentile(&activations, 99),
        activations.len()
    );
    let webhooks = world.webhooks().await?;
    drop(world);
    let close = close::run().await?;
    finish(
        "billing",
        &Figures {
            rated_lines_per_s: whole(lines),
            usage_lines_folded_per_s: whole(used),
            close_10k_tenants_s: short(close),
            webhooks_per_s: whole(webhooks),
            activation_nodes: stripe::NODES,
            activation_p50_ms: short(percentile(&activations, 50)),
            activation_p99_ms: short(percentile(&activations, 99)),
        },
    )
}
