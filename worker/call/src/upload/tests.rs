//! Both ends with a bad way between them: what is named is byte for byte what was sent, and it gets there.

use super::*;
use crate::blob::BlobId;
use crate::random::Random;
use proptest::prelude::*;

/// A small piece stands for [`PIECE_BYTES`] of them: byte `n` of a result is `n / PIECE_BYTES`, and its length counts.
type Pieces = Vec<(u64, u64)>;

/// What goes over the way.
#[derive(Clone, Copy, Debug)]
enum Word {
    Keep(usize, Part),
    Kept(usize, u64),
    Name(usize, Reference),
}

/// Some cores, a store, and what is between them.
struct World {
    random: Random,
    now: Instant,
    senders: Vec<Option<Sender>>,
    /// What each of them has to send.
    bytes: Vec<u64>,
    receiver: Receiver,
    /// The files of the store.
    files: Vec<Pieces>,
    there: VecDeque<Word>,
    back: VecDeque<Word>,
    /// Words that are lost, of a hundred.
    loss: u64,
    /// What was named for each.
    named: Vec<Option<Pieces>>,
    /// A planted fault: what the store has already it appends once more.
    is_forgetful: bool,
}

impl World {
    fn new(seed: u64, bytes: Vec<u64>, places: usize, loss: u64) -> World {
        let senders = bytes.iter().map(|bytes| Some(Sender::new(*bytes, Instant(0)))).collect();
        World {
            random: Random::new(seed),
            now: Instant(0),
            senders,
            named: vec![None; bytes.len()],
            bytes,
            receiver: Receiver::new(places),
            files: vec![Vec::new(); places],
            there: VecDeque::new(),
            back: VecDeque::new(),
            loss,
            is_forgetful: false,
        }
    }

    fn lease(of: usize) -> Lease {
        Lease { call: CallId(of as u128 + 1), epoch: Epoch(7) }
    }

    fn is_lost(&mut self) -> bool {
        self.random.below(100) < self.loss
    }

    fn step(&mut self) {
        self.now = self.now + Duration::from_millis(self.random.below(400));
        for of in 0..self.senders.len() {
            let now = self.now;
            let part = self.senders[of].as_mut().and_then(|sender| sender.due(now));
            if let Some(part) = part.filter(|_| !self.is_lost()) {
                self.there.push_back(Word::Keep(of, part));
            }
        }
        for _ in 0..self.random.below(4) {
            if let Some(Word::Keep(of, part)) = self.there.pop_front() {
                let word = self.take(of, part);
                let is_lost = self.is_lost();
                self.back.extend(word.filter(|_| !is_lost));
            }
        }
        while let Some(place) = self.receiver.idle(self.now) {
            self.files[place].clear();
        }
        for _ in 0..self.random.below(4) {
            match self.back.pop_front() {
                Some(Word::Kept(of, has)) => {
                    let now = self.now;
                    self.senders[of].iter_mut().for_each(|sender| sender.told(has, now));
                }
                Some(Word::Name(of, blob)) => {
                    assert_eq!(blob.bytes, self.bytes[of], "the name is of all of it");
                    self.senders[of] = None;
                }
                _ => {}
            }
        }
        self.receiver.check();
    }

    /// The store reads a piece, and does as it is told.
    fn take(&mut self, of: usize, part: Part) -> Option<Word> {
        let taken = self.receiver.piece(World::lease(of), part, self.now);
        match taken {
            Taken::Begin(place) | Taken::Append(place) => {
                if let Taken::Begin(_) = taken {
                    self.files[place].clear();
                }
                self.files[place].push((part.offset, part.bytes));
                Some(self.told(of, place))
            }
            Taken::Has(has) => {
                if self.is_forgetful && has > 0 {
                    self.files.iter_mut().for_each(|file| file.push((part.offset, part.bytes)));
                }
                Some(Word::Kept(of, has))
            }
            Taken::Whole(place) => Some(self.told(of, place)),
            Taken::Named(blob) => Some(Word::Name(of, blob)),
            Taken::NoRoom => None,
            Taken::Malformed => panic!("a sender says {part:?}"),
        }
    }

