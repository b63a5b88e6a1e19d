//! The laws of the crate's documentation, held against random inputs and a node that keeps its own books.

mod model;

use call::Label;
use call::limits::Limits;
use model::{Bug, CORES, FUNCTIONS, HOSTS, Model, limits};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use scheduler::{CallRef, CoreRef, Depth, FunctionRef, GroupRef, HostRef, How, Marks, Rate, TenantRef};
use std::collections::BTreeMap;
use std::time::Duration;

#[derive(Clone, Debug)]
enum Step {
    Deploy(u32, u32),
    Delete(u32),
    Ready(u32, u16),
    HostDown(u16),
    CoreUp(u16, u32),
    Credit(u16, u64),
    Drain(u16),
    CoreDown(u16),
    Submit(u32, u8, u64, Marks),
    End(usize, How),
    Turn(u64, bool),
    Wait(u64),
    Policy(u32, u64),
    Limit(u32, u64),
    S(u32),
    Weight(u16, u32),
    Group(u16, u16),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (0..FUNCTIONS, 1..4u32).prop_map(|(f, n)| Step::Deploy(f, n)),
        1 => (0..FUNCTIONS).prop_map(Step::Delete),
        6 => (0..FUNCTIONS, 0..HOSTS).prop_map(|(f, h)| Step::Ready(f, h)),
        1 => (0..HOSTS).prop_map(Step::HostDown),
        3 => (0..CORES, 0..4u32).prop_map(|(c, n)| Step::CoreUp(c, n)),
        6 => (0..CORES, 0..4u64).prop_map(|(c, n)| Step::Credit(c, n)),
        1 => (0..CORES).prop_map(Step::Drain),
        1 => (0..CORES).prop_map(Step::CoreDown),
        20 => (0..FUNCTIONS, 1..4u8, 0..24u64, marks()).prop_map(|(f, c, d, m)| Step::Submit(f, c, d, m)),
        8 => (any::<usize>(), how()).prop_map(|(n, how)| Step::End(n, how)),
        10 => (any::<u64>(), any::<bool>()).prop_map(|(r, refuse)| Step::Turn(r, refuse)),
        4 => (0..3000u64).prop_map(Step::Wait),
        1 => (0..FUNCTIONS, rate()).prop_map(|(f, rate)| Step::Policy(f, rate)),
        1 => (0..FUNCTIONS, rate()).prop_map(|(f, rate)| Step::Limit(f, rate)),
        1 => prop_oneof![Just(0), Just(1500), 0..1000u32].prop_map(Step::S),
        1 => (0..3u16, 1..5u32).prop_map(|(tenant, weight)| Step::Weight(tenant, weight)),
        1 => (0..CORES, 0..3u16).prop_map(|(core, group)| Step::Group(core, group)),
    ]
}

/// Half the calls carry nothing.
fn marks() -> impl Strategy<Value = Marks> {
    let label = prop_oneof![Just(Label::LOWEST), Just(Label::new(1, &[1]).unwrap()), Just(Label::HIGHEST)];
    let some = (0..3u64, label, any::<bool>()).prop_map(|(key, label, retry)| Marks { key, label, retry });
    prop_oneof![Just(Marks::default()), some]
}

fn how() -> impl Strategy<Value = How> {
    prop_oneof![Just(How::Ok), Just(How::Failed), Just(How::BackPressure), Just(How::Lost)]
}

/// Thousandths of a call a second.
fn rate() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), Just(100_000), 200..4000u64]
}

/// Starts from a platform that works, so that the first faults find something to break.
fn run(steps: &[Step], effects: usize, bug: Bug) {
    let mut model = Model::new(&limits(), effects, bug).with_gates();
    (0..FUNCTIONS).for_each(|function| model.deploy(FunctionRef(function), 2));
    (0..CORES).for_each(|core| model.core_up(CoreRef(core), 2));
    for step in steps {
        match *step {
            Step::Deploy(function, concurrency) => model.deploy(FunctionRef(function), concurrency),
            Step::Delete(function) => model.delete(FunctionRef(function)),
            Step::Ready(function, host) => model.ready(FunctionRef(function), HostRef(host)),
            Step::HostDown(host) => model.host_down(HostRef(host)),
            Step::CoreUp(core, slots) => model.core_up(CoreRef(core), slots),
            Step::Credit(core, more) => model.credit(CoreRef(core), more),
            Step::Drain(core) => model.drain(CoreRef(core)),
            Step::CoreDown(core) => model.core_down(CoreRef(core)),
            Step::Submit(function, criticality, deadline, marks) => {
                model.submit_marked(FunctionRef(function), criticality, deadline, marks);
            }
            Step::End(which, how) => model.end(which, how),
            Step::Turn(random, refuse) => model.turn(random, refuse),
            Step::Wait(ms) => model.wait(Duration::from_millis(ms)),
            Step::Policy(function, rate) => model.policy(FunctionRef(function), Rate(rate)),
            Step::Limit(function, rate) => model.limit(FunctionRef(function), Rate(rate)),
            Step::S(permille) => model.s(permille),
            Step::Weight(tenant, weight) => model.weight(TenantRef(tenant), weight),
            Step::Group(core, group) => model.group(CoreRef(core), GroupRef(group)),
        }
    }
    model.settle();
}

