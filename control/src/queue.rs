//! The durable queue's glue: gives it time and memory, executes on the driver what its log wants, and passes on what
//! became certain.

use crate::node::Node;
use crate::recovery::Disk;
use crate::session::SessionRef;
use call::body::Verdict;
use call::{Instant, Status};
use driver::{BlockId, Driver, FileId, Token};
use durableq::log::segment_name;
use durableq::{Blocks, Event, LogOp};
use scheduler::FunctionRef;

/// The log's blocks, lent to the queue for one call.
pub(crate) struct LogBlocks<'a, D> {
    driver: &'a mut D,
    blocks: &'a [BlockId],
}

impl<D: Driver> Blocks for LogBlocks<'_, D> {
    fn block(&mut self, number: u32) -> &mut [u8] {
        self.driver.block(self.blocks[number as usize])
    }
}

/// What a completion is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Pending {
    /// A segment of this number is being made, or an old one gets this number.
    Create(u64),
    /// A group of this number is being written.
    Write(u64),
    /// A segment of this number is being removed.
    Remove(u64),
    /// The read of this number.
    Read(u32),
}

impl Pending {
    fn token(self) -> Token {
        match self {
            Pending::Create(segment) => Token(segment << 2),
            Pending::Write(group) => Token(group << 2 | 1),
            Pending::Remove(segment) => Token(segment << 2 | 2),
            Pending::Read(read) => Token(u64::from(read) << 2 | 3),
        }
    }

    fn of(token: Token) -> Pending {
        match token.0 & 3 {
            0 => Pending::Create(token.0 >> 2),
            1 => Pending::Write(token.0 >> 2),
            2 => Pending::Remove(token.0 >> 2),
            _ => Pending::Read((token.0 >> 2) as u32),
        }
    }
}

impl Disk {
    /// Lends the log's blocks.
    pub(crate) fn lend<'a, D: Driver>(&'a self, driver: &'a mut D) -> LogBlocks<'a, D> {
        LogBlocks { driver, blocks: &self.blocks }
    }
}

impl<D: Driver> Node<D> {
    /// A group is on disk, or the disk refused it.
    pub(crate) fn written(&mut self, token: Token, result: Result<(), i32>) {
        match Pending::of(token) {
            Pending::Write(group) => self.queue.written(group, result),
            _ => unreachable!("nothing else writes"),
        }
    }

    /// Frames came from the disk, or could not be read.
    pub(crate) fn read(&mut self, token: Token, result: Result<usize, i32>) {
        let Pending::Read(read) = Pending::of(token) else { return };
        self.queue.read(&mut self.disk.lend(&mut self.driver), read, result);
        self.waiters.fetched(|call| self.queue.fetch(call));
        self.walks_read();
        self.collection_read();
    }

    /// A segment is made, or could not be.
    pub(crate) fn created(&mut self, token: Token, result: Result<FileId, i32>) {
        let Pending::Create(segment) = Pending::of(token) else { unreachable!("nothing else creates") };
        match result {
            Ok(file) => {
                self.disk.files.insert(segment, file);
            }
            Err(errno) => {
                let error = std::io::Error::from_raw_os_error(errno);
                self.note(&format!("log segment {segment} could not be made: {error}; trying again"));
            }
        }
        self.queue.created(segment, result.map(|_| ()));
    }

    /// A segment was removed or has its new number, or could not be.
    pub(crate) fn directory(&mut self, token: Token, result: Result<(), i32>) {
        let error = result.err().map(std::io::Error::from_raw_os_error);
        match Pending::of(token) {
            Pending::Create(segment) => {
                self.recycled(segment, result.is_ok());
                if let Some(error) = error {
                    self.note(&format!("log segments cannot be renamed, new ones are made instead: {error}"));
                }
                self.queue.created(segment, result);
            }
            Pending::Remove(segment) => {
                match error {
                    None => drop(self.disk.files.remove(&segment)),
                    Some(error) => {
                        self.note(&format!(
                            "log segment {segment} could not be removed: {error}; trying again"
                        ));
                    }
                }
                self.queue.removed(segment, result);
            }
            Pending::Write(_) | Pending::Read(_) => unreachable!("these leave the directory alone"),
        }
    }

    /// The file of the segment that is being recycled has its new number, or keeps the old one.
    fn recycled(&mut self, segment: u64, renamed: bool) {
        let (from, file) = self.disk.recycling.take().expect("one is under way");
        self.disk.files.insert(if renamed { segment } else { from }, file);
    }

    /// Tells clients what became certain; calls that are on disk may run from here on.
    pub(crate) fn tell(&mut self) {
        while let Some(damage) = self.queue.next_damage() {
            self.note(&damage.to_string());
        }
        while let Some(event) = self.queue.next_event() {
            match event {
                Event::Verdict { origin, call, code } => {
                    let verdict = Verdict::new(call, code, 0);
                    self.sessions.judge(SessionRef::of_origin(origin), verdict, &mut self.driver);
                }
                Event::Ended { origin, call, function, status } => self.ended(origin, call, function, status),
            }
        }
    }

    /// Calls whose time to live is over before they began have ended.
    pub(crate) fn expire(&mut self) {
        while let Some(expired) = self.queue.next_expired(&mut self.disk.lend(&mut self.driver)) {
            self.accounts.ended(FunctionRef(expired.function.0), Status::Expired);
        }
    }

    /// Says when nothing of a damaged log is left.
    fn note_rewritten(&mut self) {
        if !self.salvaged.is_empty() && !self.queue.is_rewriting() {
            self.salvaged.clear();
            self.note("the salvaged log is written anew: the next start needs no --recover salvage");
        }
    }

    /// Lets the log write.
    pub(crate) fn commit(&mut self) {
        self.note_rewritten();
        while let Some(op) = self.queue.next_op(&mut self.disk.lend(&mut self.driver)) {
            match op {
                LogOp::Create { segment, bytes } => {
                    self.driver.create(&segment_name(segment), bytes, Pending::Create(segment).token());
                }
                LogOp::Write { segment, offset, block, bytes, group } => {
                    let block = self.disk.blocks[block as usize];
                    let token = Pending::Write(group).token();
                    self.driver.write(self.disk.files[&segment], offset, block, bytes, token);
                }
                LogOp::Read { segment, offset, block, bytes, read } => {
                    let block = self.disk.blocks[block as usize];
                    let token = Pending::Read(read).token();
                    self.driver.read(self.disk.files[&segment], offset, block, bytes, token);
                }
                LogOp::Recycle { from, segment } => {
                    let file = self.disk.files.remove(&from).expect("a segment that is there is recycled");
                    assert!(self.disk.recycling.replace((from, file)).is_none(), "one at a time");
                    let token = Pending::Create(segment).token();
                    self.driver.rename(&segment_name(from), &segment_name(segment), token);
                }
                LogOp::Remove { segment } => {
                    let token = Pending::Remove(segment).token();
                    self.driver.remove(self.disk.files[&segment], &segment_name(segment), token);
                }
            }
        }
    }

    /// Until when the queue has nothing to do by itself.
    pub(crate) fn queue_until(&self) -> Instant {
        self.queue.next_wake()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn completions_find_their_operation() {
        for pending in [
            Pending::Create(0),
            Pending::Write(0),
            Pending::Remove(7),
            Pending::Write(u64::MAX >> 2),
            Pending::Read(3),
        ] {
            assert_eq!(Pending::of(pending.token()), pending);
        }
    }
}
