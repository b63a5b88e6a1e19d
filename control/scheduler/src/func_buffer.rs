//! The calls the scheduler holds, and the FuncBuffer of each function: criticality, then deadline, then arrival.
//!
//! A FuncBuffer is a list and a leftist heap whose nodes are the calls themselves, in one array for all functions.
//! Most calls arrive in the order in which they leave: such a call goes behind the list, and costs one step. Any other
//! goes into the heap, where putting in and taking out cost O(log n) in the worst case, not only on average. A
//! function with one call costs what one call costs: 20,000 arrays of the largest length would not fit.

use crate::CORES_MAX;
use crate::words::{CallRef, CoreRef, FunctionRef, Marks};
use call::{Label, WallTime};

pub(crate) const NONE: u32 = u32::MAX;

/// Where a call stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Place {
    /// The scheduler does not hold it.
    Absent,
    /// In its function's FuncBuffer.
    Buffered,
    /// In the RunQ.
    Queued,
    /// Dispatched to its core.
    Running,
    /// Refused, and not told yet.
    Refused,
}

/// 32 bytes per call: two to a cache line. A call stands in one place at a time, so what links it there is kept in the same
/// two numbers: whoever touches a call touches one line.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    /// Smaller goes first; see [`order`].
    order: u128,
    /// In a heap: the left child. In a ring (RunQ, a core's calls): the one before.
    pub(crate) left: u32,
    /// In a heap: the right child. In the list, or in a ring: the next.
    pub(crate) right: u32,
    function: FunctionRef,
    /// Below [`CORES_MAX`].
    core: u8,
    place: Place,
    /// In a heap: nodes on the way down the right side. Below 32, since a heap of rank r has 2^r - 1 nodes or more.
    rank: u8,
    /// The left child's, so that a merge need not look at it; 0 if there is none.
    left_rank: u8,
}

const _: () = assert!(size_of::<Entry>() == 32);
// A core's number fits a byte.
const _: () = assert!(CORES_MAX <= 256);

/// The order of one function's calls in one number: more critical first, then the earlier deadline, then the
/// earlier arrival. 55 bits of arrivals last 350 years at three million a second. The last bit decides nothing: it
/// says whether the call has [`Marks`], so that those of a call that has none are never read.
fn order(criticality: u8, deadline: WallTime, arrival: u64, marked: bool) -> u128 {
    assert!(arrival < 1 << 55, "arrivals are numbered by 55 bits");
    let arrival = u128::from(arrival << 1 | u64::from(marked));
    (u128::from(u8::MAX - criticality) << 120) | (u128::from(deadline.0) << 56) | arrival
}

/// In the second number of a call's marks, above its label.
const RETRY: u64 = 1 << 8;

/// All calls of the scheduler by number, and the heaps and rings over them.
#[derive(Debug)]
pub struct Calls {
    /// The calls, and behind them the heads of rings.
    pub(crate) entries: Vec<Entry>,
    pub(crate) calls_max: usize,
    /// Key and label of calls that have any. Memory that no such call needs is not touched.
    marks: Vec<[u64; 2]>,
    arrivals: u64,
}

/// The calls of one function: the best of its heap, both ends of its list, and how many there are.
#[derive(Clone, Copy, Debug)]
pub struct FuncBuffer {
    /// Of the best call, so that nobody who asks how critical or how late it is looks at the call.
    order: u128,
    root: u32,
    first: u32,
    last: u32,
    len: u32,
}

impl FuncBuffer {
    /// No calls.
    pub const EMPTY: FuncBuffer =
        FuncBuffer { order: u128::MAX, root: NONE, first: NONE, last: NONE, len: 0 };

    /// How many calls.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether there are no calls.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How critical the best call is; none if there is no call.
    pub fn criticality(&self) -> Option<u8> {
        (self.len > 0).then_some(u8::MAX - (self.order >> 120) as u8)
    }

    /// When the best call should be done; none if there is no call.
    pub fn deadline(&self) -> Option<WallTime> {
        (self.len > 0).then_some(WallTime((self.order >> 56) as u64))
    }

    /// Whether the best call carries anything.
    pub fn is_marked(&self) -> bool {
        self.len > 0 && self.order & 1 != 0
    }
}

