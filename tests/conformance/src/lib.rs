//! One body of tests for every driver: what [`Driver`] promises, held against the real one on each transport and
//! against the simulated one under many seeds.
//!
//! A [`Ground`] makes drivers that can reach each other; each test is a function over any ground; [`suite!`] makes
//! them `#[test]`s. Drivers of one test share a thread and are reaped in turn, so a test never depends on timing:
//! it waits for what must come, and fails after [`PATIENCE`].

pub mod broken;
pub mod bytes;
pub mod clock;
pub mod files;
pub mod streams;

use call::frame::{FrameBuf, Header, Kind, append};
use call::limits::HEADER_BYTES;
use driver::{Arrivals, Closed, ConnectionId, Driver, Endpoint, Event, FileId, ListenerId, SendError, Token};
use std::time::Duration;

/// How long a test waits for something that must come. Only a failing test waits this long.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// How long one driver may sleep while another has to be reaped too.
const NAP: Duration = Duration::from_micros(200);

/// Where a test runs.
pub trait Ground {
    /// The driver under test.
    type Driver: Driver;
    /// A driver on this ground, with the data directory of the ground: the same files for each of them.
    fn driver(&mut self) -> Self::Driver;
    /// An endpoint that nobody listens at yet.
    fn endpoint(&mut self) -> Endpoint;
}

/// An event, kept.
#[derive(Clone, PartialEq, Debug)]
pub enum Seen {
    /// [`Event::Accepted`]
    Accepted(ListenerId, ConnectionId),
    /// [`Event::Connected`]
    Connected(ConnectionId),
    /// [`Event::Frame`]
    Frame(ConnectionId, Header, Vec<u8>),
    /// [`Event::Bytes`]
    Bytes(ConnectionId, Vec<u8>),
    /// [`Event::Message`], and how many descriptors came with it.
    Message(ConnectionId, Vec<u8>, usize),
    /// [`Event::Room`]
    Room(ConnectionId),
    /// [`Event::Closed`]
    Closed(ConnectionId, Closed),
    /// [`Event::Written`]
    Written(Token, Result<(), i32>),
    /// [`Event::Read`]
    Read(Token, Result<usize, i32>),
    /// [`Event::Created`]
    Created(Token, Result<FileId, i32>),
    /// [`Event::Directory`]
    Directory(Token, Result<(), i32>),
}

impl Seen {
    fn of(event: Event<'_>) -> Seen {
        match event {
            Event::Accepted { listener, connection } => Seen::Accepted(listener, connection),
            Event::Connected { connection } => Seen::Connected(connection),
            Event::Frame { connection, frame } => {
                assert!((frame.bytes().as_ptr() as usize).is_multiple_of(16), "frames are aligned");
                Seen::Frame(connection, frame.header(), frame.body().to_vec())
            }
            Event::Bytes { connection, bytes } => {
                assert!(!bytes.is_empty(), "bytes are some");
                Seen::Bytes(connection, bytes.to_vec())
            }
            Event::Message { connection, bytes, descriptors } => {
                Seen::Message(connection, bytes.to_vec(), descriptors.len())
            }
            Event::Room { connection } => Seen::Room(connection),
            Event::Closed { connection, reason } => Seen::Closed(connection, reason),
            Event::Written { token, result } => Seen::Written(token, result),
            Event::Read { token, result } => Seen::Read(token, result),
            Event::Created { token, result } => Seen::Created(token, result),
            Event::Directory { token, result } => Seen::Directory(token, result),
        }
    }

    /// The connection it is about.
    pub fn connection(&self) -> Option<ConnectionId> {
        match self {
            Seen::Accepted(_, connection)
            | Seen::Connected(connection)
            | Seen::Frame(connection, ..)
            | Seen::Bytes(connection, ..)
            | Seen::Message(connection, ..)
            | Seen::Room(connection)
            | Seen::Closed(connection, _) => Some(*connection),
            _ => None,
        }
    }
}

/// A driver and all that it has shown.
pub struct Side<D> {
    /// The driver.
    pub driver: D,
    /// Its events, oldest first.
    pub seen: Vec<Seen>,
    arrivals: Arrivals,
}

