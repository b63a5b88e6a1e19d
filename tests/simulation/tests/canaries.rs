//! Each checker catches the bug that is planted for it.

use simulation::{Bug, Options, run};

/// Seeds that a planted bug has to be found in.
const SEEDS: u64 = 120;

/// Runs seeds until a checker says this of the bug. A bug may show in other ways too.
fn hunt(bug: Bug, words: &str) {
    for seed in 0..SEEDS {
        match run(seed, &Options { bug, verbose: false }) {
            Err(violation) if violation.what.contains(words) => panic!("{violation}"),
            _ => {}
        }
    }
}

#[test]
#[should_panic(expected = "and then taken as new: it was lost")]
fn a_lost_call_that_is_submitted_again_is_caught() {
    hunt(Bug::AcknowledgesBeforeSync, "and then taken as new: it was lost");
}

#[test]
#[should_panic(expected = "has not ended, and the node forgot it")]
fn a_lost_call_that_an_operator_asks_for_is_caught() {
    hunt(Bug::AcknowledgesBeforeSync, "has not ended, and the node forgot it");
}

#[test]
#[should_panic(expected = "leased after its client was told that it ended")]
fn a_lost_end_is_caught() {
    hunt(Bug::AcknowledgesBeforeSync, "leased after its client was told that it ended");
}

#[test]
#[should_panic(expected = "was told once too often")]
fn a_doubled_outcome_is_caught() {
    hunt(Bug::DoublesOutcome, "was told once too often");
}

#[test]
#[should_panic(expected = "which no live lease said")]
fn an_outcome_of_an_old_epoch_is_caught() {
    hunt(Bug::IgnoresEpoch, "which no live lease said");
}

#[test]
#[should_panic(expected = "which no live lease said")]
fn an_invented_failure_is_caught() {
    hunt(Bug::InventsFailure, "which no live lease said");
}

#[test]
#[should_panic(expected = "has the live epoch")]
fn a_second_live_lease_is_caught() {
    hunt(Bug::LeasesTwice, "has the live epoch");
}

#[test]
#[should_panic(expected = "was leased, and no client made it")]
fn an_invented_call_is_caught() {
    hunt(Bug::InventsCall, "was leased, and no client made it");
}

#[test]
#[should_panic(expected = "holds other bytes than its client wrote")]
fn a_call_that_is_encoded_again_is_caught() {
    hunt(Bug::ReencodesCall, "holds other bytes than its client wrote");
}

#[test]
#[should_panic(expected = "came to a core that granted")]
fn leases_beyond_the_credits_are_caught() {
    hunt(Bug::ExceedsCredits, "came to a core that granted");
}

#[test]
#[should_panic(expected = "before its start time")]
fn an_early_start_is_caught() {
    hunt(Bug::StartsEarly, "before its start time");
}

#[test]
#[should_panic(expected = "before its start time")]
fn a_node_whose_clock_is_not_set_is_caught() {
    hunt(Bug::IgnoresClockSteps, "before its start time");
}

#[test]
#[should_panic(expected = "calls of one function run, its concurrency is")]
fn too_many_calls_at_once_are_caught() {
    hunt(Bug::ExceedsConcurrency, "calls of one function run, its concurrency is");
}

#[test]
#[should_panic(expected = "bounds: the node holds")]
fn too_many_held_calls_are_caught() {
    hunt(Bug::ExceedsCalls, "bounds: the node holds");
}

#[test]
#[should_panic(expected = "ran before")]
fn a_wrong_order_is_caught() {
    hunt(Bug::IgnoresCriticality, "ran before");
}

#[test]
#[should_panic(expected = "its wake-up was lost")]
fn a_lost_wake_up_is_caught() {
    hunt(Bug::LosesWakeups, "its wake-up was lost");
}

#[test]
#[should_panic(expected = "is dead after")]
fn an_attempt_that_is_not_listed_is_caught() {
    hunt(Bug::ForgetsAttempts, "is dead after");
}

#[test]
#[should_panic(expected = "liveness: ")]
fn a_call_that_never_ends_is_caught() {
    hunt(Bug::LosesOutcomes, "liveness: ");
}

#[test]
#[should_panic(expected = "holds other bytes than its client wrote")]
fn rot_that_no_checksum_shows_is_caught() {
    hunt(Bug::IgnoresChecksums, "holds other bytes than its client wrote");
}

#[test]
#[should_panic(expected = "and then taken as new: it was lost")]
fn a_loss_that_a_salvage_does_not_tell_is_caught() {
    hunt(Bug::HidesLosses, "and then taken as new: it was lost");
}

#[test]
#[should_panic(expected = "Damaged")]
fn damage_that_is_read_back_and_not_told_is_caught() {
    hunt(Bug::HidesDamage, "Damaged");
}