impl Calls {
    /// Room for calls numbered below `calls_max`, and so many empty rings of calls.
    pub fn new(calls_max: usize, rings: usize) -> Calls {
        assert!(calls_max + rings < NONE as usize, "calls and rings are numbered by 32 bits");
        let absent = Entry {
            order: 0,
            left: NONE,
            right: NONE,
            function: FunctionRef(NONE),
            core: 0,
            place: Place::Absent,
            rank: 0,
            left_rank: 0,
        };
        let mut entries = vec![absent; calls_max + rings];
        for (at, head) in entries.iter_mut().enumerate().skip(calls_max) {
            (head.left, head.right) = (at as u32, at as u32);
        }
        Calls { entries, calls_max, marks: vec![[0; 2]; calls_max], arrivals: 0 }
    }

    /// Takes a call in. It stands nowhere yet: [`Calls::put`] or [`Calls::refuse`] follows.
    ///
    /// # Panics
    /// If the scheduler holds the call already.
    pub fn admit(
        &mut self,
        call: CallRef,
        function: FunctionRef,
        (criticality, deadline): (u8, WallTime),
        marks: Marks,
    ) {
        let marked = marks != Marks::default();
        if marked {
            let label = u64::from(marks.label.0) | if marks.retry { RETRY } else { 0 };
            self.marks[call.0 as usize] = [marks.key, label];
        }
        let order = order(criticality, deadline, self.arrivals, marked);
        self.arrivals += 1;
        let entry = self.entry_mut(call);
        assert_eq!(entry.place, Place::Absent, "{call:?} is offered while the scheduler holds it");
        entry.order = order;
        entry.function = function;
    }

    /// Notes that a call is refused.
    pub fn refuse(&mut self, call: CallRef) {
        self.entry_mut(call).place = Place::Refused;
    }

    /// What a held call carries.
    pub fn marks(&self, call: CallRef) -> Marks {
        if self.entry(call).order & 1 == 0 {
            return Marks::default();
        }
        let [key, label] = self.marks[call.0 as usize];
        Marks { key, label: Label(label as u8), retry: label & RETRY != 0 }
    }

    /// Puts a call that is held already into its function's buffer, where its order says.
    pub fn put(&mut self, buffer: &mut FuncBuffer, call: CallRef) {
        let entry = self.entry_mut(call);
        assert_ne!(entry.place, Place::Buffered, "{call:?} is in its buffer");
        entry.place = Place::Buffered;
        (entry.left, entry.right, entry.rank, entry.left_rank) = (NONE, NONE, 1, 0);
        let order = entry.order;
        buffer.len += 1;
        if buffer.first == NONE {
            (buffer.first, buffer.last) = (call.0, call.0);
        } else if self.entries[buffer.last as usize].order < order {
            self.entries[buffer.last as usize].right = call.0;
            buffer.last = call.0;
        } else {
            buffer.root = self.merge(buffer.root, call.0);
        }
        buffer.order = buffer.order.min(order);
    }

    /// Takes the best call out of a buffer and moves it to `place`.
    pub fn take(&mut self, buffer: &mut FuncBuffer, place: Place) -> Option<CallRef> {
        let best = self.best(buffer)?;
        let entry = self.entry_mut(best);
        let (left, right) = (entry.left, entry.right);
        entry.place = place;
        if best.0 == buffer.first {
            buffer.first = right;
        } else {
            buffer.root = self.merge(left, right);
        }
        buffer.len -= 1;
        buffer.order = self.order_at(buffer.root).min(self.order_at(buffer.first));
        Some(best)
    }

    /// The best call of a buffer.
    pub fn best(&self, buffer: &FuncBuffer) -> Option<CallRef> {
        let better = match (buffer.root, buffer.first) {
            (NONE, only) | (only, NONE) => only,
            (_, first) if self.entries[first as usize].order == buffer.order => first,
            (root, _) => root,
        };
        (better != NONE).then_some(CallRef(better))
    }

    /// The order of a node; that of none is behind all others.
    fn order_at(&self, node: u32) -> u128 {
        if node == NONE { u128::MAX } else { self.entries[node as usize].order }
    }

    /// Whether a call is in a buffer. Walks over the whole buffer: for questions of people only.
    pub fn holds(&self, buffer: &FuncBuffer, call: CallRef) -> bool {
        let next = |at: u32| self.entries[at as usize].right;
        chain(buffer.first, next).any(|at| at == call.0) || self.heap_holds(buffer.root, call)
    }

    /// A heap is deep on its left side: down it goes by a loop, to the right, where it is shallow, by recursion.
    fn heap_holds(&self, root: u32, call: CallRef) -> bool {
        let wanted = self.entry(call).order;
        chain(root, |at| self.entries[at as usize].left)
            .take_while(|&at| self.entries[at as usize].order <= wanted)
            .any(|at| at == call.0 || self.heap_holds(self.entries[at as usize].right, call))
    }