    fn told(&mut self, of: usize, place: usize) -> Word {
        let (has, is_whole) = self.receiver.has(place);
        // Its name waits for others now and then.
        if !is_whole || self.random.below(3) == 0 {
            return Word::Kept(of, has);
        }
        assert_eq!(self.receiver.standing(World::lease(of)), Some(Standing::Whole(place)));
        let pieces = std::mem::take(&mut self.files[place]);
        let blob =
            Reference { id: BlobId([of as u8; 32]), bytes: pieces.iter().map(|(_, bytes)| bytes).sum() };
        assert_eq!(pieces, whole(self.bytes[of]), "what is named is byte for byte what was sent");
        self.named[of] = Some(pieces);
        self.receiver.named(World::lease(of), blob);
        assert_eq!(self.receiver.standing(World::lease(of)), Some(Standing::Named(blob)));
        if self.random.below(20) == 0 {
            // Collected before its core heard of it: it comes anew.
            self.receiver.forget(World::lease(of));
            return Word::Kept(of, 0);
        }
        Word::Name(of, blob)
    }

    /// Until all have heard their names.
    fn run(&mut self, restarts: u64) {
        let mut restarts = restarts;
        for _ in 0..20_000 {
            if self.senders.iter().all(Option::is_none) {
                return assert!(self.named.iter().all(Option::is_some));
            }
            if restarts > 0 && self.random.below(40) == 0 {
                restarts -= 1;
                self.receiver = Receiver::new(self.files.len());
                (self.there, self.back) = (VecDeque::new(), VecDeque::new());
            }
            self.step();
        }
        panic!("it never got there: {:?}", self.senders);
    }
}

/// A result as its pieces.
fn whole(bytes: u64) -> Pieces {
    let starts = (0..bytes).step_by(PIECE_BYTES);
    starts.map(|offset| (offset, (bytes - offset).min(PIECE_BYTES as u64))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn what_is_sent_gets_there_whatever_the_way(
        seed: u64,
        bytes in prop::collection::vec(1u64..(9 * PIECE_BYTES as u64), 1..6),
        places in 1usize..4,
        loss in 0u64..40,
        restarts in 0u64..4,
    ) {
        World::new(seed, bytes, places, loss).run(restarts);
    }

    #[test]
    fn whatever_is_said_a_receiver_stands(
        words in prop::collection::vec((0usize..4, 0u64..12, 0u64..3, 0u16..5, any::<bool>()), 1..200),
    ) {
        let mut receiver = Receiver::new(2);
        let mut now = Instant(0);
        for (of, piece, more, following, is_odd) in words {
            now = now + Duration::from_secs(more);
            let offset = piece * PIECE_BYTES as u64 + u64::from(is_odd && piece == 11);
            let bytes = if is_odd { 1 + more } else { PIECE_BYTES as u64 };
            match receiver.piece(World::lease(of), Part { offset, bytes, following }, now) {
                Taken::Begin(place) | Taken::Append(place) | Taken::Whole(place) => {
                    let (has, is_whole) = receiver.has(place);
                    prop_assert!(has > 0);
                    if is_whole && more == 0 {
                        receiver.named(World::lease(of), Reference { id: BlobId([1; 32]), bytes: has });
                    }
                }
                _ => {}
            }
            while receiver.idle(now).is_some() {}
            receiver.check();
        }
        while receiver.idle(now + IDLE).is_some() {}
        prop_assert!(receiver.is_empty(), "nothing stays of what nobody sends");
    }
}

#[test]
#[should_panic(expected = "what is named is byte for byte what was sent")]
fn canary_a_store_that_appends_what_it_has_is_caught() {
    for seed in 0..50 {
        let mut world = World::new(seed, vec![5 * PIECE_BYTES as u64 + 3], 1, 30);
        world.is_forgetful = true;
        world.run(0);
    }
}

#[test]
fn a_sender_hears_the_same_word_twice_and_sends_once() {
    let piece = PIECE_BYTES as u64;
    let mut sender = Sender::new(3 * piece, Instant(0));
    assert_eq!(sender.due(Instant(0)), Some(Part { offset: 0, bytes: piece, following: 2 }));
    assert_eq!((sender.due(Instant(1)), sender.alarm()), (None, Instant(0) + AGAIN));
    sender.told(piece, Instant(5));
    assert_eq!(sender.due(Instant(5)).map(|part| part.offset), Some(piece));
    sender.told(piece, Instant(6));
    assert_eq!(sender.due(Instant(6)), None);
    // Words that no store says.
    for has in [piece + 1, 3 * piece, 4 * piece] {
        sender.told(has, Instant(7));
        assert_eq!(sender.due(Instant(7)), None);
    }
    // A store that was started anew.
    sender.told(0, Instant(8));
    assert_eq!(sender.due(Instant(8)).map(|part| part.offset), Some(0));
    assert!(sender.is_late(Instant(5) + PATIENCE) && !sender.is_late(Instant(4) + PATIENCE));
}
