//! What gates do to calls, told as an owner or operator would see it: one core, one host, a queue that always answers.

use call::limits::Limits;
use call::{Instant, WallTime};
use counting::allocations;
use scheduler::{
    BreakerRule, CallRef, CoreRef, Effect, Effects, FunctionRef, HostRef, How, Input, Marks, Policy, Quota,
    Rate, RetryRule, Rule, Scheduler, SlowStartRule, TenantRef,
};
use std::time::Duration;

const CORE: CoreRef = CoreRef(0);
const HOST: HostRef = HostRef(0);

struct Rig {
    scheduler: Scheduler,
    out: Effects,
    now: Instant,
    granted: u64,
    queues: Vec<Vec<(CallRef, WallTime, Marks)>>,
    submitted: u32,
    /// Since it was last cleared.
    dispatched: Vec<(CallRef, FunctionRef)>,
    polls: Vec<(FunctionRef, u32)>,
}

impl Rig {
    /// All functions are ready and have these policies.
    fn new(policies: &[Policy]) -> Rig {
        let mut rig = Rig {
            scheduler: Scheduler::new(&Limits::small()),
            out: Effects::new(256),
            now: Instant(1),
            granted: 0,
            queues: vec![Vec::with_capacity(1024); policies.len()],
            submitted: 0,
            dispatched: Vec::with_capacity(1024),
            polls: Vec::with_capacity(256),
        };
        rig.tell(Input::CoreUp { core: CORE, host: HOST, slots: 8, far: false });
        for (at, &policy) in policies.iter().enumerate() {
            let function = FunctionRef(at as u32);
            rig.tell(Input::Function { function, version: 1, concurrency: 1000 });
            rig.tell(Input::Policy { function, policy });
            rig.tell(Input::Ready { host: HOST, function, version: 1 });
        }
        rig
    }

    fn tell(&mut self, input: Input) {
        self.scheduler.step(input, &mut self.out);
    }

    /// A call whose deadline is in so many seconds.
    fn submit(&mut self, function: u32, s: u64, marks: Marks) -> CallRef {
        let call = CallRef(self.submitted % Limits::small().calls_max as u32);
        self.submitted += 1;
        self.queues[function as usize]
            .insert(0, (call, WallTime(self.now.0) + Duration::from_secs(s), marks));
        self.tell(Input::Due { function: FunctionRef(function) });
        call
    }

    /// Grants credits, and gives turns until one has nothing more to say.
    fn round(&mut self, credits: u64) {
        self.granted += credits;
        self.tell(Input::Credit { core: CORE, granted: self.granted });
        loop {
            self.tell(Input::Turn { now: self.now, wall: WallTime(self.now.0), random: 7 });
            if self.out.as_slice().is_empty() {
                return;
            }
            for effect in self.out.drain() {
                match effect {
                    Effect::Poll { function, max } => self.polls.push((function, max)),
                    Effect::Dispatch { call, function, .. } => self.dispatched.push((call, function)),
                    Effect::Return { .. } | Effect::Refuse { .. } => panic!("{effect:?}"),
                }
            }
            while let Some((function, max)) = self.polls.pop() {
                for _ in 0..max {
                    let Some((call, deadline, marks)) = self.queues[function.0 as usize].pop() else { break };
                    self.tell(Input::Offered { call, function, criticality: 100, deadline, marks });
                }
                let more = !self.queues[function.0 as usize].is_empty();
                self.tell(Input::Polled { function, more });
            }
        }
    }

    fn end_all(&mut self, how: How) -> usize {
        let count = self.dispatched.len();
        while let Some((call, _)) = self.dispatched.pop() {
            self.tell(Input::Ended { call, how });
        }
        count
    }
}

#[test]
fn opportunistic_calls_wait_for_capacity_but_not_past_their_deadline() {
    let near = Duration::from_secs(60);
    let policy = Policy { quota: Quota::Opportunistic { near }, rate: Rate::per_s(10), ..Policy::default() };
    let mut rig = Rig::new(&[policy]);
    rig.tell(Input::Opportunistic { permille: 0 });
    let call = rig.submit(0, 300, Marks::default());
    rig.round(8);
    assert_eq!(rig.dispatched, [], "there is no capacity to spare");
    let why = rig.scheduler.explain(call).expect("it waits here");
    assert_eq!((why.rule, why.since), (Rule::Opportunistic, Instant(1)));
    let wake = rig.scheduler.next_wake().expect("its deadline comes");
    assert_eq!(why.until.map(|until| until.since(Instant(1))), Some(Duration::from_secs(240)));
    rig.now = wake;
    rig.round(0);
    assert_eq!(rig.dispatched, [(call, FunctionRef(0))]);
    // S rises: the next one need not wait.
    rig.end_all(How::Ok);
    rig.submit(0, 300, Marks::default());
    rig.round(0);
    assert_eq!(rig.dispatched.len(), 0);
    rig.tell(Input::Opportunistic { permille: 100 });
    rig.round(0);
    assert_eq!(rig.dispatched.len(), 1);
}

