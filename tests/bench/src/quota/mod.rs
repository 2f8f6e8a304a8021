//! `quota`: twenty nodes hammer one key with a hard quota of 100,000 until it ends; once in peace, once with `kill -9`
//! of four nodes and of the ledger in the middle.
//!
//! - `admitted`: calls that the ledger counted, the fewer of the two runs. Broken law: more than `limit`.
//! - `held`: what the leases of the killed nodes may still spend at the end of the second run, while those nodes are
//!   away. Broken law: `admitted + held` is not `limit`. When they are back, all of it is spent to the last unit.
//! - `false_refusals`: calls refused in the run in peace before the last call of all was admitted: so a unit was
//!   neither spent nor held by a node that could not be reached.
//! - `messages_per_1000_calls`: all that the nodes sent to NATS and got from it (questions, answers, records,
//!   acknowledgements, watermarks, recalls) and what the ledger wrote to the log, in the run in peace.
//! - `last_percent_s`: from the 99,000th to the 100,000th call in the run in peace.

pub mod node;
mod run;

use serde::Serialize;

use self::run::{Ended, Run};
use crate::{Outcome, machine, report, report::short};

/// The quota.
const LIMIT: u64 = 100_000;
const NODES: usize = 20;

#[derive(Serialize)]
struct Figures {
    limit: u64,
    admitted: u64,
    held: u64,
    false_refusals: u64,
    messages_per_1000_calls: f64,
    last_percent_s: f64,
}

pub async fn run() -> Outcome<()> {
    println!("{}", machine::describe());
    let calm = in_peace().await?;
    let (admitted, held) = with_kills().await?;
    report::finish(
        "quota",
        &Figures {
            limit: LIMIT,
            admitted: admitted.min(calm.admitted),
            held,
            false_refusals: calm.false_refusals,
            messages_per_1000_calls: short(calm.messages_per_1000_calls),
            last_percent_s: short(calm.last_percent_s),
        },
    )
}

async fn in_peace() -> Outcome<Ended> {
    let run = Run::start(NODES, LIMIT).await?;
    run.begin()?;
    run.exhausted().await?;
    let ended = run.look().await?;
    println!("in peace: {ended}");
    law(ended.admitted == LIMIT && ended.held == 0, &ended)?;
    law(ended.answered == LIMIT, &ended)?;
    run.stop().await?;
    Ok(ended)
}

/// Returns what was admitted and what the dead hold.
async fn with_kills() -> Outcome<(u64, u64)> {
    let mut run = Run::start(NODES, LIMIT).await?;
    run.begin()?;
    run.after(LIMIT * 3 / 10).await?;
    run.kill_node(3).await?;
    run.kill_node(7).await?;
    run.after(LIMIT / 2).await?;
    run.kill_ledger().await?;
    run.after(LIMIT * 7 / 10).await?;
    run.kill_node(11).await?;
    run.after(LIMIT * 19 / 20).await?;
    run.kill_node(15).await?;
    run.only_the_dead_hold().await?;
    let ended = run.look().await?;
    println!("with four nodes and the ledger killed: {ended}");
    law(ended.admitted <= LIMIT && ended.admitted + ended.held == LIMIT, &ended)?;
    law(ended.answered <= ended.admitted + ended.held, &ended)?;
    run.revive().await?;
    run.exhausted().await?;
    let back = run.look().await?;
    println!("when they are back: {back}");
    law(back.admitted == LIMIT && back.held == 0, &back)?;
    // A call may be recorded while its node is killed before it answers: at most one of each caller.
    let unanswered = LIMIT.saturating_sub(back.answered);
    law(back.answered <= LIMIT && unanswered <= 4 * node::CALLERS as u64, &back)?;
    run.stop().await?;
    Ok((ended.admitted, ended.held))
}

/// A law that is broken ends the benchmark.
fn law(holds: bool, seen: &Ended) -> Outcome<()> {
    if holds { Ok(()) } else { Err(format!("a law of quotas is broken: {seen}").into()) }
}