impl<D: Driver> Side<D> {
    /// A side with this driver.
    pub fn new(driver: D) -> Side<D> {
        Side { driver, seen: Vec::new(), arrivals: Arrivals::new() }
    }

    /// Reaps once, sleeping for a moment at most.
    pub fn reap(&mut self) {
        let until = self.driver.now() + NAP;
        self.driver.reap(until, &mut self.arrivals);
        self.seen.extend(self.arrivals.iter().map(Seen::of));
        assert_eq!(self.arrivals.iter().count(), self.arrivals.len());
    }

    /// Reaps until `done` says so.
    ///
    /// # Panics
    /// If it does not within [`PATIENCE`].
    pub fn until(&mut self, what: &str, done: impl Fn(&[Seen]) -> bool) {
        let late = self.driver.now() + PATIENCE;
        while !done(&self.seen) {
            assert!(self.driver.now() < late, "waited too long for {what}; seen: {}", brief(&self.seen));
            self.reap();
        }
    }

    /// Sends one frame with this stamp and body.
    pub fn send(&mut self, to: ConnectionId, stamp: u64, body: &[u8]) -> Result<(), SendError> {
        self.driver.send(to, &frame(stamp, body))
    }

    /// Stamps of the frames of a connection, in order of arrival.
    pub fn stamps(&self, of: ConnectionId) -> Vec<u64> {
        let stamp = |seen: &Seen| match seen {
            Seen::Frame(connection, header, _) if *connection == of => Some(header.stamp),
            _ => None,
        };
        self.seen.iter().filter_map(stamp).collect()
    }

    /// Why a connection ended, if it did.
    pub fn closed(&self, connection: ConnectionId) -> Option<Closed> {
        closed(&self.seen, connection)
    }

    /// The last event of a connection is its [`Seen::Closed`], and there is only one.
    pub fn check_last(&self, connection: ConnectionId) {
        let of: Vec<&Seen> = self.seen.iter().filter(|seen| seen.connection() == Some(connection)).collect();
        let ends = of.iter().filter(|seen| matches!(seen, Seen::Closed(..))).count();
        assert_eq!(ends, 1, "one end of {connection:?}");
        assert!(matches!(of.last(), Some(Seen::Closed(..))), "nothing comes after the end of {connection:?}");
    }
}

/// Why a connection ended, if it did.
pub fn closed(seen: &[Seen], of: ConnectionId) -> Option<Closed> {
    seen.iter().find_map(|seen| match seen {
        Seen::Closed(connection, reason) if *connection == of => Some(reason.clone()),
        _ => None,
    })
}

/// The last few events, without bodies.
fn brief(seen: &[Seen]) -> String {
    let last = seen.iter().rev().take(8).rev();
    let name = |seen: &Seen| match seen {
        Seen::Frame(connection, header, body) => {
            format!("Frame({connection:?}, stamp {}, {} bytes)", header.stamp, body.len())
        }
        Seen::Bytes(connection, bytes) => format!("Bytes({connection:?}, {})", bytes.len()),
        other => format!("{other:?}"),
    };
    format!("{} events, the last: {}", seen.len(), last.map(name).collect::<Vec<_>>().join(", "))
}

/// A frame with this stamp and body.
pub fn frame(stamp: u64, body: &[u8]) -> FrameBuf {
    let mut out = FrameBuf::with_capacity(HEADER_BYTES + body.len() + 16);
    append(&mut out, &Header { stamp, ..Header::new(Kind::Outcome) }, body);
    out
}

/// Bytes that differ from place to place and from seed to seed.
pub fn pattern(seed: u64, bytes: usize) -> Vec<u8> {
    let mut random = driver::sim::Random::new(seed);
    (0..bytes.div_ceil(8)).flat_map(|_| random.bits().to_le_bytes()).take(bytes).collect()
}

/// A server and a client with one connection between them.
pub struct Pair<D> {
    /// Listens.
    pub server: Side<D>,
    /// Connected.
    pub client: Side<D>,
    /// The connection as the server names it.
    pub accepted: ConnectionId,
    /// The connection as the client names it.
    pub connected: ConnectionId,
    /// Where the server listens.
    pub at: Endpoint,
}