#[test]
fn a_function_that_fails_is_left_alone_until_its_probes_go_well() {
    let rule = BreakerRule { calls_min: 4, probes: 2, ..BreakerRule::default() };
    let mut rig = Rig::new(&[Policy { breaker: Some(rule), ..Policy::default() }]);
    for _ in 0..40 {
        rig.submit(0, 60, Marks::default());
    }
    rig.round(8);
    assert_eq!(rig.end_all(How::Failed), 8);
    rig.round(8);
    // What had entered the RunQ before it opened still runs; nothing new enters.
    let in_run_q = rig.end_all(How::Ok);
    rig.round(8);
    assert_eq!((rig.dispatched.len(), rig.scheduler.run_q_len()), (0, 0), "{in_run_q} were in the RunQ");
    assert_eq!(rig.scheduler.explain_function(FunctionRef(0)).rule, Rule::Breaker);
    rig.now = rig.scheduler.next_wake().expect("it tries again");
    rig.round(8);
    assert_eq!(rig.end_all(How::Ok), 2, "probes");
    rig.round(8);
    assert!(rig.dispatched.len() > 2, "it is closed again");
}

#[test]
fn tenants_share_by_weight_and_not_by_functions() {
    let of = |tenant| Policy { tenant: TenantRef(tenant), ..Policy::default() };
    let mut rig = Rig::new(&[of(1), of(1), of(1), of(2)]);
    rig.tell(Input::Tenant { tenant: TenantRef(2), weight: 3 });
    for call in 0..400 {
        rig.submit(call % 4, 60, Marks::default());
    }
    let mut counts = [0; 4];
    for _ in 0..10 {
        rig.round(8);
        rig.dispatched.iter().for_each(|(_, function)| counts[function.0 as usize] += 1);
        rig.end_all(How::Ok);
    }
    let (many, one) = (counts[0] + counts[1] + counts[2], counts[3]);
    assert_eq!(many + one, 80);
    assert!((58..=62).contains(&one), "three quarters are due to tenant 2: {counts:?}");
}

#[test]
fn a_hot_key_holds_up_no_other_and_keeps_its_order() {
    let mut rig = Rig::new(&[Policy { concurrency_per_key: 1, ..Policy::default() }]);
    let marks = |key| Marks { key, ..Marks::default() };
    let hot: Vec<CallRef> = (0..5).map(|_| rig.submit(0, 60, marks(1))).collect();
    let cold = rig.submit(0, 60, marks(2));
    rig.round(8);
    assert_eq!(rig.dispatched, [hot[0], cold].map(|call| (call, FunctionRef(0))));
    assert_eq!(rig.scheduler.explain(hot[3]).map(|why| why.rule), Some(Rule::Key));
    let mut order = vec![hot[0]];
    while order.len() < 5 {
        rig.end_all(How::Ok);
        rig.round(0);
        order.extend(rig.dispatched.iter().map(|(call, _)| *call));
    }
    assert_eq!(order, hot);
}

#[test]
fn gates_in_force_allocate_nothing() {
    let all = Policy {
        rate: Rate::per_s(400),
        burst: 4,
        concurrency_per_key: 2,
        slow_start: Some(SlowStartRule::default()),
        breaker: Some(BreakerRule::default()),
        retry_budget: Some(RetryRule { most: 2, ..RetryRule::default() }),
        ..Policy::default()
    };
    let shifted = Policy { quota: Quota::Opportunistic { near: Duration::from_secs(9) }, ..all };
    let mut rig = Rig::new(&[all, shifted, Policy { tenant: TenantRef(3), ..all }, Policy::default()]);
    let mut ran = 0;
    let mut live = |rig: &mut Rig, rounds: u32| {
        for round in 0..rounds {
            for function in 0..4 {
                let marks = Marks { key: u64::from(round % 3), retry: round % 4 == 0, ..Marks::default() };
                rig.submit(function, 60, marks);
            }
            rig.now = rig.now + Duration::from_millis(700);
            rig.tell(Input::Opportunistic { permille: 500 + round % 500 });
            rig.tell(Input::Limit { function: FunctionRef(0), rate: Rate::per_s(u64::from(2 + round % 9)) });
            rig.round(4);
            ran += rig.end_all(if round % 9 == 0 { How::Failed } else { How::Ok });
        }
    };
    live(&mut rig, 200);
    let before = allocations();
    live(&mut rig, 2000);
    assert_eq!(allocations() - before, 0);
    assert!(ran > 4000, "{ran} calls ran");
    rig.scheduler.check();
}
