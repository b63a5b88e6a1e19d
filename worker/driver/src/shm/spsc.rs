//! One side of a link: a ring to write, a ring to read, and two doorbells.
//!
//! Sleeping follows Dekker: who may sleep says so, fences, looks once more; who publishes fences and then looks
//! whether somebody sleeps. One of the two always sees the other.

use super::segment::Segment;
use std::mem::MaybeUninit;
use std::ptr::copy_nonoverlapping;
use std::sync::atomic::{AtomicU32, Ordering, fence};

/// Which end of the link this process is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Side {
    /// Made the memory.
    Client = 0,
    /// Was handed it.
    Acceptor = 1,
}

/// The peer's indices make no sense: it is broken or hostile, and the link ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Broken;

/// One end of a link. What decides about memory safety (`tail`, `head` of our own) is kept here, not in shared memory.
pub(crate) struct Link {
    segment: Segment,
    here: usize,
    there: usize,
    /// Bytes ever written by us; published up to `published`.
    tail: u64,
    published: u64,
    /// The peer's head when we last looked.
    peer_head: u64,
    /// Bytes ever read by us.
    head: u64,
}

impl Link {
    pub(crate) fn new(segment: Segment, side: Side) -> Link {
        let here = side as usize;
        Link { segment, here, there: 1 - here, tail: 0, published: 0, peer_head: 0, head: 0 }
    }

    /// Writes as much as fits; the peer sees it after [`Link::publish`].
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<usize, Broken> {
        let capacity = self.segment.ring_bytes();
        if capacity - ((self.tail - self.peer_head) as usize) < bytes.len() {
            self.look_at_peer_head()?;
        }
        let taken = bytes.len().min(capacity - (self.tail - self.peer_head) as usize);
        let at = (self.tail as usize) & (capacity - 1);
        let first = taken.min(capacity - at);
        let ring = self.segment.ring(self.here);
        // SAFETY: `at + first <= capacity` and `taken - first <= at`, so both copies stay in our ring, which no part
        // of `bytes` overlaps (it is mapped by this link alone); the peer may read it meanwhile, and then gets
        // bytes that it was not promised.
        unsafe {
            copy_nonoverlapping(bytes.as_ptr(), ring.add(at), first);
            copy_nonoverlapping(bytes.as_ptr().add(first), ring, taken - first);
        }
        self.tail += taken as u64;
        Ok(taken)
    }

    fn look_at_peer_head(&mut self) -> Result<(), Broken> {
        let head = self.segment.control().indices[self.here].head.0.load(Ordering::Acquire);
        // It only grows, and never beyond what it was shown.
        if head < self.peer_head || head > self.published {
            return Err(Broken);
        }
        self.peer_head = head;
        Ok(())
    }

    /// Whether a write would take a byte.
    pub(crate) fn has_space(&mut self) -> Result<bool, Broken> {
        self.look_at_peer_head()?;
        Ok(self.tail - self.peer_head < self.segment.ring_bytes() as u64)
    }

    /// Shows the peer what was written, and wakes it if it sleeps.
    pub(crate) fn publish(&mut self) {
        if self.published == self.tail {
            return;
        }
        self.published = self.tail;
        self.segment.control().indices[self.here].tail.0.store(self.tail, Ordering::Release);
        self.ring_if_waiting();
    }

    /// Bytes written and not shown yet.
    pub(crate) fn unpublished(&self) -> u64 {
        self.tail - self.published
    }

