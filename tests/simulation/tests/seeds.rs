//! Many seeds, and one seed twice.

use simulation::{Options, run};

/// Seeds in all, shared by the tests below so that two cores have work.
const SEEDS: u64 = 500;
const SHARDS: u64 = 4;

/// A failed assertion of the platform comes without its seed: this names it.
struct Blame(u64);

impl Drop for Blame {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {}: see it with `millrace simulate --seed {} --verbose`", self.0, self.0);
        }
    }
}

fn shard(number: u64) {
    let (mut calls, mut again, mut fenced, mut recycled, mut crashes) = (0, 0, 0, 0, 0);
    let (mut refusals, mut told) = (0, 0);
    for seed in (0..SEEDS).filter(|seed| seed % SHARDS == number) {
        let _blame = Blame(seed);
        let report = run(seed, &Options::default()).unwrap_or_else(|violation| panic!("{violation}"));
        calls += report.calls;
        again += report.run_again;
        fenced += report.fenced;
        recycled += report.recycled;
        crashes += report.crashes;
        refusals += report.refusals;
        told += report.told;
    }
    println!(
        "{calls} calls, {again} run again, {fenced} outcomes fenced, {recycled} segments used again, {crashes} crashes, \
         {refusals} rotten logs refused, {told} losses told"
    );
    assert!(
        again > 0 && fenced > 0 && recycled > 0 && crashes > 0 && refusals > 0 && told > 0,
        "the storms are too mild to test anything"
    );
}

#[test]
fn the_first_quarter_of_the_seeds_holds() {
    shard(0);
}

#[test]
fn the_second_quarter_of_the_seeds_holds() {
    shard(1);
}

#[test]
fn the_third_quarter_of_the_seeds_holds() {
    shard(2);
}

#[test]
fn the_fourth_quarter_of_the_seeds_holds() {
    shard(3);
}

#[test]
fn one_seed_run_twice_is_the_same_run() {
    for seed in [3, 77, 4242] {
        assert_eq!(run(seed, &Options::default()), run(seed, &Options::default()));
    }
    let hash = |seed| run(seed, &Options::default()).expect("a good seed").trace_hash;
    assert_ne!(hash(3), hash(4));
}
