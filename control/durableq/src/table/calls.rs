//! The table of pending calls and dead letters.
//!
//! Most calls wait, and of those most have never run. So an entry is what a call needs that only waits: one cache line.
//! What else there is of a call (its frame in memory, its lease, what became of it so far, who wants to know) is its
//! [`Progress`], in a table of its own, while there is anything to be said there.

use super::list::Link;
use super::progress::Progress;
use super::store::Extent;
use crate::words::{CallRef, FunctionRef};
use call::{CallId, Status};

/// No call.
pub const NONE: u32 = u32::MAX;

/// No place on disk from which a frame could be read: its record is cut.
pub const CUT: u32 = u32::MAX;

/// In which structure a call is; each is in exactly one of these.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
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

const PLACES: [Place; 9] = [
    Place::Free,
    Place::Appended,
    Place::Scheduled,
    Place::Due,
    Place::Offered,
    Place::Leased,
    Place::Dead,
    Place::Ending,
    Place::Husk,
];

/// Bits of a call beside its place.
pub mod flag {
    /// The client wants the outcome.
    pub const WANT: u16 = 1 << 4;
    /// Someone else wants to know of the end.
    pub const WATCHED: u16 = 1 << 5;
    /// Its state is not in the log yet: it is in the backlog.
    pub const BACKLOG: u16 = 1 << 6;
    /// It is to end when its lease does, or when it is on disk: it was cancelled.
    pub const CANCEL: u16 = 1 << 7;
    /// It ended while the scheduler held it.
    pub const HELD: u16 = 1 << 8;
    /// Its client wants it tried once.
    pub const ONCE: u16 = 1 << 9;
    /// Its frame is being read from the disk, or will be.
    pub const READING: u16 = 1 << 10;
    /// Its frame on disk is damaged.
    pub const DAMAGED: u16 = 1 << 11;
    /// It must begin by its deadline.
    pub const EXPIRES: u16 = 1 << 12;
    /// Its id was made of an idempotency key.
    pub const KEYED: u16 = 1 << 13;
    /// It was redriven: its time to live was in its first life.
    pub const LASTING: u16 = 1 << 14;
    /// Its frame is in memory.
    pub const HERE: u16 = 1 << 15;
}

/// Bits of the place; those above are [`flag`]s.
const PLACE: u16 = 15;
/// The bit of a length's third byte that says that the submit names a blob.
const BLOB: u8 = 1 << 7;
/// Functions that an entry can name.
const FUNCTIONS_MAX: usize = 1 << 24;

const _: () = assert!(size_of::<Call>() == 64, "one cache line");
const _: () =
    assert!(call::limits::BODY_BYTES_MAX + call::limits::HEADER_BYTES < 1 << 23, "a length has 23 bits");

/// A pending call or dead letter, as far as it waits.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub struct Call {
    /// Its id.
    pub id: CallId,
    /// Scheduled: when it will be due. Later: when it became due. Set by [`Calls::set_when`].
    when: u64,
    turn: [u16; 3],
    /// The segment that holds its submit record, as [`crate::log::segments`] counts them.
    pub segment: u16,
    /// Where in the segment, in units of [`call::limits::FRAME_ALIGN`] bytes; or [`CUT`].
    pub offset: u32,
    /// Its place in the table of [`Progress`]; [`NONE`] if it has made none.
    progress: u32,
    /// Its neighbours in the list of its place and in that of its segment.
    pub links: [Link; 2],
    function: [u8; 3],
    length: [u8; 3],
    bits: u16,
}

impl Call {
    /// A call of a function that has just come in, with a submit frame of so many bytes.
    pub fn new(id: CallId, function: FunctionRef, length: usize) -> Call {
        let mut call = Call {
            id,
            when: 0,
            turn: [0; 3],
            segment: 0,
            offset: CUT,
            progress: NONE,
            links: [Link::NONE; 2],
            function: [0; 3],
            length: [0; 3],
            bits: Place::Appended as u16,
        };
        call.function.copy_from_slice(&function.0.to_le_bytes()[..3]);
        call.set_length(length);
        call
    }

    /// A call that has just come in, to start at this time.
    pub fn starting(mut self, when: u64, turn: u64, flags: u16) -> Call {
        self.when = when;
        self.set_turn(turn);
        self.raise(flags);
        self
    }

