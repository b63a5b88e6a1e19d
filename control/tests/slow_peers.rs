//! Backpressure, in a simulated world: narrow wires, peers that read late or never.

use call::admin::Hello;
use call::body::{Submit, append_submit, verdicts};
use call::frame::{FrameBuf, Header, Kind, append};
use call::limits::Limits;
use call::{Arguments, CallId, FunctionSpec, VerdictCode, WallTime};
use control::{Booting, Node, NodeOptions};
use driver::sim::{Conditions, SimDriver, Sizes, World};
use driver::{Arrivals, ConnectionId, Driver, Endpoint, Event, SendError};
use std::collections::BTreeSet;
use std::time::Duration;

const CALLS: u128 = 800;

fn at() -> Endpoint {
    Endpoint::Tcp("10.0.0.1:7410".parse().unwrap())
}

/// A wire that holds a few verdicts only.
fn narrow() -> World {
    World::new(7, Conditions { window_bytes: 2 << 10, ..Conditions::default() })
}

fn boot(world: &World, limits: &Limits) -> (Node<SimDriver>, Arrivals) {
    let blocks = durableq::block_count(limits);
    let sizes = Sizes { blocks, block_bytes: limits.group_bytes, queue_bytes: 2 << 10 };
    let mut arrivals = Arrivals::new();
    let spec = FunctionSpec { name: "echo".into(), version: 1, ..FunctionSpec::default() };
    let booting =
        Booting::new(limits.clone(), NodeOptions::default(), world.boot("control", sizes), vec![spec]);
    let mut node = booting.unwrap().run(&mut arrivals).unwrap();
    node.listen(&at()).unwrap();
    (node, arrivals)
}

/// A client that sends all its submits and reads when it is told to.
struct Client {
    driver: SimDriver,
    arrivals: Arrivals,
    connection: ConnectionId,
    sent: u128,
    accepted: BTreeSet<CallId>,
    closed: bool,
}

impl Client {
    fn connect(world: &World) -> Client {
        let mut driver = world.boot("client", Sizes::default());
        let connection = driver.connect(&at());
        let mut hello = FrameBuf::new();
        let body = serde_json::to_vec(&Hello::Client { name: "late".into() }).unwrap();
        append(&mut hello, &Header::new(Kind::Hello), &body);
        driver.send(connection, &hello).unwrap();
        let accepted = BTreeSet::new();
        Client { driver, arrivals: Arrivals::new(), connection, sent: 0, accepted, closed: false }
    }

    fn submit_some(&mut self, payload: &[u8]) {
        while self.sent < CALLS {
            let mut frame = FrameBuf::new();
            let submit = Submit {
                call: CallId(self.sent + 1),
                function: call::FunctionId::of("default", "echo"),
                start_at: WallTime(0),
                deadline: WallTime(0),
                criticality: 0,
                want_outcome: false,
                arguments: Arguments { payload, attributes: &[] },
                ..Submit::default()
            };
            append_submit(&mut frame, &submit).unwrap();
            match self.driver.send(self.connection, &frame) {
                Ok(()) => self.sent += 1,
                Err(SendError::Full | SendError::Closed) => return,
            }
        }
    }

    fn read(&mut self) {
        let soon = self.driver.now() + Duration::from_micros(100);
        self.driver.reap(soon, &mut self.arrivals);
        for event in self.arrivals.iter() {
            match event {
                Event::Frame { frame, .. } if frame.kind() == Kind::Verdicts => {
                    for verdict in verdicts(frame.body()).unwrap() {
                        assert_eq!(verdict.code(), Ok(VerdictCode::Accepted));
                        assert!(self.accepted.insert(verdict.call()), "one verdict per submit");
                    }
                }
                Event::Closed { .. } => self.closed = true,
                _ => {}
            }
        }
    }
}

fn round(node: &mut Node<SimDriver>, arrivals: &mut Arrivals) {
    let until = node.turn(arrivals).min(node.driver().now() + Duration::from_micros(100));
    node.check();
    node.driver().reap(until, arrivals);
}

#[test]
fn a_client_that_reads_late_loses_no_verdict() {
    let world = narrow();
    let (mut node, mut arrivals) = boot(&world, &Limits::small());
    let mut client = Client::connect(&world);
    for turn in 0..1_000_000 {
        client.submit_some(b"");
        round(&mut node, &mut arrivals);
        if turn % 50 == 0 {
            client.read();
        }
        if client.accepted.len() as u128 == CALLS {
            return;
        }
    }
    panic!("{} of {CALLS} verdicts", client.accepted.len());
}