    /// The ring is full: asks the peer to ring when it has read. Look for space once more after this.
    pub(crate) fn ask_for_space(&mut self) {
        self.segment.control().indices[self.here].blocked.0.store(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Bytes that wait to be read.
    pub(crate) fn readable(&self) -> Result<usize, Broken> {
        let tail = self.segment.control().indices[self.there].tail.0.load(Ordering::Acquire);
        let waiting = tail.wrapping_sub(self.head);
        if waiting > self.segment.ring_bytes() as u64 { Err(Broken) } else { Ok(waiting as usize) }
    }

    /// Copies the next bytes out into private memory and frees their space. At most [`Link::readable`] said.
    pub(crate) fn read(&mut self, into: &mut [MaybeUninit<u8>]) {
        let capacity = self.segment.ring_bytes();
        assert!(into.len() <= capacity);
        let at = (self.head as usize) & (capacity - 1);
        let first = into.len().min(capacity - at);
        let ring = self.segment.ring(self.there);
        // SAFETY: `at + first <= capacity` and the rest is shorter than the ring, so both reads stay in the peer's
        // ring, which is mapped for the link's life. The peer may change the bytes meanwhile; the copy is then of
        // some bytes, which is all that is promised, and nobody looks at them in place.
        unsafe {
            copy_nonoverlapping(ring.add(at), into.as_mut_ptr().cast(), first);
            copy_nonoverlapping(ring, into.as_mut_ptr().add(first).cast(), into.len() - first);
        }
        self.head += into.len() as u64;
        let indices = &self.segment.control().indices[self.there];
        indices.head.0.store(self.head, Ordering::Release);
        fence(Ordering::SeqCst);
        if indices.blocked.0.load(Ordering::Relaxed) == 1 && indices.blocked.0.swap(0, Ordering::AcqRel) == 1
        {
            self.ring_if_waiting();
        }
    }

    fn ring_if_waiting(&self) {
        fence(Ordering::SeqCst);
        let doorbell = &self.segment.control().doorbells[self.there];
        if doorbell.waiting.load(Ordering::Relaxed) == 1 && doorbell.waiting.swap(0, Ordering::AcqRel) == 1 {
            ring(&doorbell.bell);
        }
    }

    /// This side may sleep: the peer rings from now on. Look once more after this, then wait for the returned word
    /// to differ from the returned value.
    pub(crate) fn prepare_to_sleep(&self) -> (*const u32, u32) {
        let doorbell = &self.segment.control().doorbells[self.here];
        let heard = doorbell.bell.load(Ordering::Acquire);
        doorbell.waiting.store(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        (doorbell.bell.as_ptr(), heard)
    }

    /// This side is awake: ringing would be a wasted system call.
    pub(crate) fn awake(&self) {
        self.segment.control().doorbells[self.here].waiting.store(0, Ordering::Relaxed);
    }

    /// What only a hostile peer does.
    #[cfg(test)]
    pub(crate) fn lie_about_tail(&self, tail: u64) {
        self.segment.control().indices[self.here].tail.0.store(tail, Ordering::Release);
    }

    /// Ends our own wait.
    pub(crate) fn ring_own_bell(&self) {
        ring(&self.segment.control().doorbells[self.here].bell);
    }
}

fn ring(bell: &AtomicU32) {
    bell.fetch_add(1, Ordering::Release);
    // SAFETY: the word is mapped; waking changes no memory.
    unsafe { libc::syscall(libc::SYS_futex, bell.as_ptr(), libc::FUTEX_WAKE, 1) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pair(ring_bytes: usize) -> (Link, Link) {
        let (segment, fd) = Segment::create(ring_bytes).unwrap();
        (Link::new(segment, Side::Client), Link::new(Segment::accept(fd).unwrap(), Side::Acceptor))
    }

    fn read(link: &mut Link, at_most: usize) -> Vec<u8> {
        let bytes = link.readable().unwrap().min(at_most);
        let mut out = vec![MaybeUninit::new(0); bytes];
        link.read(&mut out);
        // SAFETY: they were initialised with zeros.
        out.iter().map(|byte| unsafe { byte.assume_init() }).collect()
    }

    proptest! {
        #[test]
        fn the_stream_comes_out_as_it_went_in(
            steps in prop::collection::vec((0usize..6000, 0usize..6000), 1..60)
        ) {
            let (mut client, mut acceptor) = pair(4096);
            let (mut sent, mut got) = (0u64, 0u64);
            for (write, take) in steps {
                let bytes: Vec<u8> = (0..write as u64).map(|n| ((sent + n) % 251) as u8).collect();
                sent += client.write(&bytes).unwrap() as u64;
                prop_assert!(sent - got <= 4096);
                client.publish();
                for byte in read(&mut acceptor, take) {
                    prop_assert_eq!(byte, (got % 251) as u8);
                    got += 1;
                }
            }
        }
    }

    #[test]
    fn nothing_is_seen_before_it_is_published_and_both_ways_are_apart() {
        let (mut client, mut acceptor) = pair(4096);
        client.write(b"there").unwrap();
        assert_eq!(acceptor.readable(), Ok(0));
        client.publish();
        acceptor.write(b"back").unwrap();
        acceptor.publish();
        assert_eq!((read(&mut acceptor, 99), read(&mut client, 99)), (b"there".to_vec(), b"back".to_vec()));
    }

    #[test]
    fn hostile_indices_end_the_link_and_nothing_else() {
        let (mut client, acceptor) = pair(4096);
        let indices = |side: usize| &acceptor.segment.control().indices[side];
        for tail in [4097, u64::MAX, u64::MAX / 2] {
            indices(1).tail.0.store(tail, Ordering::Release);
            assert_eq!(client.readable(), Err(Broken));
        }
        for head in [1, u64::MAX] {
            indices(0).head.0.store(head, Ordering::Release);
            assert_eq!(client.has_space(), Err(Broken));
            assert_eq!(client.write(&[0; 5000]), Err(Broken));
        }
    }

    #[test]
    fn a_sleeper_is_rung_once() {
        let (mut client, acceptor) = pair(4096);
        let (_, heard) = acceptor.prepare_to_sleep();
        for _ in 0..3 {
            client.write(b"x").unwrap();
            client.publish();
        }
        assert_eq!(acceptor.prepare_to_sleep().1, heard + 1);
    }
}
