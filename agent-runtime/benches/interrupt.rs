//! The time from an interrupt to control, in every place where a turn waits: from the call that interrupts to the turn's outcome.
//!
//! `cargo bench -p longhand-agent-runtime --bench interrupt`; an argument is the number of tries of each place. Each figure stands beside a bare
//! task that waits for the same signal and answers, in turns with it, so that a busy machine slows both. That each turn was stopped, and that its
//! session goes on, is checked where it is measured.

#![expect(clippy::disallowed_methods, reason = "an argument of the bench")]
#![expect(clippy::print_stdout, reason = "the figures are what this program is for")]

#[path = "common/figures.rs"]
mod figures;
#[path = "../tests/interrupts/places.rs"]
mod places;

use agent_runtime::{EndReason, INTERRUPT_POLL, Session};
use figures::{head, row};
use places::{Place, TOO_LONG, World};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, oneshot};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// Interrupts of each place and way; a place that takes long to come to gets fewer.
const TRIES: usize = 200;
const TRIES_OF_A_SLOW_PLACE: usize = 20;
/// Interrupts come this long after the wait began, at most: any place between two polls.
const PHASE: Duration = INTERRUPT_POLL;
const SEED: u64 = 42;

fn main() -> Outcome<()> {
    let tries = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(TRIES);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    println!("{}", head());
    runtime.block_on(measure(tries))
}

async fn measure(tries: usize) -> Outcome<()> {
    let world = World::new().await?;
    let mut random = fastrand::Rng::with_seed(SEED);
    let mut number = 0;
    for way in [Way::Wake, Way::Flag] {
        for place in Place::ALL {
            let (mut ours, mut theirs) = (Vec::new(), Vec::new());
            let tries = if place == Place::BackPressure { tries.min(TRIES_OF_A_SLOW_PLACE) } else { tries };
            for left in (0..tries).rev() {
                number += 1;
                let (session, turn) = world.turn_in(place, number).await;
                tokio::time::sleep(PHASE.mul_f64(random.f64())).await;
                let start = Instant::now();
                way.interrupt(&session);
                let outcome = tokio::time::timeout(TOO_LONG, turn.outcome()).await?;
                ours.push(start.elapsed());
                assert_eq!(outcome.reason, EndReason::Interrupted, "{place:?}: {:?}", outcome.error);
                theirs.push(way.bare(PHASE.mul_f64(random.f64())).await?);
                match left {
                    0 => world.goes_on(place, session).await,
                    _ => world.end(&session).await,
                }
            }
            let name = format!("{}, {place:?}", way.name());
            println!("{}", row(&name, &mut ours, way.reference(), &mut theirs));
        }
    }
    world.shutdown().await;
    Ok(())
}

/// How a turn is interrupted.
#[derive(Clone, Copy)]
enum Way {
    /// The flag and a wake-up, as any thread can.
    Wake,
    /// The flag alone, as a signal handler has it: the poll sees it.
    Flag,
}

impl Way {
    /// Its name, and the bound of its 99th percentile.
    fn name(self) -> &'static str {
        match self {
            Self::Wake => "wake-up (10 ms)",
            Self::Flag => "bare flag (55 ms)",
        }
    }

    fn reference(self) -> &'static str {
        match self {
            Self::Wake => "wake a task and back",
            Self::Flag => "a bare poll",
        }
    }

    fn interrupt(self, session: &Session) {
        match self {
            Self::Wake => session.interrupt("bench"),
            Self::Flag => session.interrupt_handle().expect("a turn runs").flag().store(true, Ordering::SeqCst),
        }
    }

    /// A task that waits for the signal, which comes after `phase`, and answers.
    async fn bare(self, phase: Duration) -> Outcome<Duration> {
        let (wake, flag) = (Arc::new(Notify::new()), Arc::new(AtomicBool::new(false)));
        let (answer, answered) = oneshot::channel();
        let task = tokio::spawn({
            let (wake, flag) = (Arc::clone(&wake), Arc::clone(&flag));
            async move {
                match self {
                    Self::Wake => wake.notified().await,
                    Self::Flag => {
                        while !flag.load(Ordering::SeqCst) {
                            tokio::time::sleep(INTERRUPT_POLL).await;
                        }
                    }
                }
                let _ = answer.send(());
            }
        });
        tokio::time::sleep(phase).await;
        let start = Instant::now();
        flag.store(true, Ordering::SeqCst);
        wake.notify_one();
        answered.await?;
        let took = start.elapsed();
        task.await?;
        Ok(took)
    }
}
