//! Submits that came to this shard and wait for a word of another one. Pure: no clock, no I/O.
//!
//! An entry is made when a submit is passed on, or when a former owner of its slot is asked about it. Its frame is kept
//! until the verdict is there, so that it can be said again after the link was lost: whoever submitted it is never told
//! that a call was refused which may have been accepted. If its outcome is wanted, the entry stays until that comes.

use crate::session::SessionRef;
use call::frame::{Frame, FrameBuf, flag};
use call::{CallId, FunctionId, ShardId};
use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::BuildHasherDefault;

/// Entries at once; a submit beyond them is refused as full. A few MiB.
pub const AWAITED_MAX: usize = 1 << 16;
/// Bytes of kept frames; a submit beyond them is refused as full.
pub const AWAITED_BYTES_MAX: usize = 64 << 20;
/// What an entry keeps of its memory for the next submit.
const FRAME_BYTES_KEPT: usize = 1 << 10;
/// No entry.
const NONE: u32 = u32::MAX;

/// An entry: its place here.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct AwaitedRef(u32);

/// What is awaited.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wait {
    /// Whether a former owner of its slot holds the call.
    Word,
    /// The verdict of the shard to which it was passed on.
    Verdict,
    /// The outcome of a call that is held there.
    Outcome,
}

#[derive(Default)]
struct Entry {
    /// None of a place that is free.
    wait: Option<Wait>,
    call: CallId,
    function: FunctionId,
    session: SessionRef,
    want_outcome: bool,
    /// Who is to speak.
    of: ShardId,
    /// Former owners that do not hold it, by bit.
    denied: u64,
    /// The submit, until its verdict.
    frame: FrameBuf,
    /// The next entry of the same call.
    next: u32,
}

/// All entries. See the module.
pub struct Awaited {
    entries: Vec<Entry>,
    free: Vec<u32>,
    /// The oldest entry of each call. Looked up and never iterated, so its order decides nothing.
    by_call: HashMap<CallId, u32, BuildHasherDefault<DefaultHasher>>,
    bytes: usize,
}

