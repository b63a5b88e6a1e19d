//! The suite on the simulated driver, under several seeds per test.

use conformance::Ground;
use driver::Endpoint;
use driver::sim::{Conditions, SimDriver, Sizes, World};

/// Seeds per test. Chunks, delays and orders differ with each.
const SEEDS: u64 = 12;

struct SimGround {
    world: World,
    /// What comes before the number of an endpoint, and after it.
    endpoint: (&'static str, &'static str),
    endpoints: u32,
}

impl Ground for SimGround {
    type Driver = SimDriver;
    fn driver(&mut self) -> SimDriver {
        self.world.boot("host", Sizes::default())
    }
    fn endpoint(&mut self) -> Endpoint {
        self.endpoints += 1;
        let (before, after) = self.endpoint;
        format!("{before}{}{after}", self.endpoints).parse().expect("an endpoint")
    }
}

fn each_seed(endpoint: (&'static str, &'static str), test: &dyn Fn(&mut SimGround)) {
    for seed in 0..SEEDS {
        // Printed only if the test fails.
        println!("seed {seed}");
        let world = World::new(seed, Conditions::default());
        test(&mut SimGround { world, endpoint, endpoints: 0 });
    }
}

fn tcp(test: &dyn Fn(&mut SimGround)) {
    each_seed(("tcp:10.0.0.1:", ""), test);
}

fn shm(test: &dyn Fn(&mut SimGround)) {
    each_seed(("shm:/run/", ".shm"), test);
}

conformance::suite!(over_tcp, streams, crate::tcp);
conformance::suite!(over_shm, streams, crate::shm);
conformance::suite!(bytes_over_tcp, bytes, crate::tcp);
conformance::suite!(files, files, crate::tcp);

mod canary {
    use super::*;
    use conformance::broken::{BrokenGround, Bug};

    fn with(bug: Bug, test: impl Fn(&mut BrokenGround<SimGround>)) {
        let world = World::new(1, Conditions::default());
        let ground = SimGround { world, endpoint: ("tcp:10.0.0.1:", ""), endpoints: 0 };
        test(&mut BrokenGround(ground, bug));
    }

    #[test]
    #[should_panic(expected = "frames out of order")]
    fn frames_that_change_places_are_seen() {
        with(Bug::Reorders, conformance::streams::many_small_frames_arrive);
    }

    #[test]
    #[should_panic(expected = "a queue that takes 64 MiB has no bound")]
    fn a_full_queue_that_does_not_say_so_is_seen() {
        with(Bug::DropsWhenFull, conformance::streams::a_full_queue_says_so_and_then_has_room);
    }

    #[test]
    #[should_panic(expected = "waited too long for all frames")]
    fn a_lost_frame_is_seen() {
        with(Bug::DropsWhenFull, conformance::streams::traffic_both_ways_at_once);
    }

    #[test]
    #[should_panic(expected = "the file differs from what was written")]
    fn an_early_acknowledgement_is_seen() {
        with(Bug::TellsTooEarly, conformance::files::writes_are_there_for_the_next_process);
    }

    #[test]
    #[should_panic(expected = "b.seg")]
    fn a_short_file_is_seen() {
        with(Bug::MakesShort, conformance::files::a_new_file_is_zeros);
    }

    #[test]
    #[should_panic(expected = "Err(Closed)")]
    fn a_closed_connection_that_takes_frames_is_seen() {
        with(Bug::TakesAfterClose, conformance::streams::a_close_sends_what_is_queued_first);
    }

    #[test]
    #[should_panic(expected = "new~")]
    fn another_name_than_was_asked_for_is_seen() {
        with(Bug::MisspellsNames, conformance::files::a_renamed_file_keeps_what_it_holds);
    }

    #[test]
    #[should_panic(expected = "was given twice")]
    fn a_block_with_two_takers_is_seen() {
        with(Bug::SharesBlocks, conformance::files::blocks_are_a_fixed_supply);
    }

    #[test]
    #[should_panic(expected = "bytes")]
    fn a_lost_byte_is_seen() {
        with(Bug::LosesBytes, conformance::bytes::frames_are_bytes_here);
    }

    #[test]
    #[should_panic(expected = "a paused stream took 64 MiB")]
    fn a_paused_stream_that_goes_on_is_seen() {
        with(Bug::IgnoresPause, conformance::bytes::a_paused_stream_waits);
    }

    #[test]
    #[should_panic(expected = "waited too long for a refusal")]
    fn a_closed_listener_that_accepts_is_seen() {
        with(Bug::KeepsListening, conformance::bytes::a_closed_listener_is_gone);
    }
}
