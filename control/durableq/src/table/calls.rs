//! The table of pending calls and dead letters, and the lists that run through it.

use super::store::Extent;
use crate::words::{CallRef, FunctionRef, HolderRef, Origin};
use call::{CallId, Epoch, Status};

/// No call.
pub const NONE: u32 = u32::MAX;

/// No place on disk from which a frame could be read: its record is cut.
pub const CUT: u32 = u32::MAX;

/// In which structure a call is; each is in exactly one of these.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// In the list of free places.
    Free,
    /// Its group is not on disk yet; named by a wait entry.
    Appended,
    /// In the timers.
    Scheduled,
    /// In its function's list.
    Due,
    /// With the scheduler.
    Offered,
    /// In its holder's list.
    Leased,
    /// In the list of dead letters.
    Dead,
    /// Ended, its record waits for room in the log.
    Ending,
    /// Ended for good while the scheduler held it: a number that must not be given out yet, and nothing else.
    Husk,
}

const _: () = assert!(size_of::<Call>() == 128, "two cache lines");

/// Bits of [`Call::flags`].
pub mod flag {
    /// The client wants the outcome.
    pub const WANT: u16 = 1;
    /// Someone else wants to know of the end.
    pub const WATCHED: u16 = 2;
    /// Its state is not in the log yet: it is in the backlog.
    pub const BACKLOG: u16 = 4;
    /// It is to end when its lease does, or when it is on disk: it was cancelled.
    pub const CANCEL: u16 = 8;
    /// It ended while the scheduler held it.
    pub const HELD: u16 = 16;
    /// Its client wants it tried once.
    pub const ONCE: u16 = 32;
    /// Its frame is being read from the disk, or will be.
    pub const READING: u16 = 64;
    /// Its frame on disk is damaged.
    pub const DAMAGED: u16 = 128;
    /// It must begin by its deadline.
    pub const EXPIRES: u16 = 256;
    /// Its id was made of an idempotency key.
    pub const KEYED: u16 = 512;
    /// It was redriven: its time to live was in its first life.
    pub const LASTING: u16 = 1024;
}

/// The two lists in which a call can be.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    prev: u32,
    next: u32,
}

/// [`List`] of calls in one [`Place`].
pub const BY_PLACE: usize = 0;
/// [`List`] of calls whose submit record is in one segment.
pub const BY_SEGMENT: usize = 1;

/// A pending call or dead letter: two cache lines.
#[derive(Clone, Debug)]
pub struct Call {
    /// Its id.
    pub id: CallId,
    /// The submit frame, in memory or parked on disk.
    pub frame: Extent,
    /// The last outcome, if it is kept.
    pub outcome: Extent,
    /// Scheduled: when it will be due. Later: when it became due.
    pub when: u64,
    /// Order among calls of one time: the lower first.
    pub turn: u64,
    /// When it could first have started.
    pub start_at: u64,
    /// Of the live lease. Until the first one, of a call that must begin by its deadline: that.
    pub epoch: Epoch,
    /// Of the last record about it.
    pub group: u64,
    /// Who wants the outcome.
    pub origin: Origin,
    /// Its function.
    pub function: FunctionRef,
    /// Ordinal of the segment that holds its submit record.
    pub segment: u32,
    /// Where in the segment, in units of [`call::limits::FRAME_ALIGN`] bytes; or [`CUT`].
    pub offset: u32,
    /// Where it is in the timers.
    pub timer: u32,
    /// The next in the backlog.
    pub backlog: u32,
    /// Its neighbours in the list of its place and in that of its segment.
    pub links: [Link; 2],
    /// Leases so far.
    pub deliveries: u16,
    /// Executions that failed.
    pub failures: u16,
    /// Executions that met back-pressure: these are deliveries, too.
    pub pressures: u16,
    /// Of the live lease.
    pub holder: HolderRef,
    /// Where it is.
    pub place: Place,
    /// How the last execution ended.
    pub status: Option<Status>,
    /// Bits of [`flag`].
    pub flags: u16,
}

impl Call {
    /// A call that has just come in.
    pub fn new(id: CallId, function: FunctionRef, frame: Extent) -> Call {
        Call {
            id,
            frame,
            outcome: Extent::NONE,
            when: 0,
            turn: 0,
            start_at: 0,
            epoch: Epoch(0),
            group: 0,
            origin: Origin::NOBODY,
            function,
            segment: 0,
            offset: CUT,
            timer: NONE,
            backlog: NONE,
            links: [Link { prev: NONE, next: NONE }; 2],
            deliveries: 0,
            failures: 0,
            pressures: 0,
            holder: HolderRef(0),
            place: Place::Appended,
            status: None,
            flags: 0,
        }
    }

    /// Whether it has been delivered so often, for other reasons than back-pressure, that it is given up.
    pub fn is_worn(&self, deliveries_max: u32) -> bool {
        u32::from(self.deliveries.saturating_sub(self.pressures)) >= deliveries_max
    }

    /// The status that its records say: that of the last execution, or that there must be none any more.
    pub fn status_on_disk(&self) -> Option<Status> {
        if self.is(flag::CANCEL) { Some(Status::Cancelled) } else { self.status }
    }

    /// Whether a bit of [`flag`] is set.
    pub fn is(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }
}