/// Failures are told in full; no file of seeds is kept beside the sources.
fn quiet() -> Config {
    Config { failure_persistence: None, ..Config::default() }
}

proptest! {
    #![proptest_config(quiet())]

    #[test]
    fn whatever_happens_the_laws_hold_and_every_call_runs(
        steps in proptest::collection::vec(step(), 0..160),
        effects in 1..8usize,
    ) {
        run(&steps, effects, Bug::None);
    }

    #[test]
    fn a_functions_calls_grow_slowly(rounds in proptest::collection::vec((0..9u32, 0..900u64, 0..9u64), 0..60)) {
        run_slowly(&rounds, Bug::None);
    }

    /// All calls wait, then one turn has credits for all of them: laws 1 and 2 say the whole order.
    #[test]
    fn one_turn_dispatches_in_the_order_of_the_laws(
        calls in proptest::collection::vec((0..FUNCTIONS, 1..4u8, 0..4u64), 0..80),
    ) {
        let mut model = all_ready(1000);
        let mut submitted = BTreeMap::new();
        for (at, &(function, criticality, deadline)) in calls.iter().enumerate() {
            let call = model.submit(FunctionRef(function), criticality, deadline).expect("room for all");
            submitted.insert(call, (u8::MAX - criticality, deadline, at));
        }
        model.turn(1, false);
        model.credit(CoreRef(0), 1000);
        model.turn(2, false);
        let order: Vec<_> = model.dispatched.iter().map(|(call, of, _)| (submitted[call], *of)).collect();
        prop_assert_eq!(order.len(), calls.len());
        prop_assert!(order.is_sorted_by_key(|((level, ..), _)| *level), "criticality is strict: {:?}", order);
        for function in (0..FUNCTIONS).map(FunctionRef) {
            let own = order.iter().filter(|(_, of)| *of == function);
            prop_assert!(own.is_sorted_by_key(|(key, _)| *key), "order inside {:?}: {:?}", function, order);
        }
        for level in order.chunk_by(|a, b| a.0.0 == b.0.0) {
            let of: Vec<FunctionRef> = level.iter().map(|(_, of)| *of).collect();
            prop_assert!(goes_round(&of), "equals do not take turns: {:?}", of);
        }
    }
}

/// One core, which is never out of credits for some while others have some: in each round calls come, time passes, and
/// the core grants credits.
fn run_slowly(rounds: &[(u32, u64, u64)], bug: Bug) {
    let slow = FunctionRef(4);
    let mut model = Model::new(&limits(), 8, bug).with_gates().judging_growth();
    model.core_up(CoreRef(0), 4);
    model.deploy(slow, 1000);
    model.ready(slow, HostRef(0));
    for (round, &(calls, ms, credits)) in rounds.iter().enumerate() {
        for _ in 0..calls {
            model.submit(slow, 1, 0);
        }
        model.wait(Duration::from_millis(ms));
        model.credit(CoreRef(0), credits);
        model.turn(round as u64, false);
        (0..credits).for_each(|_| model.end(0, How::Ok));
    }
}

/// Of the functions that have calls left, the next to be served is none that is ahead of another.
fn goes_round(order: &[FunctionRef]) -> bool {
    let count = |list: &[FunctionRef], of: FunctionRef| list.iter().filter(|at| **at == of).count();
    (0..order.len()).all(|at| {
        let waiting = (0..FUNCTIONS).map(FunctionRef).filter(|of| count(&order[at..], *of) > 0);
        let served: Vec<usize> = waiting.map(|of| count(&order[..=at], of)).collect();
        served.iter().max().unwrap_or(&0) - served.iter().min().unwrap_or(&0) <= 1
    })
}

/// One core of one slot (so that the RunQ stays short), everything ready, long buffers.
fn all_ready(concurrency: u32) -> Model {
    let mut model = Model::new(&Limits { func_buffer_max: 96, ..limits() }, 256, Bug::None);
    model.core_up(CoreRef(0), 1);
    for function in (0..FUNCTIONS).map(FunctionRef) {
        model.deploy(function, concurrency);
        model.ready(function, HostRef(0));
    }
    model
}