impl Awaited {
    /// Room for `max` entries.
    pub fn new(max: usize) -> Awaited {
        Awaited {
            entries: (0..max).map(|_| Entry { next: NONE, ..Entry::default() }).collect(),
            free: (0..max as u32).rev().collect(),
            by_call: HashMap::with_capacity_and_hasher(max, BuildHasherDefault::default()),
            bytes: 0,
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether a submit of so many bytes fits.
    pub fn has_room(&self, bytes: usize) -> bool {
        !self.free.is_empty() && self.bytes + bytes <= AWAITED_BYTES_MAX
    }

    /// A submit awaits a word or a verdict of a shard.
    ///
    /// # Panics
    /// Without room.
    pub fn add(&mut self, session: SessionRef, submit: &Frame<'_>, wait: Wait, of: ShardId) -> AwaitedRef {
        let at = self.free.pop().expect("the caller looked for room");
        let entry = &mut self.entries[at as usize];
        entry.frame.extend_from_slice(submit.bytes());
        self.bytes += entry.frame.len();
        (entry.wait, entry.of, entry.denied) = (Some(wait), of, 0);
        (entry.call, entry.function, entry.session) = (submit.call(), submit.function(), session);
        entry.want_outcome = submit.flags() & flag::WANT_OUTCOME != 0;
        match self.by_call.get(&submit.call()) {
            None => drop(self.by_call.insert(submit.call(), at)),
            Some(first) => {
                let last = self.chain(*first).last().expect("the first is one");
                self.entries[last as usize].next = at;
            }
        }
        AwaitedRef(at)
    }

    fn chain(&self, first: u32) -> impl Iterator<Item = u32> {
        let next = |at: u32| Some(at).filter(|at| *at != NONE);
        std::iter::successors(next(first), move |at| next(self.entries[*at as usize].next))
    }

    /// The oldest entry of a call that awaits this of this shard.
    pub fn find(&self, call: CallId, of: ShardId, is: impl Fn(Wait) -> bool) -> Option<AwaitedRef> {
        let first = *self.by_call.get(&call)?;
        let is_it = |at: &u32| {
            let entry = &self.entries[*at as usize];
            entry.of == of && entry.wait.is_some_and(&is)
        };
        self.chain(first).find(is_it).map(AwaitedRef)
    }

    /// All entries that await something of this shard, by place.
    pub fn all_of(&self, of: ShardId) -> Vec<AwaitedRef> {
        let is_of = |entry: &Entry| entry.wait.is_some() && entry.of == of;
        let all = self.entries.iter().zip(0..).filter(|(entry, _)| is_of(entry));
        all.map(|(_, at)| AwaitedRef(at)).collect()
    }

    /// What it awaits.
    pub fn wait(&self, at: AwaitedRef) -> Wait {
        self.entries[at.0 as usize].wait.expect("it is there")
    }

    /// Who submitted it.
    pub fn session(&self, at: AwaitedRef) -> SessionRef {
        self.entries[at.0 as usize].session
    }

    /// Its call and function, and whether the outcome is wanted.
    pub fn named(&self, at: AwaitedRef) -> (CallId, FunctionId, bool) {
        let entry = &self.entries[at.0 as usize];
        (entry.call, entry.function, entry.want_outcome)
    }

    /// The submit.
    pub fn submit(&self, at: AwaitedRef) -> Frame<'_> {
        Frame::parsed_before(&self.entries[at.0 as usize].frame)
    }

    /// Whoever was asked does not hold it. All that do not, by bit.
    pub fn deny(&mut self, at: AwaitedRef) -> u64 {
        let entry = &mut self.entries[at.0 as usize];
        entry.denied |= 1 << entry.of;
        entry.denied
    }

    /// Somebody else is to speak.
    pub fn turn_to(&mut self, at: AwaitedRef, wait: Wait, of: ShardId) {
        let entry = &mut self.entries[at.0 as usize];
        assert_ne!(wait, Wait::Outcome, "there is a verdict first");
        (entry.wait, entry.of) = (Some(wait), of);
    }

    /// Takes the submit out, as it is judged here after all.
    pub fn take_frame(&mut self, at: AwaitedRef) -> FrameBuf {
        let frame = std::mem::take(&mut self.entries[at.0 as usize].frame);
        self.bytes -= frame.len();
        frame
    }

    /// Its call is held there: only the outcome is awaited from now on.
    pub fn held(&mut self, at: AwaitedRef) {
        let entry = &mut self.entries[at.0 as usize];
        assert!(entry.want_outcome, "nothing more is awaited");
        entry.wait = Some(Wait::Outcome);
        self.bytes -= entry.frame.len();
        entry.forget_frame();
    }

    /// Forgets an entry.
    pub fn remove(&mut self, at: AwaitedRef) {
        let entry = &mut self.entries[at.0 as usize];
        assert!(entry.wait.take().is_some(), "it is there");
        self.bytes -= entry.frame.len();
        entry.forget_frame();
        let (call, next) = (entry.call, std::mem::replace(&mut entry.next, NONE));
        let first = self.by_call[&call];
        if first == at.0 {
            match next {
                NONE => drop(self.by_call.remove(&call)),
                next => drop(self.by_call.insert(call, next)),
            }
        } else {
            let before = self.chain(first).find(|before| self.entries[*before as usize].next == at.0);
            self.entries[before.expect("it is in its chain") as usize].next = next;
        }
        self.free.push(at.0);
    }

    /// Forgets all whose submitter is gone.
    pub fn sweep(&mut self, is_gone: impl Fn(SessionRef) -> bool) {
        for at in 0..self.entries.len() as u32 {
            let entry = &self.entries[at as usize];
            if entry.wait.is_some() && is_gone(entry.session) {
                self.remove(AwaitedRef(at));
            }
        }
    }

    /// Panics if an invariant does not hold. For tests.
    pub fn check(&self) {
        let there = self.entries.iter().filter(|entry| entry.wait.is_some());
        assert_eq!(there.clone().map(|entry| entry.frame.len()).sum::<usize>(), self.bytes, "bytes");
        assert_eq!(there.count(), self.len(), "places");
        let chained: usize = self.by_call.values().map(|first| self.chain(*first).count()).sum();
        assert_eq!(chained, self.len(), "each is in the chain of its call");
    }
}

impl Entry {
    fn forget_frame(&mut self) {
        if self.frame.capacity() > FRAME_BYTES_KEPT {
            self.frame = FrameBuf::new();
        }
        self.frame.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use call::frame::{Header, Kind, append};
    use proptest::prelude::*;

    fn submit(call: u128, bytes: usize) -> FrameBuf {
        let mut out = FrameBuf::new();
        let header = Header { call: CallId(call), flags: flag::WANT_OUTCOME, ..Header::new(Kind::Submit) };
        append(&mut out, &header, &vec![7; bytes]);
        out
    }

    proptest! {
        #[test]
        fn it_is_a_list_in_order_of_coming(
            steps in prop::collection::vec((0u128..4, 0u16..3, 0usize..5, 0usize..3000), 1..120),
        ) {
            let mut awaited = Awaited::new(12);
            // The naive one: in the order of coming.
            let mut list: Vec<(u128, u16, Wait, AwaitedRef)> = Vec::new();
            for (call, of, what, bytes) in steps {
                let first_of = |list: &[(u128, u16, Wait, AwaitedRef)]| {
                    list.iter().position(|entry| (entry.0, entry.1) == (call, of))
                };
                match what {
                    0 | 1 => {
                        prop_assert_eq!(awaited.has_room(bytes), list.len() < 12);
                        if list.len() < 12 {
                            let wait = if what == 0 { Wait::Word } else { Wait::Verdict };
                            let frame = submit(call, bytes);
                            let parsed = Frame::parse(&frame).unwrap().0;
                            let at = awaited.add(SessionRef::NOBODY, &parsed, wait, of);
                            list.push((call, of, wait, at));
                        }
                    }
                    2 => if let Some(n) = first_of(&list) {
                        awaited.remove(list.remove(n).3);
                    },
                    3 => if let Some(n) = list.iter().position(|e| (e.0, e.1, e.2) == (call, of, Wait::Verdict)) {
                        awaited.held(list[n].3);
                        list[n].2 = Wait::Outcome;
                    },
                    _ => if let Some(n) = list.iter().position(|e| (e.0, e.1, e.2) == (call, of, Wait::Word)) {
                        prop_assert_eq!(awaited.submit(list[n].3).call(), CallId(call));
                        prop_assert!(awaited.deny(list[n].3) & 1 << of != 0);
                        awaited.turn_to(list[n].3, Wait::Verdict, 2 - of);
                        (list[n].1, list[n].2) = (2 - of, Wait::Verdict);
                    },
                }
                awaited.check();
                prop_assert_eq!(awaited.len(), list.len());
                for wait in [Wait::Word, Wait::Verdict, Wait::Outcome] {
                    let expected = list.iter().find(|e| (e.0, e.1, e.2) == (call, of, wait)).map(|e| e.3);
                    prop_assert_eq!(awaited.find(CallId(call), of, |is| is == wait), expected);
                }
                let mut all: Vec<_> = list.iter().filter(|e| e.1 == of).map(|e| e.3).collect();
                all.sort_unstable();
                prop_assert_eq!(awaited.all_of(of), all);
            }
            awaited.sweep(|session| session == SessionRef::NOBODY);
            prop_assert!(awaited.is_empty());
            awaited.check();
        }
    }

    #[test]
    fn kept_frames_are_bounded() {
        let mut awaited = Awaited::new(100);
        let frame = submit(1, 1 << 20);
        let parsed = Frame::parse(&frame).unwrap().0;
        let mut count = 0;
        while awaited.has_room(frame.len()) {
            awaited.add(SessionRef::NOBODY, &parsed, Wait::Verdict, 0);
            count += 1;
        }
        assert_eq!(count, 63);
        let at = awaited.find(CallId(1), 0, |_| true).unwrap();
        awaited.held(at);
        assert!(awaited.has_room(frame.len()), "what has its verdict is not kept");
    }

    #[test]
    #[should_panic(expected = "it is there")]
    fn canary_removed_twice() {
        let mut awaited = Awaited::new(2);
        let frame = submit(1, 1);
        let at = awaited.add(SessionRef::NOBODY, &Frame::parse(&frame).unwrap().0, Wait::Verdict, 0);
        awaited.remove(at);
        awaited.remove(at);
    }
}
