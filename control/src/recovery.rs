//! The start of a node: its log is read through the driver, block by block, before anybody can connect.

use crate::node::{Node, NodeOptions};
use call::FunctionSpec;
use call::limits::Limits;
use driver::{Arrivals, BlockId, Driver, Event, FileId, Token};
use durableq::log::{segment_name, segment_number};
use durableq::{Recovery, RecoveryError, block_count};
use std::collections::BTreeMap;
use std::fmt;
use std::io;

/// Why a log could not be recovered or begun. Nothing in it was changed.
#[derive(Debug)]
pub enum LogError {
    /// A segment could not be listed, opened or read.
    Io {
        /// Which; empty for the directory.
        file: String,
        /// Why.
        source: io::Error,
    },
    /// The log does not hold what it says it holds, or the limits are too small for it.
    Recovery(RecoveryError),
    /// The driver's memory does not fit the limits.
    Blocks {
        /// How many blocks of how many bytes the log needs.
        needed: (usize, usize),
        /// How many there are, and of how many bytes.
        found: (usize, usize),
    },
    /// The catalog and the log speak of more functions than the limits allow.
    Functions(usize),
}

impl fmt::Display for LogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LogError::Io { file, source } => write!(f, "{file}: {source}"),
            LogError::Recovery(error) => error.fmt(f),
            LogError::Blocks { needed: (n, bytes), found: (has, of) } => write!(
                f,
                "the log needs {n} blocks of {bytes} bytes, the driver has {has} of {of}; lower group_bytes or \
                 groups_in_flight"
            ),
            LogError::Functions(max) => {
                write!(f, "the catalog and the log hold more than functions_max = {max} functions; raise it")
            }
        }
    }
}

impl std::error::Error for LogError {}

/// The disk's side of the log: its blocks and open segments.
pub(crate) struct Disk {
    /// The log's blocks, in the order of the numbers that the queue knows them by.
    pub blocks: Vec<BlockId>,
    /// Open segments by number.
    pub files: BTreeMap<u64, FileId>,
    /// The file of the segment that is getting another number, and its old one.
    pub recycling: Option<(u64, FileId)>,
}

/// Of the recovery's reads: no operation of a queue, which hears of the last of them again.
const TAKEN: Token = Token(0);

/// A node that is reading its log. Turn it as one turns a node, until it is one.
pub struct Booting<D> {
    limits: Limits,
    options: NodeOptions,
    driver: D,
    functions: Vec<FunctionSpec>,
    disk: Disk,
    recovery: Recovery,
    /// The segment that is read.
    segment: u64,
    /// A read is in flight.
    reading: bool,
}

/// What a turn made of it.
#[expect(clippy::large_enum_variant, reason = "moved a few times, at the start only")]
pub enum Stage<D> {
    /// Still reading: reap, and turn again.
    Booting(Booting<D>),
    /// A node that serves.
    Serving(Box<Node<D>>),
}

impl<D: Driver> Booting<D> {
    /// Opens the log in the driver's directory. `functions` is the catalog as it was.
    ///
    /// # Errors
    /// If a segment cannot be opened, or the driver's blocks do not fit the limits.
    pub fn new(
        limits: Limits,
        options: NodeOptions,
        mut driver: D,
        functions: Vec<FunctionSpec>,
    ) -> Result<Booting<D>, LogError> {
        let blocks = take_blocks(&limits, &mut driver)?;
        let listed = driver.files().map_err(|source| LogError::Io { file: String::new(), source })?;
        let mut segments = Vec::new();
        let mut files = BTreeMap::new();
        for (name, bytes) in listed {
            let Some(number) = segment_number(&name) else { continue };
            let file = driver.open(&name).map_err(|source| LogError::Io { file: name, source })?;
            files.insert(number, file);
            segments.push((number, bytes));
        }
        segments.sort_unstable();
        let disk = Disk { blocks, files, recycling: None };
        let mut recovery = Recovery::with(&limits, options.recover);
        recovery.segments(segments);
        let mut booting =
            Booting { limits, options, driver, functions, disk, recovery, segment: 0, reading: false };
        booting.read_on();
        Ok(booting)
    }

    /// The driver, for `reap`.
    pub fn driver(&mut self) -> &mut D {
        &mut self.driver
    }

    /// Takes what a reap brought. Sleep until something arrives between two turns.
    ///
    /// # Errors
    /// If the log is damaged or cannot be read.
    pub fn turn(mut self, arrivals: &Arrivals) -> Result<Stage<D>, LogError> {
        for event in arrivals.iter() {
            let Event::Read { result, .. } = event else { continue };
            self.reading = false;
            let bytes = result.map_err(|errno| LogError::Io {
                file: segment_name(self.segment),
                source: io::Error::from_raw_os_error(errno),
            })?;
            let block = self.driver.block(self.disk.blocks[0]);
            self.recovery.feed(&block[..bytes]).map_err(LogError::Recovery)?;
            self.read_on();
        }
        if self.reading {
            return Ok(Stage::Booting(self));
        }
        let (now, wall) = (self.driver.now(), self.driver.wall());
        let random = self.driver.random();
        let losses = self.recovery.losses().to_vec();
        let queue = self.recovery.finish(now, wall, random).map_err(LogError::Recovery)?;
        let mut node = Node::new(self.limits, self.options, self.driver, queue, self.disk, self.functions)?;
        node.salvaged = losses;
        Ok(Stage::Serving(Box::new(node)))
    }

    /// Turns until it is a node. For drivers whose reap really sleeps.
    ///
    /// # Errors
    /// As [`Booting::turn`].
    pub fn run(mut self, arrivals: &mut Arrivals) -> Result<Node<D>, LogError> {
        loop {
            match self.turn(arrivals)? {
                Stage::Serving(node) => return Ok(*node),
                Stage::Booting(booting) => self = booting,
            }
            self.driver.reap(call::Instant::NEVER, arrivals);
        }
    }

    /// Begins the next read, if there is anything left to read.
    fn read_on(&mut self) {
        let Some((segment, offset)) = self.recovery.next_read() else { return };
        let (file, block) = (self.disk.files[&segment], self.disk.blocks[0]);
        self.driver.read(file, offset, block, self.driver.block_bytes(), TAKEN);
        (self.segment, self.reading) = (segment, true);
    }
}

fn take_blocks<D: Driver>(limits: &Limits, driver: &mut D) -> Result<Vec<BlockId>, LogError> {
    let needed = (block_count(limits), limits.group_bytes);
    let bytes = driver.block_bytes();
    let mut blocks = Vec::with_capacity(needed.0);
    while blocks.len() < needed.0
        && let Some(block) = driver.take_block()
    {
        blocks.push(block);
    }
    if blocks.len() < needed.0 || bytes < needed.1 {
        return Err(LogError::Blocks { needed, found: (blocks.len(), bytes) });
    }
    Ok(blocks)
}
