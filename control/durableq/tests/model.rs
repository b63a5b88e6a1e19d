//! Random operations, with crashes at any moment, against a ledger: what was acknowledged stays, what has ended does
//! not come back, every lease has its own epoch.

mod world;

use call::limits::Limits;
use call::{CallId, Status};
use durableq::{Backlog, HolderRef, Rules, State};
use proptest::prelude::*;
use world::{Entry, World, limits};

#[derive(Clone, Debug)]
enum Op {
    Submit { of: usize, ahead: u64, payload: usize, want: bool },
    Resubmit { pick: usize },
    Advance { by: u64 },
    Flush,
    Disk { pick: usize },
    Events,
    Poll { of: usize },
    GiveBack { pick: usize },
    Lease { pick: usize, holder: u16 },
    Settle { pick: usize, ok: bool, output: usize },
    Lose { holder: u16 },
    Return { pick: usize, begun: bool },
    Late,
    Redrive { pick: usize },
    Bury { pick: usize },
    Cancel { pick: usize },
    Pause { of: usize, paused: bool },
    Hurry { pick: usize },
    Rule { of: usize, rules: Rules },
    Tenant { of: usize, is: bool, calls: u64 },
    Expiring { of: usize, ahead: u64, lives: u64 },
    Purge { pick: usize },
    DiskFull { full: bool },
    Unreadable { reads: u32 },
    Crash,
    WriteError,
}

fn op() -> impl Strategy<Value = Op> {
    let payload = prop_oneof![8 => 0usize..600, 2 => 600usize..9000, 1 => 9000usize..60_000];
    // Far ones wait on disk only.
    let ahead = prop_oneof![6 => Just(0u64), 2 => 0u64..50_000_000, 2 => 1_000_000_000u64..3_000_000_000];
    let submit = (0..3usize, ahead, payload, any::<bool>());
    prop_oneof![
        12 => submit.prop_map(|(of, ahead, payload, want)| Op::Submit { of, ahead, payload, want }),
        2 => any::<usize>().prop_map(|pick| Op::Resubmit { pick }),
        4 => (0u64..20_000_000).prop_map(|by| Op::Advance { by }),
        1 => (0u64..2_000_000_000).prop_map(|by| Op::Advance { by }),
        1 => (1u32..4).prop_map(|reads| Op::Unreadable { reads }),
        8 => Just(Op::Flush),
        14 => any::<usize>().prop_map(|pick| Op::Disk { pick }),
        8 => Just(Op::Events),
        10 => (0..3usize).prop_map(|of| Op::Poll { of }),
        1 => any::<usize>().prop_map(|pick| Op::GiveBack { pick }),
        10 => (any::<usize>(), 0u16..3).prop_map(|(pick, holder)| Op::Lease { pick, holder }),
        10 => (any::<usize>(), prop::bool::weighted(0.7), prop_oneof![9 => 0usize..300, 1 => 300usize..40_000])
            .prop_map(|(pick, ok, output)| Op::Settle { pick, ok, output }),
        1 => (0u16..3).prop_map(|holder| Op::Lose { holder }),
        2 => (any::<usize>(), any::<bool>()).prop_map(|(pick, begun)| Op::Return { pick, begun }),
        1 => Just(Op::Late),
        1 => any::<usize>().prop_map(|pick| Op::Redrive { pick }),
        1 => any::<usize>().prop_map(|pick| Op::Bury { pick }),
        3 => any::<usize>().prop_map(|pick| Op::Cancel { pick }),
        1 => (0..3usize, any::<bool>()).prop_map(|(of, paused)| Op::Pause { of, paused }),
        1 => any::<usize>().prop_map(|pick| Op::Hurry { pick }),
        1 => any::<usize>().prop_map(|pick| Op::Purge { pick }),
        2 => rule(),
        1 => (0..3usize, any::<bool>(), prop_oneof![1 => Just(u64::MAX), 1 => 2u64..30])
            .prop_map(|(of, is, calls)| Op::Tenant { of, is, calls }),
        3 => (0..3usize, 0u64..30_000_000, 0u64..30_000_000)
            .prop_map(|(of, ahead, lives)| Op::Expiring { of, ahead, lives }),
        1 => prop::bool::weighted(0.3).prop_map(|full| Op::DiskFull { full }),
        2 => Just(Op::Crash),
        1 => Just(Op::WriteError),
    ]
}

