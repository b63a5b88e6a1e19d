//! Shards of one node: nodes on real rings and disks, scripted clients and cores. A call is accepted once, by whichever
//! shard it comes and whatever the maps say meanwhile; a shard that is lost keeps its calls.

mod peer;

use call::admin::{Answer, Ask, Hello, NodeStatus, ShardState};
use call::frame::{Frame, Kind};
use call::limits::Limits;
use call::shards::ShardPlace;
use call::{CallId, FunctionId, ShardId, ShardMap, Slot, Status, VerdictCode};
use control::NodeOptions;
use control::shards::ShardOptions;
use peer::Peer;
use peer::node::{Running, directory, function};
use std::collections::BTreeSet;
use std::time::Duration;

const SECRET: &str = "of the shards";
/// Ends are let go soon.
const REMEMBER: Duration = Duration::from_millis(50);

fn echo() -> FunctionId {
    FunctionId::of("default", "echo")
}

/// Shards, some of which run.
struct Shards {
    directories: Vec<tempfile::TempDir>,
    nodes: Vec<Option<Running>>,
    map: ShardMap,
}

impl Shards {
    /// So many, all new.
    fn fresh(count: usize) -> Shards {
        let mut shards = Shards { directories: Vec::new(), nodes: Vec::new(), map: ShardMap::default() };
        let places = (0..count).map(|_| shards.place()).collect();
        shards.map = ShardMap::fresh(places);
        (0..count).for_each(|shard| shards.start(shard));
        (0..count).for_each(|shard| shards.until_linked(shard));
        shards
    }

    /// One that has all slots.
    fn one() -> Shards {
        let mut shards = Shards { directories: Vec::new(), nodes: Vec::new(), map: ShardMap::default() };
        shards.map = ShardMap::of_one(shards.place());
        shards.start(0);
        shards
    }

    fn place(&mut self) -> ShardPlace {
        self.directories.push(directory());
        self.nodes.push(None);
        let at = self.directories.last().unwrap().path();
        let endpoint = format!("unix:{}", at.join("node.sock").display());
        ShardPlace { endpoint, data_dir: at.display().to_string(), gone: false }
    }

    /// Starts a shard, which reads the newest map.
    fn start(&mut self, shard: usize) {
        let number = Some(shard as ShardId);
        let (map, secret) = (self.map.clone(), SECRET.into());
        let shards = ShardOptions { number, map, secret, remember: REMEMBER, shares: None };
        let options = NodeOptions { shards, ..NodeOptions::default() };
        let at = self.directories[shard].path();
        self.nodes[shard] = Some(Running::start_with(at, Limits::small(), vec![function("echo")], options));
    }

    fn kill(&mut self, shard: usize) {
        self.nodes[shard].take().expect("it runs").kill();
    }

    fn node(&self, shard: usize) -> &Running {
        self.nodes[shard].as_ref().expect("it runs")
    }