/// The table. Places are given out again in the reverse order of their return, while they are in the cache.
#[derive(Debug)]
pub struct Calls {
    calls: Vec<Call>,
    /// Not a list through the calls: what comes next must not hang on a line that is not in the cache.
    free: Vec<u32>,
}

impl Calls {
    /// Room for `calls_max` calls.
    pub fn new(calls_max: usize) -> Calls {
        assert!(calls_max < NONE as usize, "a call is named by 32 bits");
        Calls { calls: Vec::with_capacity(calls_max), free: Vec::with_capacity(calls_max) }
    }

    /// How many places are taken.
    pub fn len(&self) -> usize {
        self.calls.len() - self.free.len()
    }

    /// Whether there is no place left.
    pub fn is_full(&self) -> bool {
        self.free.is_empty() && self.calls.len() == self.calls.capacity()
    }

    /// Gives a call a place. There must be one.
    pub fn insert(&mut self, call: Call) -> CallRef {
        match self.free.pop() {
            Some(at) => {
                self.calls[at as usize] = call;
                CallRef(at)
            }
            None => {
                assert!(self.calls.len() < self.calls.capacity(), "asked before");
                self.calls.push(call);
                CallRef(self.calls.len() as u32 - 1)
            }
        }
    }

    /// Reads where the call inserted after `ahead` others will stand: early, it is in the cache then.
    pub fn glimpse_free(&self, ahead: usize) -> u32 {
        let at = self.free.len().checked_sub(ahead + 1).map(|at| self.free[at]);
        at.map_or(0, |at| self.calls[at as usize].segment)
    }

    /// Frees a place.
    pub fn remove(&mut self, at: CallRef) {
        assert_ne!(self[at].place, Place::Free, "{at:?} was freed before");
        self[at].place = Place::Free;
        self.free.push(at.0);
    }

    /// The call of a number, if there is one.
    pub fn get(&self, at: CallRef) -> Option<&Call> {
        self.calls.get(at.0 as usize).filter(|call| call.place != Place::Free)
    }

    /// All numbers that were ever given are below this one.
    pub fn places(&self) -> u32 {
        self.calls.len() as u32
    }

    /// All calls.
    pub fn iter(&self) -> impl Iterator<Item = (CallRef, &Call)> {
        let numbered = self.calls.iter().enumerate().map(|(at, call)| (CallRef(at as u32), call));
        numbered.filter(|(_, call)| call.place != Place::Free)
    }
}

impl std::ops::Index<CallRef> for Calls {
    type Output = Call;
    fn index(&self, at: CallRef) -> &Call {
        &self.calls[at.0 as usize]
    }
}

impl std::ops::IndexMut<CallRef> for Calls {
    fn index_mut(&mut self, at: CallRef) -> &mut Call {
        &mut self.calls[at.0 as usize]
    }
}

/// A list through the table, by one of the two links of a call. The list does not own the calls.
#[derive(Clone, Copy, Debug)]
pub struct List<const BY: usize> {
    head: u32,
    tail: u32,
    /// How many calls are in it.
    pub len: u32,
}

impl<const BY: usize> List<BY> {
    /// Without calls.
    pub const EMPTY: List<BY> = List { head: NONE, tail: NONE, len: 0 };

    /// The first call.
    pub fn front(&self) -> Option<CallRef> {
        (self.head != NONE).then_some(CallRef(self.head))
    }

    /// Adds a call at the end.
    pub fn push_back(&mut self, calls: &mut Calls, at: CallRef) {
        self.insert_before(calls, NONE, at);
    }

    /// Adds a call before `next`, at the end if that is [`NONE`].
    pub fn insert_before(&mut self, calls: &mut Calls, next: u32, at: CallRef) {
        let prev = if next == NONE { self.tail } else { calls.calls[next as usize].links[BY].prev };
        calls[at].links[BY] = Link { prev, next };
        match prev {
            NONE => self.head = at.0,
            prev => calls.calls[prev as usize].links[BY].next = at.0,
        }
        match next {
            NONE => self.tail = at.0,
            next => calls.calls[next as usize].links[BY].prev = at.0,
        }
        self.len += 1;
    }

    /// Takes a call of this list out.
    pub fn remove(&mut self, calls: &mut Calls, at: CallRef) {
        let Link { prev, next } = calls[at].links[BY];
        match prev {
            NONE => self.head = next,
            prev => calls.calls[prev as usize].links[BY].next = next,
        }
        match next {
            NONE => self.tail = prev,
            next => calls.calls[next as usize].links[BY].prev = prev,
        }
        self.len -= 1;
    }

    /// Takes the first call out.
    pub fn pop_front(&mut self, calls: &mut Calls) -> Option<CallRef> {
        let first = self.front()?;
        self.remove(calls, first);
        Some(first)
    }

    /// The call behind one of this list.
    pub fn after(&self, calls: &Calls, at: CallRef) -> Option<CallRef> {
        let next = calls[at].links[BY].next;
        (next != NONE).then_some(CallRef(next))
    }

    /// The calls, from the first to the last.
    pub fn iter<'a>(&self, calls: &'a Calls) -> impl Iterator<Item = CallRef> + 'a {
        std::iter::successors(self.front(), |at| {
            let next = calls[*at].links[BY].next;
            (next != NONE).then_some(CallRef(next))
        })
    }
}