fn rule() -> impl Strategy<Value = Op> {
    let calls = prop_oneof![3 => Just(u64::MAX), 1 => 1u64..20];
    let bytes = prop_oneof![3 => Just(u64::MAX), 1 => 0u64..9000];
    let expires = prop_oneof![Just(0u64), 1u64..60_000_000];
    let retain = || prop_oneof![Just(0u64), 1u64..400_000_000];
    (0..3usize, calls, bytes, expires, any::<bool>(), retain(), retain()).prop_map(
        |(of, calls, bytes, expires_ns, expired_dead, retain_ns, window_ns)| {
            let backlog = Backlog { calls, bytes };
            let rules = Rules { backlog, expires_ns, expired_dead, retain_ns, window_ns, ..Rules::default() };
            Op::Rule { of, rules }
        },
    )
}

fn apply(world: &mut World, op: &Op) {
    match *op {
        Op::Submit { of, ahead, payload, want } => {
            let start_at = if ahead == 0 { 0 } else { world.now + ahead };
            world.submit(of, start_at, payload, want);
        }
        Op::Resubmit { pick } => resubmit(world, pick),
        Op::Advance { by } => world.advance(by),
        Op::Flush => world.flush(),
        Op::Disk { pick } => {
            world.disk_step(pick);
        }
        Op::Events => {
            world.events();
        }
        Op::Poll { of } => {
            world.poll(of);
        }
        Op::GiveBack { pick } => world.give_back(pick),
        Op::Lease { pick, holder } => {
            world.lease(pick, HolderRef(holder));
        }
        Op::Settle { pick, ok, output } => {
            world.settle(pick, if ok { Status::Ok } else { Status::Trap }, output);
        }
        Op::Lose { holder } => {
            world.lose(HolderRef(holder));
        }
        Op::Return { pick, begun } => {
            world.return_lease(pick, begun);
        }
        Op::Late => world.late_outcomes(),
        Op::Redrive { pick } => redrive(world, pick),
        Op::Bury { pick } => bury(world, pick),
        Op::Cancel { pick } => {
            if let Some(call) = known(world, pick) {
                world.cancel(call);
            }
        }
        Op::Pause { of, paused } => world.pause(of, paused),
        Op::Hurry { pick } => hurry(world, pick),
        Op::Rule { of, rules } => world.rule(of, Rules { tenant: world.rules[of].tenant, ..rules }),
        Op::Tenant { of, is, calls } => {
            world.rule(of, Rules { tenant: if is { world::TENANT } else { 0 }, ..world.rules[of] });
            world.bound_tenant(Backlog { calls, bytes: u64::MAX });
        }
        Op::Expiring { of, ahead, lives } => {
            let start_at = world.now + 1 + ahead;
            world.submit_expiring(of, start_at, start_at + lives);
        }
        Op::Purge { pick } => purge(world, pick),
        Op::DiskFull { full } => world.disk.full = full,
        Op::Unreadable { reads } => world.disk.unreadable = reads,
        Op::Crash => world.crash(),
        Op::WriteError => {
            if world.disk_error() {
                // The process ends with this reason.
                world.events();
                world.crash();
            }
        }
    }
}

/// One of the calls that the queue knows.
fn known(world: &World, pick: usize) -> Option<CallId> {
    let known: Vec<CallId> =
        world.ledger.keys().copied().filter(|id| world.queue.find(*id).is_some()).collect();
    (!known.is_empty()).then(|| known[pick % known.len()])
}