    /// Joins two heaps. It goes down their right sides only: at most 2 log2(n + 1) steps, and back the same way.
    fn merge(&mut self, mut a: u32, mut b: u32) -> u32 {
        // On the way down a node's right link says where the walk came from.
        let mut up = NONE;
        while a != NONE && b != NONE {
            if self.entries[b as usize].order < self.entries[a as usize].order {
                (a, b) = (b, a);
            }
            let next = std::mem::replace(&mut self.entries[a as usize].right, up);
            (up, a) = (a, next);
        }
        let mut below = a.min(b);
        let mut rank = if below == NONE { 0 } else { self.entries[below as usize].rank };
        while up != NONE {
            let entry = &mut self.entries[up as usize];
            let next = entry.right;
            if entry.left_rank < rank {
                entry.right = std::mem::replace(&mut entry.left, below);
                rank = std::mem::replace(&mut entry.left_rank, rank);
            } else {
                entry.right = below;
            }
            rank += 1;
            entry.rank = rank;
            (below, up) = (up, next);
        }
        below
    }

    fn entry(&self, call: CallRef) -> &Entry {
        &self.entries[call.0 as usize]
    }

    fn entry_mut(&mut self, call: CallRef) -> &mut Entry {
        &mut self.entries[call.0 as usize]
    }

    /// Where the call stands.
    pub fn place(&self, call: CallRef) -> Place {
        self.entry(call).place
    }

    /// The function of a call that is held.
    pub fn function(&self, call: CallRef) -> FunctionRef {
        self.entry(call).function
    }

    /// Touches a call's entry, and its marks; see [`crate::glimpse`].
    pub fn glimpse(&self, call: CallRef) -> u32 {
        self.entry(call).right ^ self.marks[call.0 as usize][0] as u32
    }

    /// Touches what a call in a heap or list is linked to.
    pub fn glimpse_behind(&self, call: CallRef) -> u32 {
        let Entry { left, right, .. } = *self.entry(call);
        [left, right]
            .iter()
            .filter_map(|at| self.entries.get(*at as usize))
            .fold(0, |seen, entry| seen ^ entry.left)
    }

    /// The core of a call that runs.
    pub fn core(&self, call: CallRef) -> CoreRef {
        CoreRef(u16::from(self.entry(call).core))
    }

    /// Moves a call from the RunQ to a core.
    pub fn run(&mut self, call: CallRef, core: CoreRef) {
        let entry = self.entry_mut(call);
        assert_eq!(entry.place, Place::Queued, "{call:?} runs from the RunQ only");
        (entry.place, entry.core) = (Place::Running, core.0 as u8);
    }

    /// Lets go of a call.
    pub fn forget(&mut self, call: CallRef) {
        self.entry_mut(call).place = Place::Absent;
    }

    /// Numbers of all calls held, with place and function.
    pub fn iter(&self) -> impl Iterator<Item = (CallRef, Place, FunctionRef)> {
        let held = |entry: &&Entry| entry.place != Place::Absent;
        let all = self.entries[..self.calls_max].iter().enumerate().filter(move |(_, entry)| held(entry));
        all.map(|(at, entry)| (CallRef(at as u32), entry.place, entry.function))
    }

    /// Panics unless the buffer is a sorted list and a leftist heap of as many calls as it says, all of them buffered
    /// for `function`.
    pub fn check(&self, buffer: &FuncBuffer, function: FunctionRef) {
        let mut nodes = 0;
        let mut listed = buffer.first;
        while listed != NONE {
            nodes += 1;
            let entry = &self.entries[listed as usize];
            assert_eq!((entry.place, entry.function), (Place::Buffered, function), "call {listed}");
            match entry.right {
                NONE => assert_eq!(listed, buffer.last, "the list's end"),
                next => {
                    assert!(
                        entry.order < self.entries[next as usize].order,
                        "call {listed} is worse than {next}"
                    )
                }
            }
            listed = entry.right;
        }
        let mut open: Vec<u32> = [buffer.root].into_iter().filter(|&root| root != NONE).collect();
        while let Some(at) = open.pop() {
            nodes += 1;
            let entry = &self.entries[at as usize];
            assert_eq!((entry.place, entry.function), (Place::Buffered, function), "call {at}");
            let rank = |node: u32| if node == NONE { 0 } else { self.entries[node as usize].rank };
            assert_eq!(entry.left_rank, rank(entry.left), "rank on the left of call {at}");
            assert!(entry.left_rank >= rank(entry.right), "call {at} leans to the right");
            assert_eq!(entry.rank, rank(entry.right) + 1, "rank of call {at}");
            for child in [entry.left, entry.right].into_iter().filter(|&child| child != NONE) {
                assert!(entry.order < self.entries[child as usize].order, "call {at} is worse than {child}");
                open.push(child);
            }
        }
        assert_eq!(nodes, buffer.len, "calls in the buffer of {function:?}");
        let best = self.order_at(buffer.root).min(self.order_at(buffer.first));
        assert_eq!(best, buffer.order, "the order of the best call of {function:?}");
    }
}