#[test]
fn a_function_that_waits_for_its_own_cores_holds_up_nobody() {
    let mut model = Model::new(&limits(), 16, Bug::None);
    let (stuck, flowing) = (FunctionRef(0), FunctionRef(1));
    for (function, host, core) in [(stuck, HostRef(0), CoreRef(0)), (flowing, HostRef(1), CoreRef(2))] {
        model.deploy(function, 100);
        model.core_up(core, 4);
        model.ready(function, host);
    }
    let mut expected = Vec::new();
    for _ in 0..20 {
        expected.extend(model.submit(stuck, 200, 0));
    }
    model.turn(0, false);
    (0..20).for_each(|_| assert!(model.submit(flowing, 100, 0).is_some()));
    model.turn(1, false);
    assert_eq!(model.scheduler.run_q_len(), 6, "calls that nobody can run fill the window");
    for round in 0..40 {
        model.credit(CoreRef(2), 1);
        model.turn(round, false);
    }
    let of = |model: &Model, which| -> Vec<CallRef> {
        model.dispatched.iter().filter(|(_, of, _)| *of == which).map(|(call, ..)| *call).collect()
    };
    assert_eq!(of(&model, flowing).len(), 20);
    assert_eq!(of(&model, stuck).len(), 0);
    for round in 0..40 {
        model.credit(CoreRef(0), 1);
        model.turn(round, false);
    }
    assert_eq!(of(&model, stuck), expected, "and its own order is kept");
}

#[test]
fn a_critical_call_passes_a_run_q_full_of_others() {
    let mut model = all_ready(1000);
    (0..40).for_each(|_| assert!(model.submit(FunctionRef(0), 50, 0).is_some()));
    (0..4).for_each(|random| model.turn(random, false));
    let critical = model.submit(FunctionRef(1), 200, 9).unwrap();
    (0..2).for_each(|random| model.turn(random, false));
    model.credit(CoreRef(0), 1);
    model.turn(9, false);
    assert_eq!(model.dispatched, [(critical, FunctionRef(1), CoreRef(0))]);
}

#[test]
fn a_deleted_function_gives_its_calls_back_at_once() {
    let mut model = all_ready(1000);
    (0..40).for_each(|_| assert!(model.submit(FunctionRef(0), 50, 0).is_some()));
    (0..3).for_each(|random| model.turn(random, false));
    assert!(model.scheduler.depth(FunctionRef(0)).queued > 0);
    model.delete(FunctionRef(0));
    model.turn(5, false);
    assert_eq!((model.scheduler.depth(FunctionRef(0)), model.unfinished()), (Depth::default(), 0));
}

/// Runs the property with a planted bug and panics with what the checks say of it.
fn planted(bug: Bug) {
    let steps = proptest::collection::vec(step(), 0..160);
    let config = Config { max_shrink_iters: 0, ..quiet() };
    let always_the_same = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let found = TestRunner::new_with_rng(config, always_the_same).run(&steps, |steps| {
        run(&steps, 8, bug);
        Ok(())
    });
    panic!("{found:?}");
}

#[test]
#[should_panic(expected = "more calls than credits")]
fn canary_credits() {
    planted(Bug::CreditTooMany);
}

#[test]
#[should_panic(expected = "more calls at once than the function's concurrency")]
fn canary_concurrency() {
    planted(Bug::ConcurrencyTooHigh);
}

#[test]
#[should_panic(expected = "the scheduler holds a call that is gone")]
fn canary_end_forgotten() {
    planted(Bug::EndForgotten);
}

#[test]
#[should_panic(expected = "not ready")]
fn canary_readiness() {
    planted(Bug::ReadyInvented);
}

#[test]
#[should_panic(expected = "a far core got a call")]
fn canary_near_before_far() {
    planted(Bug::FarToldNear);
}

#[test]
#[should_panic(expected = "than its quota")]
fn canary_quota() {
    planted(Bug::QuotaTooHigh);
}

#[test]
#[should_panic(expected = "than a controller allows")]
fn canary_limit() {
    planted(Bug::LimitForgotten);
}

#[test]
#[should_panic(expected = "more calls of a key at once")]
fn canary_keys() {
    planted(Bug::KeysTooMany);
}

#[test]
#[should_panic(expected = "data flowed from a higher zone")]
fn canary_labels() {
    planted(Bug::LabelTooHigh);
}

#[test]
#[should_panic(expected = "grew faster than slow start allows")]
fn canary_slow_start() {
    let hurried: Vec<_> = (0..9).map(|_| (4, 900, 9)).collect();
    run_slowly(&hurried, Bug::GrowthTooFast);
}

#[test]
#[should_panic(expected = "retries, the budget is")]
fn canary_retry_budget() {
    planted(Bug::RetriesTooMany);
}

#[test]
#[should_panic(expected = "left its locality group")]
fn canary_groups() {
    planted(Bug::GroupForgotten);
}

#[test]
#[should_panic(expected = "calls that never ran")]
fn canary_wake() {
    planted(Bug::WakeForgotten);
}

#[test]
#[should_panic(expected = "equals do not take turns")]
fn canary_fairness() {
    assert!(goes_round(&[0, 0, 1].map(FunctionRef)), "equals do not take turns");
}
