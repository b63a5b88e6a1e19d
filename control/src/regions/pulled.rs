//! Calls of other regions that are here under a lease of their home. Pure: no clock, no I/O.
//!
//! Memory only: the home keeps the one durable copy. What is lost here, with the link or the process, runs again there.

use call::frame::{Frame, FrameBuf};
use call::{CallId, Epoch};
use scheduler::{CoreRef, FunctionRef};
use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::BuildHasherDefault;

/// Calls of other regions held at once: four windows. Each is a number behind those of the durable queue's.
pub const PULLED_MAX: usize = 4096;
/// Bytes of frames of such calls; while there are more, nothing is granted.
pub const PULLED_BYTES_MAX: usize = 64 << 20;
/// What a place keeps of its memory for the next call.
const FRAME_BYTES_KEPT: usize = 4 << 10;

/// A pulled call: its place here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PulledRef(pub u32);

/// The connection over which a call came: of that link, its how-manieth.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Via {
    /// Number of the link.
    pub link: u16,
    /// Counts its connections.
    pub generation: u32,
}

/// Where a call is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    Free,
    /// The scheduler has not asked for it yet.
    Waiting,
    /// In the scheduler.
    Offered,
    /// On a core.
    Running(CoreRef),
}

struct Slot {
    place: Place,
    via: Via,
    function: FunctionRef,
    /// The lease, header and submit frame, as it came.
    frame: FrameBuf,
}

/// All pulled calls. See the module.
pub struct Pulled {
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// Looked up and never iterated, so its order decides nothing.
    by_lease: HashMap<(CallId, Epoch), u32, BuildHasherDefault<DefaultHasher>>,
    waiting: BTreeMap<FunctionRef, VecDeque<u32>>,
    waiting_len: usize,
    /// How many are here of each function.
    of: BTreeMap<FunctionRef, u32>,
    bytes: usize,
}

impl Pulled {
    /// Room for `max` calls.
    pub fn new(max: usize) -> Pulled {
        let via = Via { link: 0, generation: 0 };
        let slot = || Slot { place: Place::Free, via, function: FunctionRef(0), frame: FrameBuf::new() };
        Pulled {
            slots: (0..max).map(|_| slot()).collect(),
            free: (0..max as u32).rev().collect(),
            by_lease: HashMap::with_capacity_and_hasher(max, BuildHasherDefault::default()),
            waiting: BTreeMap::new(),
            waiting_len: 0,
            of: BTreeMap::new(),
            bytes: 0,
        }
    }

    /// How many are here.
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many more may come.
    pub fn room(&self) -> usize {
        if self.bytes < PULLED_BYTES_MAX { self.free.len() } else { 0 }
    }

    /// How many the scheduler has not asked for yet.
    pub fn waiting(&self) -> usize {
        self.waiting_len
    }

    /// A leased call came. `None` if there is no place, or this very lease is here.
    pub fn admit(&mut self, via: Via, function: FunctionRef, lease: &Frame<'_>) -> Option<PulledRef> {
        let key = (lease.call(), lease.epoch());
        if self.by_lease.contains_key(&key) {
            return None;
        }
        let at = self.free.pop()?;
        let slot = &mut self.slots[at as usize];
        (slot.place, slot.via, slot.function) = (Place::Waiting, via, function);
        slot.frame.extend_from_slice(lease.bytes());
        self.bytes += slot.frame.len();
        self.by_lease.insert(key, at);
        self.waiting.entry(function).or_default().push_back(at);
        self.waiting_len += 1;
        *self.of.entry(function).or_default() += 1;
        Some(PulledRef(at))
    }

    /// How many of a function are here.
    pub fn len_of(&self, function: FunctionRef) -> u32 {
        self.of.get(&function).copied().unwrap_or(0)
    }

    /// The oldest waiting call of a function goes to the scheduler.
    pub fn poll(&mut self, function: FunctionRef) -> Option<PulledRef> {
        let at = self.waiting.get_mut(&function)?.pop_front()?;
        self.waiting_len -= 1;
        self.slots[at as usize].place = Place::Offered;
        Some(PulledRef(at))
    }

    /// Whether calls of a function wait.
    pub fn has_waiting(&self, function: FunctionRef) -> bool {
        self.waiting.get(&function).is_some_and(|waiting| !waiting.is_empty())
    }

    /// A call goes to a core.
    pub fn run(&mut self, at: PulledRef, core: CoreRef) {
        let place = &mut self.slots[at.0 as usize].place;
        assert_eq!(*place, Place::Offered, "the scheduler dispatches what it was offered");
        *place = Place::Running(core);
    }

    /// The core that a call is on.
    pub fn core(&self, at: PulledRef) -> Option<CoreRef> {
        if let Place::Running(core) = self.slots[at.0 as usize].place { Some(core) } else { None }
    }

    /// The call on a core with this lease.
    pub fn running(&self, call: CallId, epoch: Epoch) -> Option<PulledRef> {
        let at = *self.by_lease.get(&(call, epoch))?;
        matches!(self.slots[at as usize].place, Place::Running(_)).then_some(PulledRef(at))
    }

    /// How many are on cores.
    pub fn running_len(&self) -> usize {
        self.slots.iter().filter(|slot| matches!(slot.place, Place::Running(_))).count()
    }