    fn running(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|shard| self.nodes[*shard].is_some()).collect()
    }

    fn state(&self, shard: usize) -> ShardState {
        match self.node(shard).admin().ask(&Ask::Shards) {
            Answer::Shards(state) => state,
            other => panic!("{other:?}"),
        }
    }

    fn status(&self, shard: usize) -> NodeStatus {
        match self.node(shard).admin().ask(&Ask::Status) {
            Answer::Status(status) => status,
            other => panic!("{other:?}"),
        }
    }

    /// Waits until a shard reaches all others that run, and those reach it.
    fn until_linked(&self, shard: usize) {
        for other in self.running().into_iter().filter(|other| *other != shard) {
            self.until_linked_to(shard, other);
            self.until_linked_to(other, shard);
        }
    }

    /// Asks a shard until the slots that it says are clear are as they should be.
    fn until_clear(&self, shard: usize, is_enough: impl Fn(&[u8]) -> bool) -> Vec<u8> {
        for _ in 0..2000 {
            let clear = self.state(shard).clear;
            if is_enough(&clear) {
                return clear;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("shard {shard} says {:?}", self.state(shard).clear);
    }

    /// As `millrace up` does: what a shard says under the newest map is the next map's.
    fn release(&mut self) {
        let mut next = self.map.clone();
        for shard in self.running() {
            let said = self.state(shard);
            if said.map == self.map && !said.clear.is_empty() {
                next = next.released(shard as ShardId, &said.clear);
            }
        }
        if next != self.map {
            self.map = next;
            self.running().into_iter().for_each(|shard| self.publish(shard));
        }
    }

    fn until_linked_to(&self, from: usize, to: usize) {
        let is_up = || {
            let links = self.state(from).links;
            links.iter().any(|link| usize::from(link.shard) == to && link.state == "up")
        };
        for _ in 0..2000 {
            if is_up() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("shard {from} is not linked to {to}: {:?}", self.state(from));
    }

    fn publish(&self, shard: usize) {
        let answer = self.node(shard).admin().ask(&Ask::ShardMap { map: self.map.clone() });
        assert!(matches!(answer, Answer::Shards(_)), "{answer:?}");
    }

    /// Calls that wait or run, of all shards that run.
    fn pending(&self) -> u64 {
        self.running().into_iter().map(|shard| self.status(shard).pending).sum()
    }

    fn owner(&self, call: u128) -> usize {
        self.map.home(Slot::of(CallId(call))).owner.into()
    }

    /// The first ids from `from` that a shard owns.
    fn ids_of(&self, shard: usize, from: u128, count: usize) -> Vec<u128> {
        (from..).filter(|id| self.owner(*id) == shard).take(count).collect()
    }
}

/// Submits until the verdict is not one that asks to come again.
fn patiently(client: &mut Peer, call: u128) -> VerdictCode {
    for _ in 0..1000 {
        let verdict = client.submitted(call, echo(), false);
        if !verdict.is_transient() {
            return verdict;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("{call} is refused for ever");
}

#[test]
fn a_submit_at_any_shard_is_accepted_once_by_its_own_and_its_outcome_comes_back() {
    let shards = Shards::fresh(3);
    let mut clients: Vec<Peer> = (0..3).map(|shard| shards.node(shard).client()).collect();
    for call in 0..30 {
        assert_eq!(clients[0].submitted(call, echo(), true), VerdictCode::Accepted);
        for client in &mut clients[1..] {
            assert_eq!(client.submitted(call, echo(), false), VerdictCode::Duplicate, "{call}");
        }
    }
    for shard in 0..3 {
        let own = (0..30).filter(|call| shards.owner(*call) == shard).count() as u64;
        assert!(own > 0, "the ids are spread");
        assert_eq!(shards.status(shard).accepted, own);
    }
    let first = shards.state(0);
    let others = 30 - shards.status(0).accepted;
    assert_eq!((first.passed, first.asked, first.awaited), (others, 0, others));
    // A core of one shard serves all: it takes calls of the others as regions pull.
    let (_host, mut core) = shards.node(1).ready_core(8, 1);
    let mut ended = BTreeSet::new();
    for granted in 9..39 {
        let lease = core.expect(Kind::Lease);
        ended.insert(Frame::parse(&lease).unwrap().0.call());
        core.end(&lease, Status::Ok, b"done");
        core.grant(granted);
    }
    assert_eq!(ended.len(), 30, "each once");
    let heard: BTreeSet<CallId> =
        (0..30).map(|_| Frame::parse(&clients[0].expect(Kind::Outcome)).unwrap().0.call()).collect();
    assert_eq!(heard, ended, "whoever submitted them hears of all");
    assert_eq!(shards.state(0).awaited, 0);
}

#[test]
fn a_shard_that_is_lost_keeps_its_calls_and_the_others_go_on() {
    let mut shards = Shards::fresh(3);
    let mut client = shards.node(0).client();
    let lost = shards.ids_of(1, 1, 6);
    let doubtful = shards.ids_of(1, 10_000, 12);
    let there = shards.ids_of(2, 1, 3);
    for call in &lost[..3] {
        assert_eq!(client.submitted(*call, echo(), true), VerdictCode::Accepted);
    }
    // Some are on their way when it is killed: whether they were accepted nobody here knows.
    let mut doubter = shards.node(0).client();
    for call in &doubtful {
        doubter.submit(*call, echo(), b"", false);
    }
    shards.kill(1);
    for call in &there {
        assert_eq!(client.submitted(*call, echo(), false), VerdictCode::Accepted);
    }
    let mut refused = VerdictCode::Accepted;
    for _ in 0..1000 {
        refused = client.submitted(lost[3], echo(), false);
        if refused == VerdictCode::Draining {
            break;
        }
    }
    assert_eq!(refused, VerdictCode::Draining, "come again");
    let asked = shards.node(0).admin().ask(&Ask::Call { call: CallId(lost[0]).to_string(), wait_ms: 0 });
    let Answer::Error { code, message } = asked else { panic!("{asked:?}") };
    assert!(code == "unavailable" && message.contains("shard 1"), "{message}");
    shards.start(1);
    shards.until_linked(1);
    for call in &lost[..3] {
        assert_eq!(client.submitted(*call, echo(), false), VerdictCode::Duplicate, "nothing is lost");
    }
    assert_eq!(patiently(&mut client, lost[3]), VerdictCode::Accepted);
    // Nobody was told a lie: what is said to be held is, and what was refused was not accepted.
    for (call, verdict) in doubter.verdicts(doubtful.len()) {
        let expected = if verdict.is_held() { VerdictCode::Duplicate } else { VerdictCode::Accepted };
        assert_eq!(patiently(&mut client, call.0), expected, "{call} was {verdict:?}");
    }
    let (_host, mut core) = shards.node(1).ready_core(64, 1);
    for _ in 0..7 + doubtful.len() {
        let lease = core.expect(Kind::Lease);
        core.end(&lease, Status::Ok, b"");
    }
    let heard: BTreeSet<CallId> =
        (0..3).map(|_| Frame::parse(&client.expect(Kind::Outcome)).unwrap().0.call()).collect();
    let wanted = lost[..3].iter().map(|call| CallId(*call)).collect();
    assert_eq!(heard, wanted, "who waited before the loss hears of the end after it");
}

#[test]
fn a_shard_that_joins_takes_new_calls_and_knows_the_old_ones() {
    let mut shards = Shards::one();
    let mut old = shards.node(0).client();
    (1..=60).for_each(|call| assert_eq!(old.submitted(call, echo(), false), VerdictCode::Accepted));
    let place = shards.place();
    let before = shards.map.clone();
    // It runs before it owns anything; nobody is started again.
    shards.start(1);
    let mut new = shards.node(1).client();
    shards.until_linked_to(1, 0);
    assert_eq!(new.submitted(1, echo(), false), VerdictCode::Duplicate, "no map names it: all is passed on");
    shards.map = before.grown(vec![place]);
    let [moved, stayed] = [1, 0].map(|shard| shards.ids_of(shard, 1000, 20));
    // The new one hears of the map first: until the former owner has heard of it, nobody can tell.
    shards.publish(1);
    for _ in 0..3 {
        let verdict = new.submitted(moved[0], echo(), false);
        assert!(verdict.is_transient(), "the former owner may still accept it: {verdict:?}");
    }
    assert_eq!(old.submitted(moved[0], echo(), false), VerdictCode::Accepted, "as it does");
    shards.publish(0);
    shards.until_linked(1);
    assert_eq!(patiently(&mut new, moved[0]), VerdictCode::Duplicate);
    for call in 1..=60 {
        assert_eq!(patiently(&mut new, call), VerdictCode::Duplicate, "{call}");
        assert_eq!(old.submitted(call, echo(), false), VerdictCode::Duplicate, "{call}");
    }
    for call in moved[1..].iter().chain(&stayed) {
        assert_eq!(patiently(&mut old, *call), VerdictCode::Accepted, "{call}");
        assert_eq!(patiently(&mut new, *call), VerdictCode::Duplicate, "{call}");
    }
    assert_eq!((shards.status(0).accepted, shards.status(1).accepted), (61 + 20, 19));
    let state = shards.state(1);
    assert!(state.found > 0 && state.asked > state.found, "{state:?}");
    // The old map is refused now, and so is one that forgets.
    let answer = shards.node(0).admin().ask(&Ask::ShardMap { map: before });
    assert!(matches!(&answer, Answer::Error { code, .. } if code == "conflict"), "{answer:?}");
    // Without the former owner a new id of a moved slot cannot be judged; one of the old that it holds can.
    shards.kill(0);
    let fresh = shards.ids_of(1, 5000, 1)[0];
    assert!(new.submitted(fresh, echo(), false).is_transient());
    assert_eq!(new.submitted(moved[1], echo(), false), VerdictCode::Duplicate);
    shards.start(0);
    assert_eq!(patiently(&mut new, fresh), VerdictCode::Accepted);
}

fn slot(call: u128) -> u8 {
    Slot::of(CallId(call)).0
}

#[test]
fn a_former_owner_is_released_when_it_holds_nothing_and_may_be_away_then() {
    let mut shards = Shards::one();
    let mut old = shards.node(0).client();
    // Some wait, and some have ended: one of them is a key whose time is not over.
    let keyed = CallId::of_key(echo(), "order-7").0;
    let ids: Vec<u128> = (1..=40).collect();
    for call in &ids {
        assert_eq!(old.submitted(*call, echo(), false), VerdictCode::Accepted);
    }
    old.submit_keyed("order-7", echo());
    assert_eq!(old.verdicts(1), [(CallId(keyed), VerdictCode::Accepted)]);
    let place = shards.place();
    shards.start(1);
    let mut new = shards.node(1).client();
    shards.map = shards.map.grown(vec![place]);
    [0, 1].into_iter().for_each(|shard| shards.publish(shard));
    shards.until_linked(1);
    let left: BTreeSet<u8> = shards.map.left_by(0).collect();
    let held: BTreeSet<u8> = ids.iter().chain([&keyed]).map(|call| slot(*call)).collect();
    let free = left.difference(&held).count();
    let clear = shards.until_clear(0, |clear| clear.len() == free);
    assert!(clear.iter().all(|slot| !held.contains(slot)), "nobody is released from what it holds");
    shards.release();
    shards.kill(0);
    let fresh = shards.ids_of(1, 10_000, 40);
    for call in &fresh {
        let expected = held.contains(&slot(*call));
        let verdict = new.submitted(*call, echo(), false);
        assert_eq!(verdict.is_transient(), expected, "{call}: {verdict:?}");
    }
    shards.start(0);
    shards.until_linked(1);
    // All that was pending ends, and is forgotten but for the key.
    let (_host, mut core) = shards.node(0).ready_core(64, 1);
    let new_ones = shards.status(1).pending as usize;
    for n in 1..=(ids.len() + 1 + new_ones) as u64 {
        let lease = core.expect(Kind::Lease);
        core.end(&lease, Status::Ok, b"");
        core.grant(64 + n);
    }
    let has_key = left.contains(&slot(keyed));
    let rest: Vec<u8> = shards.map.left_by(0).filter(|left| *left != slot(keyed)).collect();
    shards.until_clear(0, |clear| clear.len() == rest.len());
    shards.release();
    assert_eq!(shards.map.left_by(0).count(), usize::from(has_key), "its time is not over");
    new.submit_keyed("order-7", echo());
    assert_eq!(new.verdicts(1), [(CallId(keyed), VerdictCode::Duplicate)]);
    shards.kill(0);
    let fresh = shards.ids_of(1, 20_000, 40);
    for call in fresh.iter().filter(|call| slot(**call) != slot(keyed)) {
        assert_eq!(new.submitted(*call, echo(), false), VerdictCode::Accepted, "{call}");
    }
}

/// Ids are submitted again and again at any shard, by a seed, while shards are killed, come back and join. In the end each
/// id that was ever accepted is pending once, at one shard.
#[test]
fn whatever_happens_an_id_is_held_once() {
    let mut shards = Shards::one();
    let mut seed = 7u64;
    let mut next = |bound: usize| {
        seed = seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (seed >> 33) as usize % bound
    };
    let mut held = BTreeSet::new();
    for step in 0..300 {
        match step {
            60 | 160 => {
                let place = shards.place();
                shards.map = shards.map.grown(vec![place]);
                shards.start(shards.nodes.len() - 1);
                // In any order, and while others are asked.
                shards.running().into_iter().rev().for_each(|shard| shards.publish(shard));
            }
            // One gives its slots away: it still holds calls.
            120 => {
                shards.map = shards.map.emptied(0);
                shards.running().into_iter().for_each(|shard| shards.publish(shard));
            }
            _ if step % 20 == 10 => shards.release(),
            40 | 100 | 130 | 200 | 240 | 270 => {
                let shard = next(shards.nodes.len());
                shards.kill(shard);
                shards.start(shard);
            }
            _ => {}
        }
        let shard = next(shards.nodes.len());
        let mut client = shards.node(shard).client();
        for _ in 0..4 {
            let call = next(400) as u128;
            let verdict = client.submitted(call, echo(), next(2) == 0);
            assert!(verdict.is_held() || verdict.is_transient(), "{verdict:?}");
            assert!(verdict != VerdictCode::Accepted || !held.contains(&call), "{call} was accepted before");
            assert!(verdict != VerdictCode::Duplicate || held.contains(&call), "{call} was held by nobody");
            if verdict.is_held() {
                held.insert(call);
            }
        }
    }
    (0..3).for_each(|shard| shards.until_linked(shard));
    assert_eq!(shards.pending(), held.len() as u64);
    assert!(shards.map.slots.iter().any(|home| !home.released.is_empty()), "some are asked no more");
    assert!((0..3).all(|shard| shards.status(shard).pending > 0));
    for call in &held {
        let shard = next(3);
        let asked =
            shards.node(shard).admin().ask(&Ask::Call { call: CallId(*call).to_string(), wait_ms: 0 });
        assert!(matches!(asked, Answer::Call(_)), "any shard tells of any call: {asked:?}");
        assert_eq!(patiently(&mut shards.node(shard).client(), *call), VerdictCode::Duplicate);
    }
}

#[test]
fn only_who_knows_the_secret_is_a_shard() {
    let shards = Shards::fresh(2);
    let socket = &shards.node(0).socket;
    for (shard, secret) in [(1, "a guess"), (0, SECRET)] {
        let hello = Hello::Shard { shard, secret: secret.into() };
        assert!(Peer::refused(socket, &hello), "shard {shard} with {secret}");
    }
    let alone = directory();
    let node = Running::start(alone.path(), Limits::small(), vec![]);
    assert!(Peer::refused(&node.socket, &Hello::Shard { shard: 1, secret: String::new() }));
    let answer = node.admin().ask(&Ask::ShardMap { map: shards.map.clone() });
    assert!(matches!(&answer, Answer::Error { code, .. } if code == "conflict"), "{answer:?}");
}