fn resubmit(world: &mut World, pick: usize) {
    let Some(call) = known(world, pick) else { return };
    let state = world.queue.find(call).expect("known").state;
    let entry = world.ledger[&call].clone();
    let header = world::frame(&world::aligned(&entry.frame)).header();
    if header.flags & call::frame::flag::EXPIRES != 0 && header.deadline < world.now {
        // As a new call it would be refused for its time.
        return;
    }
    let mut bytes = call::frame::FrameBuf::new();
    bytes.extend_from_slice(&entry.frame);
    let of = (0..3).find(|of| world::function(*of) == world::frame(&bytes).function()).expect("one of three");
    let before = world.queue.counters();
    world.submit_frame(&bytes, of);
    if world.queue.counters().accepted == before.accepted {
        return;
    }
    // A duplicate is not accepted again, unless the time for which its end was remembered is over.
    assert!(state == State::Done && entry.until <= world.now, "{call} is {state:?} and accepted again");
    assert!(entry.status.is_some(), "{call} has ended");
    let anew = Entry { earlier: entry.status, ..Entry::new(&entry.frame, of, world.now) };
    world.ledger.insert(call, anew);
}

fn redrive(world: &mut World, pick: usize) {
    world.settle_disk();
    let mut dead = Vec::new();
    world.queue.dead_letters(usize::MAX, &mut dead);
    if dead.is_empty() || !world.queue.is_settled() {
        return;
    }
    let at = dead[pick % dead.len()];
    if world.husks.contains(&at) {
        // It expired with the scheduler, which would be offered it twice.
        assert!(!world.queue.redrive(&mut world.memory, at));
        return;
    }
    let id = world.queue.view(at).expect("listed").id;
    assert!(world.queue.redrive(&mut world.memory, at));
    world.redriven(id);
    let entry = world.ledger.get_mut(&id).expect("submitted");
    (entry.dead, entry.told_end, entry.status, entry.lasting) = (false, false, None, true);
    world.settle_disk();
    if world.ledger[&id].dead {
        // Its frame could not be read back.
        return;
    }
    // Until that is on disk, a crash may make it a dead letter again.
    world.ledger.get_mut(&id).expect("submitted").ended = !world.queue.is_settled();
}

fn bury(world: &mut World, pick: usize) {
    let mut waiting = Vec::new();
    for function in world::refs(&world.queue) {
        world.queue.peek(function, usize::MAX, &mut waiting);
    }
    if waiting.is_empty() {
        return;
    }
    let at = waiting[pick % waiting.len()];
    let id = world.queue.view(at).expect("listed").id;
    assert!(world.queue.bury(&mut world.memory, at, Status::Unavailable));
    let entry = world.ledger.get_mut(&id).expect("submitted");
    (entry.ended, entry.dead, entry.status) = (true, true, Some(Status::Unavailable));
}

/// Ends the wait of a call that is to be tried again.
fn hurry(world: &mut World, pick: usize) {
    let Some(call) = known(world, pick) else { return };
    let view = world.queue.find(call).expect("known");
    let waits = view.state == State::Scheduled && view.status.is_some();
    let Some(at) = world.queue.number(call) else { return };
    assert_eq!(world.queue.hurry(&mut world.memory, at), waits);
    if waits {
        assert_eq!(world.queue.find(call).expect("known").state, State::Due);
    }
}

/// Forgets a dead letter.
fn purge(world: &mut World, pick: usize) {
    let Some(call) = known(world, pick) else { return };
    let dead = world.queue.find(call).expect("known").state == State::Dead;
    let Some(at) = world.queue.number(call) else { return };
    assert_eq!(world.queue.purge(&mut world.memory, at), dead);
    if dead {
        assert_eq!(world.queue.find(call).expect("known").state, State::Done);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1_000) })]

    #[test]
    fn what_was_acknowledged_stays(seed in any::<u64>(), ops in prop::collection::vec(op(), 1..400)) {
        // Memory for histories is a page for each of two sizes, or plenty.
        let history_bytes_max = if seed % 2 == 0 { 32 << 10 } else { limits().history_bytes_max };
        let mut world = World::new(Limits { history_bytes_max, ..limits() }, seed);
        for op in &ops {
            apply(&mut world, op);
            world.queue.check();
            world.check_histories();
        }
        world.crash();
        world.disk.full = false;
        world.run_to_the_end();
        world.queue.check();
    }
}