impl<D: Driver> Pair<D> {
    /// Connects two drivers of a ground.
    pub fn on<G: Ground<Driver = D>>(ground: &mut G) -> Pair<D> {
        let (mut server, client) = (Side::new(ground.driver()), Side::new(ground.driver()));
        let listener = server.driver.listen(&ground.endpoint()).expect("a free endpoint");
        let at = server.driver.local(listener);
        let nobody = ConnectionId(u64::MAX);
        let mut pair = Pair { server, client, accepted: nobody, connected: nobody, at };
        (pair.accepted, pair.connected) = pair.connect();
        pair
    }

    /// Connects once more: the connection as server and client name it.
    pub fn connect(&mut self) -> (ConnectionId, ConnectionId) {
        let before = self.server.seen.len();
        let connected = self.client.driver.connect(&self.at);
        let accepted = |seen: &[Seen]| {
            seen[before..].iter().find_map(|seen| match seen {
                Seen::Accepted(_, connection) => Some(*connection),
                _ => None,
            })
        };
        self.until("a connection", |server, client| {
            accepted(server).is_some() && client.contains(&Seen::Connected(connected))
        });
        (accepted(&self.server.seen).expect("waited for"), connected)
    }

    /// Reaps both in turn until `done` says so of what they have seen.
    ///
    /// # Panics
    /// If it does not within [`PATIENCE`].
    pub fn until(&mut self, what: &str, done: impl Fn(&[Seen], &[Seen]) -> bool) {
        let late = self.client.driver.now() + PATIENCE;
        while !done(&self.server.seen, &self.client.seen) {
            let (server, client) = (&self.server.seen, &self.client.seen);
            assert!(
                self.client.driver.now() < late,
                "waited too long for {what}; server: {}; client: {}",
                brief(server),
                brief(client)
            );
            self.server.reap();
            self.client.reap();
        }
    }

    /// Reaps both for a while, for what must not come.
    pub fn settle(&mut self) {
        for _ in 0..50 {
            self.server.reap();
            self.client.reap();
        }
    }
}

/// Makes a `#[test]` of each test of the modules named, on the ground that an expression gives.
#[macro_export]
macro_rules! suite {
    ($name:ident, streams, $ground:expr) => {
        $crate::suite!(@ $name, $ground, streams:
            frames_keep_their_order, the_largest_frame_arrives, parts_are_joined_and_padded,
            many_small_frames_arrive, a_full_queue_says_so_and_then_has_room, a_close_sends_what_is_queued_first,
            a_close_by_the_server_is_the_same, both_sides_may_close_at_once, a_wrong_checksum_ends_the_connection,
            another_protocol_ends_the_connection, half_a_frame_is_cut_off, nobody_listens,
            sends_wait_for_the_connection, connections_do_not_mix, a_name_is_not_given_twice,
            a_peer_that_dies_is_noticed, an_endpoint_is_listened_at_once, traffic_both_ways_at_once
        );
    };
    ($name:ident, bytes, $ground:expr) => {
        $crate::suite!(@ $name, $ground, bytes:
            bytes_arrive_in_order, a_large_send_arrives, frames_are_bytes_here, a_dialogue_goes_on,
            a_full_queue_says_so_and_then_has_room, a_close_sends_what_is_queued_first,
            a_finished_side_has_said_everything, an_abort_does_not_wait, a_paused_stream_waits,
            streams_do_not_mix, no_stream_starves, a_closed_listener_is_gone, nobody_listens,
            shared_memory_carries_no_bytes
        );
    };
    ($name:ident, files, $ground:expr) => {
        $crate::suite!(@ $name, $ground, files:
            a_new_file_is_zeros, a_file_is_made_once, writes_are_there_for_the_next_process,
            many_writes_are_in_flight, a_read_at_the_end_is_short, a_missing_file_is_an_error,
            a_removed_file_is_gone, a_renamed_file_keeps_what_it_holds, a_taken_name_is_refused,
            blocks_are_a_fixed_supply
        );
        $crate::suite!(@ clock, $ground, clock:
            sleep_ends_when_it_should, time_goes_forward, random_bits_differ, backends_are_named
        );
    };
    (@ $name:ident, $ground:expr, $module:ident: $($test:ident),*) => {
        mod $name {
            $(#[test] fn $test() { $ground(&|ground| $crate::$module::$test(ground)); })*
        }
    };
}
