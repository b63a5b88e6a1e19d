//! What this shard still holds of slots that it had before: a walk over all calls and ends, a few in each round, again and
//! again as long as the map names it as a former owner.
//!
//! A slot is *clear* when a whole walk has found nothing of it. That is so for ever: this shard accepts no id of the slot
//! under the map in force, and none comes back. A call that was not seen as pending when its number was passed had ended
//! before, so its end is seen later in the walk, or was forgotten before; and an end counts as long as its record is not
//! on disk, since a crash would make its call pending again. A clear slot is told to whoever makes maps
//! ([`ShardState::clear`](call::admin::ShardState::clear)), who releases this shard from it by the next one.
//!
//! Pending calls, dead letters, and ends that are remembered for a set time (idempotency keys, kept outcomes) are
//! waited for however long they stay. Ends of no set time stand in a list that only further ends push out, and a shard
//! without slots has none: they are let go [`ShardOptions::remember`](super::ShardOptions::remember) after a walk has
//! found nothing else of the slot.

use crate::node::Node;
use call::shards::SLOTS;
use call::{CallId, Instant, ShardMap, Slot};
use driver::Driver;
use durableq::CallRef;
use std::time::Duration;

/// Calls or ends looked at in one round: some 100 us, if each of them has to come from memory.
const ROUND: usize = 1024;
/// From the end of a walk to the next one, at least: nobody waits for it.
const PAUSE: Duration = Duration::from_secs(1);
/// And so many times what the walk took: it is no burden, however many calls there are.
const PAUSE_SHARE: u32 = 50;

/// What a walk has found of a slot. The larger, the longer it is to be waited for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Holds {
    Nothing,
    /// Ends of no set time.
    Ends,
    /// What must end first.
    Calls,
}

/// Where a walk is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum At {
    Calls(u32),
    Retained(u32, u32),
    Ended(u32, u32),
    Over,
}

/// The walk, and what the ones before have found.
pub(super) struct Release {
    remember: Duration,
    /// Of each slot: whether this shard had it before.
    left: [bool; SLOTS],
    found: [Holds; SLOTS],
    /// Since when no walk has found more than ends of no set time; never if the last one has.
    since: [Instant; SLOTS],
    is_clear: [bool; SLOTS],
    at: At,
    begun: Instant,
    /// When the next walk begins.
    next: Instant,
}

impl Release {
    pub(super) fn new(remember: Duration) -> Release {
        Release {
            remember,
            left: [false; SLOTS],
            found: [Holds::Nothing; SLOTS],
            since: [Instant::NEVER; SLOTS],
            is_clear: [false; SLOTS],
            at: At::Over,
            begun: Instant(0),
            next: Instant::NEVER,
        }
    }

    /// A map is in force: what was found under an earlier one counts for slots that were left before, too.
    pub(super) fn map_in_force(&mut self, map: &ShardMap, number: Option<call::ShardId>) {
        let before = std::mem::replace(&mut self.left, [false; SLOTS]);
        for slot in number.into_iter().flat_map(|number| map.left_by(number)) {
            self.left[usize::from(slot)] = true;
        }
        for slot in (0..SLOTS).filter(|slot| self.left[*slot] != before[*slot]) {
            (self.since[slot], self.is_clear[slot]) = (Instant::NEVER, false);
        }
        // A walk that is under way may have passed calls that were accepted until now.
        self.at = At::Over;
        self.next = if self.left.contains(&true) { Instant(0) } else { Instant::NEVER };
    }

    /// Slots of which this shard holds nothing any more.
    pub(super) fn clear(&self) -> Vec<u8> {
        (0..=u8::MAX).filter(|slot| self.is_clear[usize::from(*slot)]).collect()
    }

    /// When it has something to do.
    pub(super) fn until(&self, now: Instant) -> Instant {
        if self.at == At::Over { self.next } else { now }
    }

    fn begin(&mut self, now: Instant) {
        (self.at, self.begun) = (At::Calls(0), now);
        self.found = [Holds::Nothing; SLOTS];
    }

    fn see(&mut self, call: CallId, holds: Holds) {
        let found = &mut self.found[usize::from(Slot::of(call).0)];
        *found = (*found).max(holds);
    }

    /// All has been looked at.
    fn end(&mut self, now: Instant) {
        for slot in (0..SLOTS).filter(|slot| self.left[*slot]) {
            let since = &mut self.since[slot];
            *since = if self.found[slot] == Holds::Calls { Instant::NEVER } else { (*since).min(self.begun) };
            let is_over = *since != Instant::NEVER && now >= *since + self.remember;
            self.is_clear[slot] |= self.found[slot] == Holds::Nothing || is_over;
        }
        self.at = At::Over;
        self.next = now + PAUSE.max((now - self.begun) * PAUSE_SHARE);
    }
}

impl<D: Driver> Node<D> {
    /// One round of the walk.
    pub(crate) fn turn_release(&mut self, now: Instant) {
        let release = &mut self.shards.release;
        if release.at == At::Over {
            if now < release.next {
                return;
            }
            release.begin(now);
        }
        for _ in 0..ROUND {
            let release = &mut self.shards.release;
            match release.at {
                At::Calls(number) if number < self.queue.numbers() => {
                    if let Some(view) = self.queue.view(CallRef(number)) {
                        release.see(view.id, Holds::Calls);
                    }
                    release.at = At::Calls(number + 1);
                }
                At::Calls(_) => {
                    let ends = self.queue.retained();
                    release.at = At::Retained(ends.start, ends.end);
                }
                At::Retained(at, end) if at != end => {
                    if let Some(call) = self.queue.retained_at(at) {
                        release.see(call, Holds::Calls);
                    }
                    release.at = At::Retained(at.wrapping_add(1), end);
                }
                At::Retained(..) => {
                    let ends = self.queue.ends();
                    release.at = At::Ended(ends.start, ends.end);
                }
                At::Ended(at, end) if at != end => {
                    if let Some((call, is_on_disk)) = self.queue.ended_at(at) {
                        release.see(call, if is_on_disk { Holds::Ends } else { Holds::Calls });
                    }
                    release.at = At::Ended(at.wrapping_add(1), end);
                }
                At::Ended(..) => return release.end(now),
                At::Over => return,
            }
        }
    }
}
