//! The durable queue's glue: gives it time and memory, executes on the driver what its log wants, and passes on what
//! became certain.

use crate::node::Node;
use crate::recovery::Disk;
use crate::session::SessionRef;
use call::Instant;
use call::body::Verdict;
use driver::{BlockId, Driver, FileId, Token};
use durableq::log::segment_name;
use durableq::{Blocks, Event, LogOp};

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
    /// A segment of this number is being made.
    Create(u64),
    /// A group of this number is being written.
    Write(u64),
}

impl Pending {
    fn token(self) -> Token {
        match self {
            Pending::Create(segment) => Token(segment << 1),
            Pending::Write(group) => Token(group << 1 | 1),
        }
    }

    fn of(token: Token) -> Pending {
        if token.0 & 1 == 0 { Pending::Create(token.0 >> 1) } else { Pending::Write(token.0 >> 1) }
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
            Pending::Create(_) => unreachable!("creations do not write"),
        }
    }

    /// A segment is made, or could not be.
    pub(crate) fn created(&mut self, token: Token, result: Result<FileId, i32>) {
        let Pending::Create(segment) = Pending::of(token) else { unreachable!("writes do not create") };
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

    /// Tells clients what became certain; calls that are on disk may run from here on.
    pub(crate) fn tell(&mut self) {
        while let Some(event) = self.queue.next_event() {
            match event {
                Event::Verdict { origin, call, code } => {
                    self.sessions.judge(SessionRef::of_origin(origin), Verdict::new(call, code, 0));
                }
                Event::Ended { origin, call, function, status } => self.ended(origin, call, function, status),
            }
        }
    }

    /// Lets the log write.
    pub(crate) fn commit(&mut self) {
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
                LogOp::Remove { segment } => self.remove_segment(segment),
            }
        }
    }

    fn remove_segment(&mut self, segment: u64) {
        let Some(file) = self.disk.files.remove(&segment) else { return };
        if let Err(error) = self.driver.remove(file, &segment_name(segment)) {
            // Harmless: the next start finds it empty of live calls and removes it.
            self.note(&format!("log segment {segment} could not be removed: {error}"));
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
        for pending in
            [Pending::Create(0), Pending::Write(0), Pending::Create(7), Pending::Write(u64::MAX >> 1)]
        {
            assert_eq!(Pending::of(pending.token()), pending);
        }
    }
}
