//! Drivers with planted bugs, to show that the suite sees them.

use crate::Ground;
use call::frame::Frame;
use call::{Instant, WallTime};
use driver::{Arrivals, BlockId, ConnectionId, Driver, Endpoint, FileId, ListenerId, SendError, Token};
use std::io;

/// What is wrong with a [`Broken`] driver.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bug {
    /// Frames of one send leave in the opposite order.
    Reorders,
    /// A full queue takes a frame, and loses it.
    DropsWhenFull,
    /// A write is told to be done with its last page missing.
    TellsTooEarly,
    /// A made file has no zeros behind its first page.
    MakesShort,
    /// A closed connection still takes frames.
    TakesAfterClose,
    /// A block is given to two takers.
    SharesBlocks,
    /// The last byte of a send that is no whole number of frames is lost.
    LosesBytes,
    /// A paused stream goes on.
    IgnoresPause,
    /// A closed listener still accepts.
    KeepsListening,
    /// A renamed file has another name than was asked for.
    MisspellsNames,
}

/// A driver with a bug.
pub struct Broken<D> {
    inner: D,
    bug: Bug,
}

/// A ground whose drivers all have the bug.
pub struct BrokenGround<G>(pub G, pub Bug);

impl<G: Ground> Ground for BrokenGround<G> {
    type Driver = Broken<G::Driver>;
    fn driver(&mut self) -> Self::Driver {
        Broken { inner: self.0.driver(), bug: self.1 }
    }
    fn endpoint(&mut self) -> Endpoint {
        self.0.endpoint()
    }
}

impl<D: Driver> Broken<D> {
    fn blur(&self, result: Result<(), SendError>) -> Result<(), SendError> {
        match (self.bug, result) {
            (Bug::DropsWhenFull, Err(SendError::Full)) | (Bug::TakesAfterClose, Err(SendError::Closed)) => {
                Ok(())
            }
            (_, result) => result,
        }
    }
}

/// The frames of `bytes`, the last one first.
fn reversed(mut bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    while let Ok((_, whole)) = Frame::parse(bytes) {
        out.splice(0..0, bytes[..whole].iter().copied());
        bytes = &bytes[whole..];
    }
    out
}

impl<D: Driver> Driver for Broken<D> {
    fn now(&self) -> Instant {
        self.inner.now()
    }
    fn wall(&self) -> WallTime {
        self.inner.wall()
    }
    fn precise(&self) -> Instant {
        self.inner.precise()
    }
    fn random(&mut self) -> u64 {
        self.inner.random()
    }
    fn listen(&mut self, at: &Endpoint) -> io::Result<ListenerId> {
        self.inner.listen(at)
    }
    fn local(&self, listener: ListenerId) -> Endpoint {
        self.inner.local(listener)
    }
    fn connect(&mut self, to: &Endpoint) -> ConnectionId {
        self.inner.connect(to)
    }
    fn send(&mut self, to: ConnectionId, frames: &[u8]) -> Result<(), SendError> {
        let result = match self.bug {
            Bug::Reorders => self.inner.send(to, &reversed(frames)),
            Bug::LosesBytes if !frames.len().is_multiple_of(16) => {
                self.inner.send(to, &frames[..frames.len() - 1])
            }
            _ => self.inner.send(to, frames),
        };
        self.blur(result)
    }
    fn send_parts(&mut self, to: ConnectionId, header: &[u8; 64], body: &[u8]) -> Result<(), SendError> {
        let result = self.inner.send_parts(to, header, body);
        self.blur(result)
    }
    fn close(&mut self, connection: ConnectionId) {
        self.inner.close(connection);
    }
    fn listen_bytes(&mut self, at: &Endpoint) -> io::Result<ListenerId> {
        self.inner.listen_bytes(at)
    }
    fn connect_bytes(&mut self, to: &Endpoint) -> io::Result<ConnectionId> {
        self.inner.connect_bytes(to)
    }
    fn finish(&mut self, connection: ConnectionId) {
        self.inner.finish(connection);
    }
    fn abort(&mut self, connection: ConnectionId) {
        self.inner.abort(connection);
    }
    fn pause(&mut self, connection: ConnectionId) {
        if self.bug != Bug::IgnoresPause {
            self.inner.pause(connection);
        }
    }
    fn resume(&mut self, connection: ConnectionId) {
        self.inner.resume(connection);
    }
    fn close_listener(&mut self, listener: ListenerId) {
        if self.bug != Bug::KeepsListening {
            self.inner.close_listener(listener);
        }
    }
    fn files(&self) -> io::Result<Vec<(String, u64)>> {
        self.inner.files()
    }
    fn open(&mut self, name: &str) -> io::Result<FileId> {
        self.inner.open(name)
    }
    fn create(&mut self, name: &str, bytes: u64, token: Token) {
        let made = if self.bug == Bug::MakesShort { bytes.min(4096) } else { bytes };
        self.inner.create(name, made, token);
    }
    fn remove(&mut self, file: FileId, name: &str, token: Token) {
        self.inner.remove(file, name, token);
    }
    fn rename(&mut self, from: &str, to: &str, token: Token) {
        match self.bug {
            Bug::MisspellsNames => self.inner.rename(from, &format!("{to}~"), token),
            _ => self.inner.rename(from, to, token),
        }
    }
    fn block_bytes(&self) -> usize {
        self.inner.block_bytes()
    }
    fn take_block(&mut self) -> Option<BlockId> {
        let block = self.inner.take_block()?;
        if self.bug == Bug::SharesBlocks {
            self.inner.give_block(block);
        }
        Some(block)
    }
    fn give_block(&mut self, block: BlockId) {
        self.inner.give_block(block);
    }
    fn block(&mut self, block: BlockId) -> &mut [u8] {
        self.inner.block(block)
    }
    fn write(&mut self, file: FileId, offset: u64, block: BlockId, bytes: usize, token: Token) {
        let written = if self.bug == Bug::TellsTooEarly && bytes > 4096 { bytes - 4096 } else { bytes };
        self.inner.write(file, offset, block, written, token);
    }
    fn read(&mut self, file: FileId, offset: u64, block: BlockId, bytes: usize, token: Token) {
        self.inner.read(file, offset, block, bytes, token);
    }
    fn reap(&mut self, until: Instant, into: &mut Arrivals) {
        self.inner.reap(until, into);
    }
    fn backends(&self) -> Vec<(String, String)> {
        self.inner.backends()
    }
}