    /// The lease frame of a call.
    pub fn lease(&self, at: PulledRef) -> Frame<'_> {
        Frame::parsed_before(&self.slots[at.0 as usize].frame)
    }

    /// Over which connection a call came.
    pub fn via(&self, at: PulledRef) -> Via {
        self.slots[at.0 as usize].via
    }

    /// Of which function it is.
    pub fn function(&self, at: PulledRef) -> FunctionRef {
        self.slots[at.0 as usize].function
    }

    /// A call that the scheduler has let go of is gone.
    ///
    /// # Panics
    /// If the scheduler never had it.
    pub fn remove(&mut self, at: PulledRef) {
        let slot = &mut self.slots[at.0 as usize];
        let was = std::mem::replace(&mut slot.place, Place::Free);
        assert!(
            matches!(was, Place::Offered | Place::Running(_)),
            "the scheduler lets go of what it was offered"
        );
        let lease = Frame::parsed_before(&slot.frame);
        self.by_lease.remove(&(lease.call(), lease.epoch()));
        self.bytes -= slot.frame.len();
        if slot.frame.capacity() > FRAME_BYTES_KEPT {
            slot.frame = FrameBuf::new();
        }
        slot.frame.clear();
        *self.of.get_mut(&slot.function).expect("it was counted") -= 1;
        self.free.push(at.0);
    }

    /// Panics if an invariant does not hold. For tests: it walks over everything.
    pub fn check(&self) {
        let of = |place| self.slots.iter().filter(move |slot| slot.place == place);
        assert_eq!(of(Place::Free).count(), self.free.len(), "free places");
        assert_eq!(of(Place::Waiting).count(), self.waiting_len, "waiting calls");
        assert_eq!(self.waiting.values().map(VecDeque::len).sum::<usize>(), self.waiting_len);
        assert_eq!(self.by_lease.len(), self.len(), "each lease is found");
        assert_eq!(self.of.values().sum::<u32>() as usize, self.len(), "by function");
        assert_eq!(self.slots.iter().map(|slot| slot.frame.len()).sum::<usize>(), self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use call::frame::{Header, Kind, append};
    use proptest::prelude::*;

    const VIA: Via = Via { link: 1, generation: 7 };

    fn lease(call: u128, epoch: u64, body: usize) -> FrameBuf {
        let mut out = FrameBuf::new();
        let header = Header { call: CallId(call), stamp: epoch, ..Header::new(Kind::Lease) };
        append(&mut out, &header, &vec![1; body]);
        out
    }

    fn admit(pulled: &mut Pulled, call: u128, epoch: u64, body: usize) -> Option<PulledRef> {
        let frame = lease(call, epoch, body);
        let function = FunctionRef((call % 3) as u32);
        pulled.admit(VIA, function, &Frame::parse(&frame).unwrap().0)
    }

    proptest! {
        #[test]
        fn each_lease_is_held_once_and_let_go_once(
            steps in prop::collection::vec((0u128..12, 0u64..3, 0usize..3, 0usize..9000), 1..120),
        ) {
            let mut pulled = Pulled::new(8);
            let (mut held, mut offered) = (BTreeMap::new(), Vec::new());
            for (call, epoch, what, body) in steps {
                let key = (CallId(call), Epoch(epoch));
                match what {
                    0 => {
                        let fits = held.len() < 8 && !held.contains_key(&key);
                        let at = admit(&mut pulled, call, epoch, body);
                        prop_assert_eq!(at.is_some(), fits);
                        if at.is_some() {
                            held.insert(key, body);
                        }
                    }
                    1 => offered.extend(pulled.poll(FunctionRef((call % 3) as u32))),
                    _ => if let Some(at) = offered.pop() {
                        let lease = pulled.lease(at);
                        let key = (lease.call(), lease.epoch());
                        prop_assert_eq!(held.remove(&key), Some(lease.body().len()));
                        prop_assert_eq!(pulled.running(key.0, key.1), None);
                        pulled.run(at, CoreRef(3));
                        prop_assert_eq!(pulled.core(at), Some(CoreRef(3)));
                        prop_assert_eq!(pulled.running(key.0, key.1), Some(at));
                        prop_assert_eq!((pulled.via(at), pulled.function(at).0), (VIA, (key.0.0 % 3) as u32));
                        pulled.remove(at);
                        prop_assert_eq!(pulled.running(key.0, key.1), None);
                    },
                }
                prop_assert_eq!(pulled.len(), held.len());
                pulled.check();
            }
        }
    }

    #[test]
    fn large_calls_stop_the_grants() {
        let mut pulled = Pulled::new(64);
        for call in 0..17 {
            admit(&mut pulled, call, 1, 4 << 20);
        }
        assert_eq!((pulled.room(), pulled.len()), (0, 17));
        let at = pulled.poll(FunctionRef(0)).unwrap();
        pulled.remove(at);
        assert_eq!(pulled.room(), 0, "a little more than the bound is still here");
        let at = pulled.poll(FunctionRef(1)).unwrap();
        pulled.remove(at);
        assert_eq!(pulled.room(), 64 - 15);
    }

    #[test]
    #[should_panic(expected = "lets go of what it was offered")]
    fn canary_remove() {
        let mut pulled = Pulled::new(1);
        let at = admit(&mut pulled, 1, 1, 10).unwrap();
        pulled.remove(at);
    }
}