/// The nodes from `first` on, as `next` leads.
fn chain(first: u32, next: impl Fn(u32) -> u32) -> impl Iterator<Item = u32> {
    let there = |at: u32| Some(at).filter(|&at| at != NONE);
    std::iter::successors(there(first), move |&at| there(next(at)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const F: FunctionRef = FunctionRef(3);

    fn filled(calls: &[(u8, u64)]) -> (Calls, FuncBuffer) {
        let (mut all, mut buffer) = (Calls::new(calls.len(), 0), FuncBuffer::EMPTY);
        for (at, &(criticality, deadline)) in calls.iter().enumerate() {
            let call = CallRef(at as u32);
            all.admit(call, F, (criticality, WallTime(deadline)), Marks::default());
            all.put(&mut buffer, call);
            all.check(&buffer, F);
        }
        (all, buffer)
    }

    proptest! {
        #[test]
        fn calls_leave_by_criticality_then_deadline_then_arrival(
            calls in proptest::collection::vec((1..=4u8, prop_oneof![0..4u64, Just(u64::MAX)]), 0..200),
        ) {
            let (mut all, mut buffer) = filled(&calls);
            let mut expected: Vec<usize> = (0..calls.len()).collect();
            expected.sort_by_key(|&at| (u8::MAX - calls[at].0, calls[at].1, at));
            for at in expected {
                let call = CallRef(at as u32);
                prop_assert!(all.holds(&buffer, call));
                let best = (buffer.criticality(), buffer.deadline());
                prop_assert_eq!(best, (Some(calls[at].0), Some(WallTime(calls[at].1))));
                prop_assert_eq!(all.take(&mut buffer, Place::Queued), Some(call));
                prop_assert!(!all.holds(&buffer, call));
                all.check(&buffer, F);
            }
            prop_assert!(buffer.is_empty() && all.take(&mut buffer, Place::Queued).is_none());
        }
    }

    #[test]
    fn a_call_that_is_put_back_keeps_its_turn() {
        let (mut all, mut buffer) = filled(&[(1, 5), (1, 5), (1, 5)]);
        let first = all.take(&mut buffer, Place::Queued).unwrap();
        all.put(&mut buffer, first);
        assert_eq!(all.take(&mut buffer, Place::Queued), Some(first));
    }

    #[test]
    #[should_panic(expected = "is worse than")]
    fn canary_order_of_the_heap() {
        // The first and the last are listed, the others are in the heap.
        let (mut all, buffer) = filled(&[(1, 4), (1, 1), (1, 2), (1, 5)]);
        all.entries[buffer.root as usize].order = order(1, WallTime(9), 0, false);
        all.check(&buffer, F);
    }

    #[test]
    #[should_panic(expected = "is worse than")]
    fn canary_order() {
        let (mut all, buffer) = filled(&[(1, 1), (1, 2), (1, 3)]);
        all.entries[0].order = order(1, WallTime(9), 0, false);
        all.check(&buffer, F);
    }

    #[test]
    #[should_panic(expected = "is offered while the scheduler holds it")]
    fn canary_offered_twice() {
        let (mut all, _) = filled(&[(1, 1)]);
        all.admit(CallRef(0), F, (1, WallTime(1)), Marks::default());
    }

    #[test]
    fn marks_stay_with_their_call() {
        let mut all = Calls::new(2, 0);
        let marks = Marks { key: u64::MAX, label: Label::HIGHEST, retry: true };
        for marks in [marks, Marks::default(), Marks { retry: false, ..marks }] {
            all.admit(CallRef(1), F, (7, WallTime(u64::MAX)), marks);
            assert_eq!(all.marks(CallRef(1)), marks);
        }
    }
}