    /// Its function.
    pub fn function(&self) -> FunctionRef {
        let [a, b, c] = self.function;
        FunctionRef(u32::from_le_bytes([a, b, c, 0]))
    }

    /// Scheduled: when it will be due. Later: when it became due.
    pub fn when(&self) -> u64 {
        self.when
    }

    /// Order among calls of one time: the lower first.
    pub fn turn(&self) -> u64 {
        let [low, middle, high] = self.turn.map(u64::from);
        low | middle << 16 | high << 32
    }

    /// Gives it a turn: a million each second last for nine years.
    pub fn set_turn(&mut self, turn: u64) {
        assert!(turn < 1 << 48, "turns have 48 bits");
        self.turn = [turn as u16, (turn >> 16) as u16, (turn >> 32) as u16];
    }

    /// Where it is.
    pub fn place(&self) -> Place {
        PLACES[usize::from(self.bits & PLACE)]
    }

    /// Puts it there.
    pub fn set_place(&mut self, place: Place) {
        self.bits = self.bits & !PLACE | place as u16;
    }

    /// Whether one of these bits of [`flag`] is set.
    pub fn is(&self, flags: u16) -> bool {
        self.bits & flags != 0
    }

    /// Sets bits of [`flag`].
    pub fn raise(&mut self, flags: u16) {
        debug_assert_eq!(flags & PLACE, 0);
        self.bits |= flags;
    }

    /// Takes bits of [`flag`] back.
    pub fn lower(&mut self, flags: u16) {
        debug_assert_eq!(flags & PLACE, 0);
        self.bits &= !flags;
    }

    /// Bytes of its submit frame, wherever that is; 0 if it needs none any more.
    pub fn length(&self) -> usize {
        let [a, b, c] = self.length;
        u32::from_le_bytes([a, b, c & !BLOB, 0]) as usize
    }

    fn set_length(&mut self, length: usize) {
        assert!(length < 1 << 23, "a length has 23 bits");
        let [a, b, c, _] = (length as u32).to_le_bytes();
        self.length = [a, b, c | self.length[2] & BLOB];
    }

    /// The same call, whose submit names a blob, or does not. Whoever makes a call of a record must say so: a blob that no
    /// call names is removed.
    pub fn naming_blob(mut self, names: bool) -> Call {
        self.length[2] = self.length[2] & !BLOB | if names { BLOB } else { 0 };
        self
    }

    /// Whether its submit names a blob.
    pub fn names_blob(&self) -> bool {
        self.length[2] & BLOB != 0
    }

    /// Bytes of its submit frame in memory.
    pub fn resident(&self) -> usize {
        if self.is(flag::HERE) { self.length() } else { 0 }
    }

    /// Whether its submit frame is on disk only.
    pub fn is_parked(&self) -> bool {
        !self.is(flag::HERE) && self.length() > 0
    }

    /// Segment and offset of its submit record.
    pub fn record(&self) -> (u16, u32) {
        (self.segment, self.offset)
    }
}

/// The table. Places are given out again in the reverse order of their return, while they are in the cache.
#[derive(Debug)]
pub struct Calls {
    calls: Vec<Call>,
    /// Not a list through the calls: what comes next must not hang on a line that is not in the cache.
    free: Vec<u32>,
    progress: Vec<Progress>,
    progress_free: Vec<u32>,
}

impl Calls {
    /// Room for `calls_max` calls of `functions_max` functions.
    pub fn new(calls_max: usize, functions_max: usize) -> Calls {
        assert!(calls_max < NONE as usize - 1, "limits.calls_max: a call is named by 32 bits");
        assert!(functions_max <= FUNCTIONS_MAX, "limits.functions_max: a function is named by 24 bits");
        Calls {
            calls: Vec::with_capacity(calls_max),
            free: Vec::with_capacity(calls_max),
            progress: Vec::with_capacity(calls_max),
            progress_free: Vec::with_capacity(calls_max),
        }
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
        at.map_or(0, |at| self.calls[at as usize].offset)
    }

    /// Frees a place.
    pub fn remove(&mut self, at: CallRef) {
        assert_ne!(self[at].place(), Place::Free, "{at:?} was freed before");
        self.drop_progress(at);
        self[at].set_place(Place::Free);
        self.free.push(at.0);
    }

