//! A simulated peer's connection to the node: made, greeted, lost, made again.

use call::Instant;
use call::admin::Hello;
use call::frame::{Frame, FrameBuf, Header, Kind, append};
use driver::sim::{ProcessId, SimDriver};
use driver::{Arrivals, ConnectionId, Driver, Endpoint, Event, SendError};
use std::time::Duration;

/// Wait before a lost connection is made again: at least this, at most ten times as long.
const RETRY: Duration = Duration::from_millis(10);
/// A node that does not answer a hello in this time is asked anew.
const GIVE_UP: Duration = Duration::from_secs(2);

/// What a peer hears of its connection.
pub enum News<'a> {
    /// The node has said hello.
    Up,
    /// It said something else.
    Frame(Frame<'a>),
    /// The connection is gone.
    Down,
}

/// One peer.
pub struct Peer {
    /// Its driver.
    pub driver: SimDriver,
    to: Endpoint,
    hello: Hello,
    connection: Option<ConnectionId>,
    up: bool,
    /// When to connect, or to give up waiting for the hello.
    alarm: Instant,
}

impl Peer {
    /// A peer that will connect at its first turn.
    pub fn new(driver: SimDriver, to: &Endpoint, hello: Hello) -> Peer {
        Peer { driver, to: to.clone(), hello, connection: None, up: false, alarm: Instant(0) }
    }

    /// Which process it is.
    pub fn id(&self) -> ProcessId {
        self.driver.process()
    }

    /// Whether it is connected and greeted.
    pub fn is_up(&self) -> bool {
        self.up
    }

    /// Reaps into `arrivals`, keeps the connection up, and tells what there is of it.
    pub fn round<'a>(&mut self, until: Instant, arrivals: &'a mut Arrivals) -> Vec<News<'a>> {
        self.driver.reap(until.min(self.alarm), arrivals);
        let mut news = Vec::new();
        for event in arrivals.iter() {
            match event {
                Event::Frame { connection, frame } if Some(connection) == self.connection => {
                    if self.up {
                        news.push(News::Frame(frame));
                    } else if frame.kind() == Kind::Hello {
                        (self.up, self.alarm) = (true, Instant::NEVER);
                        news.push(News::Up);
                    }
                }
                Event::Closed { connection, .. } if Some(connection) == self.connection => {
                    news.push(News::Down);
                    self.lost();
                }
                _ => {}
            }
        }
        if self.driver.now() >= self.alarm {
            self.connect();
        }
        news
    }

    fn lost(&mut self) {
        let wait = RETRY * (1 + self.driver.random() % 10) as u32;
        (self.connection, self.up) = (None, false);
        self.alarm = self.driver.now() + wait;
    }

    fn connect(&mut self) {
        if let Some(silent) = self.connection.take() {
            self.driver.close(silent);
        }
        let connection = self.driver.connect(&self.to);
        self.connection = Some(connection);
        self.alarm = self.driver.now() + GIVE_UP;
        let body = serde_json::to_vec(&self.hello).expect("plain words");
        let mut frame = FrameBuf::new();
        append(&mut frame, &Header::new(Kind::Hello), &body);
        self.driver.send(connection, &frame).expect("an empty queue takes a hello");
    }

    /// Sends frames, if it is connected.
    pub fn send(&mut self, frames: &[u8]) -> Result<(), SendError> {
        match self.connection {
            Some(connection) if self.up => self.driver.send(connection, frames),
            _ => Err(SendError::Closed),
        }
    }
}