    /// The call of a number, if there is one.
    pub fn get(&self, at: CallRef) -> Option<&Call> {
        self.calls.get(at.0 as usize).filter(|call| call.place() != Place::Free)
    }

    /// All numbers that were ever given are below this one.
    pub fn places(&self) -> u32 {
        self.calls.len() as u32
    }

    /// All calls.
    pub fn iter(&self) -> impl Iterator<Item = (CallRef, &Call)> {
        let numbered = self.calls.iter().enumerate().map(|(at, call)| (CallRef(at as u32), call));
        numbered.filter(|(_, call)| call.place() != Place::Free)
    }

    /// How far a call has come.
    pub fn progress(&self, at: CallRef) -> &Progress {
        match self[at].progress {
            NONE => &Progress::NONE,
            place => &self.progress[place as usize],
        }
    }

    /// The same, to note more of it.
    pub fn progress_mut(&mut self, at: CallRef) -> &mut Progress {
        if self[at].progress == NONE {
            let made = Progress { start_at: self[at].when, ..Progress::NONE };
            self[at].progress = match self.progress_free.pop() {
                Some(free) => {
                    self.progress[free as usize] = made;
                    free
                }
                None => {
                    // There is room for one of each call.
                    self.progress.push(made);
                    self.progress.len() as u32 - 1
                }
            };
        }
        let place = self[at].progress as usize;
        &mut self.progress[place]
    }

    fn drop_progress(&mut self, at: CallRef) {
        let place = std::mem::replace(&mut self[at].progress, NONE);
        if place != NONE {
            self.progress_free.push(place);
        }
    }

    /// A call only waits from now on, its last record on disk: if it has made no progress worth keeping, that takes no
    /// memory.
    pub fn rest(&mut self, at: CallRef) {
        let (call, progress) = (&self[at], self.progress(at));
        let noted = call.is(flag::BACKLOG | flag::HERE | flag::HELD);
        if call.progress != NONE && !noted && progress.is_none(call.is(flag::WANT | flag::WATCHED), call.when)
        {
            self.drop_progress(at);
        }
    }

    /// When a call could first have started.
    pub fn start_at(&self, at: CallRef) -> u64 {
        let call = &self[at];
        if call.progress == NONE { call.when } else { self.progress[call.progress as usize].start_at }
    }

    /// Sets when a call is due next; when it could first have started stays.
    pub fn set_when(&mut self, at: CallRef, when: u64) {
        if self[at].when != when {
            self.progress_mut(at);
            self[at].when = when;
        }
    }

    /// Sets when a call that has not been due could first start.
    pub fn set_start(&mut self, at: CallRef, start_at: u64, when: u64) {
        if self[at].progress != NONE || start_at != when {
            self.progress_mut(at).start_at = start_at;
        }
        self[at].when = when;
    }

    /// The submit frame of a call, in memory or parked on disk.
    pub fn frame(&self, at: CallRef) -> Extent {
        let call = &self[at];
        if call.is(flag::HERE) {
            Extent::here(self.progress(at).frame, call.length())
        } else {
            Extent::parked(call.length())
        }
    }

    /// The frame of a call is there from now on; or it has none any more. What it was before.
    pub fn set_frame(&mut self, at: CallRef, frame: Extent) -> Extent {
        let before = self.frame(at);
        self[at].set_length(frame.length());
        match frame.place() {
            Some(place) => {
                self.progress_mut(at).frame = place;
                self[at].raise(flag::HERE);
            }
            None => self[at].lower(flag::HERE),
        }
        before
    }

    /// The status that the records of a call say: that of the last execution, or that there must be none any more.
    pub fn status_on_disk(&self, at: CallRef) -> Option<Status> {
        if self[at].is(flag::CANCEL) { Some(Status::Cancelled) } else { self.progress(at).status }
    }

    /// Each progress is one call's.
    pub fn check(&self) {
        let mut places: Vec<u32> =
            self.iter().map(|(_, call)| call.progress).filter(|place| *place != NONE).collect();
        places.extend(&self.progress_free);
        places.sort_unstable();
        assert!(places.iter().copied().eq(0..self.progress.len() as u32), "each progress is one call's");
        for (at, call) in self.iter() {
            assert!(!call.is(flag::HERE) || call.progress != NONE, "where the frame of {} is", self[at].id);
        }
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
