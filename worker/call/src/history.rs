//! What became of a call so far: the attempts of one that failed, as records of the log carry them.
//!
//! | offset | bytes | field | meaning |
//! |---|---|---|---|
//! | 0 | 4 | bytes | of head and attempts |
//! | 4 | 4 | earlier | attempts that were made before and are not listed |
//! | 8 | 1 | listed | attempts that follow, the oldest first, at most [`ATTEMPTS_MAX`] |
//! | 9 | 1 | partial | 1 if more were listed once: there was no memory for them |
//! | 10 | 6 | | zero |
//!
//! An attempt follows the one before without a gap:
//!
//! | offset | bytes | field | meaning |
//! |---|---|---|---|
//! | 0 | 8 | began | Unix ns: when it was leased |
//! | 8 | 8 | ended | Unix ns: when the queue heard of its end |
//! | 16 | 8 | ran | ns, as its core says; zero if it said nothing |
//! | 24 | 2 | number | which delivery it was, from 1; from 1 again after a redrive |
//! | 26 | 2 | text bytes | at most [`TEXT_BYTES_MAX`] |
//! | 28 | 1 | worker bytes | at most [`WORKER_BYTES_MAX`] |
//! | 29 | 1 | status | [`Status`] |
//! | 30 | 1 | flags | 1: the call was redriven since; 2: the middle of the text is left out |
//! | 31 | 1 | | zero |
//! | 32 | | worker, text | who ran it, UTF-8; what it said |
//!
//! In a record the checksum of its frame covers it. Nothing is allocated here.

use crate::frame::FrameError;
use crate::outcome::Status;
use crate::time::WallTime;

/// Attempts that are listed: the last ones. They show whether a call fails always alike, which is what is asked.
pub const ATTEMPTS_MAX: usize = 8;
/// Bytes of what an attempt said. Of a longer text the first half and the last: some put the reason into their first
/// line, others into the last one.
pub const TEXT_BYTES_MAX: usize = 256;
/// Bytes of a worker's name: a host name is seldom longer.
pub const WORKER_BYTES_MAX: usize = 64;
/// Bytes of the longest history.
pub const HISTORY_BYTES_MAX: usize =
    HEAD_BYTES + ATTEMPTS_MAX * (FIXED_BYTES + WORKER_BYTES_MAX + TEXT_BYTES_MAX);

const HEAD_BYTES: usize = 16;
const FIXED_BYTES: usize = 32;
const REDRIVEN: u8 = 1;
const CUT: u8 = 2;

/// One attempt to run a call that did not end well.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attempt<'a> {
    /// Which delivery of the call it was, from 1.
    pub number: u16,
    /// When it was leased.
    pub began: WallTime,
    /// When the queue heard of its end.
    pub ended: WallTime,
    /// How long it ran, ns, as its core says; zero if it said nothing.
    pub ran_ns: u64,
    /// How it ended.
    pub status: Status,
    /// Who ran it; empty if that is not known.
    pub worker: &'a str,
    /// What it said: its stderr, or the text of a trap.
    pub text: &'a [u8],
    /// The middle of the text is left out.
    pub cut: bool,
    /// The call was redriven since.
    pub redriven: bool,
}

impl Attempt<'_> {
    /// What it said, as text: bytes that are not UTF-8 are replaced, and an ellipsis stands for the middle that is left
    /// out.
    pub fn error(&self) -> String {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        if !self.cut {
            return text(self.text);
        }
        let (first, last) = self.text.split_at(self.text.len() / 2);
        format!("{} ... {}", text(first).trim_end(), text(last).trim_start())
    }
}

/// The attempts of a call, read in place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct History<'a> {
    /// Invariant: what [`History::parse`] accepts, and not a byte more.
    bytes: &'a [u8],
}

/// A history of which nothing is listed, since there was no memory for it.
const LOST: [u8; HEAD_BYTES] = [HEAD_BYTES as u8, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];

impl<'a> History<'a> {
    /// A history of which nothing is listed, since there was no memory for it.
    pub const LOST: History<'static> = History { bytes: &LOST };

    /// The history at the start of `bytes`, and what follows it.
    ///
    /// # Errors
    /// [`FrameError::Body`] if there is none.
    pub fn parse(bytes: &'a [u8]) -> Result<(History<'a>, &'a [u8]), FrameError> {
        let head = bytes.get(..HEAD_BYTES).ok_or(FrameError::Body)?;
        let whole = word(head, 0) as usize;
        let listed = usize::from(head[8]);
        let bounded = (HEAD_BYTES..=HISTORY_BYTES_MAX).contains(&whole) && listed <= ATTEMPTS_MAX;
        if !bounded || head[9] > 1 || head[10..] != [0; 6] {
            return Err(FrameError::Body);
        }
        let (own, behind) = bytes.split_at_checked(whole).ok_or(FrameError::Body)?;
        let mut rest = &own[HEAD_BYTES..];
        for _ in 0..listed {
            (_, rest) = attempt(rest).ok_or(FrameError::Body)?;
        }
        if rest.is_empty() { Ok((History { bytes: own }, behind)) } else { Err(FrameError::Body) }
    }

    /// A history that [`History::parse`] accepted before.
    pub fn parsed_before(bytes: &'a [u8]) -> History<'a> {
        debug_assert!(History::parse(bytes).is_ok_and(|(_, behind)| behind.is_empty()));
        History { bytes }
    }

    /// As it stands in a record.
    pub fn bytes(self) -> &'a [u8] {
        self.bytes
    }

    /// How many attempts were made before those that are listed, at least.
    pub fn earlier(self) -> u32 {
        word(self.bytes, 4)
    }

    /// Whether more of them were listed once, and given up since there was no memory.
    pub fn is_partial(self) -> bool {
        self.bytes[9] != 0
    }

    /// The attempts that are listed, the oldest first.
    pub fn attempts(self) -> impl Iterator<Item = Attempt<'a>> {
        self.entries().map(|(attempt, _)| attempt)
    }

    /// Each attempt, and its bytes.
    fn entries(self) -> impl Iterator<Item = (Attempt<'a>, &'a [u8])> {
        let mut rest = &self.bytes[HEAD_BYTES..];
        std::iter::from_fn(move || {
            let (found, behind) = attempt(rest)?;
            let own = &rest[..rest.len() - behind.len()];
            rest = behind;
            Some((found, own))
        })
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// The attempt at the start of `bytes`, and what follows it; `None` if there is none.
fn attempt(bytes: &[u8]) -> Option<(Attempt<'_>, &[u8])> {
    let (fixed, rest) = bytes.split_at_checked(FIXED_BYTES)?;
    let long = |at: usize| u64::from_le_bytes(fixed[at..at + 8].try_into().expect("eight bytes"));
    let short = |at: usize| u16::from_le_bytes([fixed[at], fixed[at + 1]]);
    let (text_bytes, worker_bytes, flags) = (usize::from(short(26)), usize::from(fixed[28]), fixed[30]);
    let bounded = text_bytes <= TEXT_BYTES_MAX && worker_bytes <= WORKER_BYTES_MAX;
    if !bounded || flags & !(REDRIVEN | CUT) != 0 || fixed[31] != 0 {
        return None;
    }
    let (worker, rest) = rest.split_at_checked(worker_bytes)?;
    let (text, rest) = rest.split_at_checked(text_bytes)?;
    let attempt = Attempt {
        number: short(24),
        began: WallTime(long(0)),
        ended: WallTime(long(8)),
        ran_ns: long(16),
        status: Status::from_wire(fixed[29])?,
        worker: std::str::from_utf8(worker).ok()?,
        text,
        cut: flags & CUT != 0,
        redriven: flags & REDRIVEN != 0,
    };
    Some((attempt, rest))
}

/// Where a history is written.
#[derive(Clone, Debug)]
pub struct HistoryBuf {
    bytes: [u8; HISTORY_BYTES_MAX],
    len: usize,
}

impl Default for HistoryBuf {
    fn default() -> HistoryBuf {
        HistoryBuf { bytes: [0; HISTORY_BYTES_MAX], len: 0 }
    }
}

impl HistoryBuf {
    /// Writes the history of `before`, if there is one, with another attempt behind it; of all of them the last.
    pub fn extend(&mut self, before: Option<History<'_>>, attempt: &Attempt<'_>) -> History<'_> {
        let before_listed = before.map_or(0, |before| before.entries().count());
        let dropped = (before_listed + 1).saturating_sub(ATTEMPTS_MAX);
        let partial = before.is_some_and(History::is_partial);
        let mut earlier = before.map_or(0, History::earlier).saturating_add(dropped as u32);
        self.len = HEAD_BYTES;
        let mut of_this_life = 1;
        for (kept, bytes) in before.into_iter().flat_map(History::entries).skip(dropped) {
            of_this_life += u32::from(!kept.redriven);
            self.push(bytes);
        }
        // Those of which nothing is known: an older version made them, or there was no memory at all.
        earlier = earlier.max(u32::from(attempt.number).saturating_sub(of_this_life));
        self.write(attempt);
        self.head(earlier, before_listed + 1 - dropped, partial)
    }

    /// What was written last.
    pub fn written(&self) -> History<'_> {
        History::parsed_before(&self.bytes[..self.len])
    }

    /// Writes what a history says.
    pub fn copy(&mut self, history: History<'_>) {
        self.len = 0;
        self.push(history.bytes());
    }

    /// Drops the oldest attempt of what was written, for want of memory. `None` if it is the only one.
    pub fn drop_oldest(&mut self) -> Option<History<'_>> {
        let written = self.written();
        let (earlier, listed) = (written.earlier().saturating_add(1), written.entries().count());
        let oldest = written.entries().next().filter(|_| listed > 1)?.1.len();
        self.bytes.copy_within(HEAD_BYTES + oldest..self.len, HEAD_BYTES);
        self.len -= oldest;
        Some(self.head(earlier, listed - 1, true))
    }

    /// Writes a history of which all attempts were made before a redrive.
    pub fn redriven(&mut self, before: History<'_>) -> History<'_> {
        self.len = HEAD_BYTES;
        let mut listed = 0;
        for (_, bytes) in before.entries() {
            let at = self.len;
            self.push(bytes);
            self.bytes[at + 30] |= REDRIVEN;
            listed += 1;
        }
        self.head(before.earlier(), listed, before.is_partial())
    }

    fn head(&mut self, earlier: u32, listed: usize, partial: bool) -> History<'_> {
        let whole = self.len as u32;
        self.bytes[..HEAD_BYTES].fill(0);
        self.bytes[0..4].copy_from_slice(&whole.to_le_bytes());
        self.bytes[4..8].copy_from_slice(&earlier.to_le_bytes());
        (self.bytes[8], self.bytes[9]) = (listed as u8, u8::from(partial));
        History::parsed_before(&self.bytes[..self.len])
    }

    fn push(&mut self, bytes: &[u8]) {
        self.bytes[self.len..][..bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    fn write(&mut self, attempt: &Attempt<'_>) {
        let (worker, text) = (worker_of(attempt.worker).as_bytes(), attempt.text);
        let half = TEXT_BYTES_MAX / 2;
        let cut = text.len() > TEXT_BYTES_MAX;
        let (first, last) = if cut { (&text[..half], &text[text.len() - half..]) } else { (text, &[][..]) };
        let mut fixed = [0; FIXED_BYTES];
        fixed[0..8].copy_from_slice(&attempt.began.0.to_le_bytes());
        fixed[8..16].copy_from_slice(&attempt.ended.0.to_le_bytes());
        fixed[16..24].copy_from_slice(&attempt.ran_ns.to_le_bytes());
        fixed[24..26].copy_from_slice(&attempt.number.to_le_bytes());
        fixed[26..28].copy_from_slice(&((first.len() + last.len()) as u16).to_le_bytes());
        (fixed[28], fixed[29]) = (worker.len() as u8, attempt.status as u8);
        fixed[30] = if cut || attempt.cut { CUT } else { 0 } | if attempt.redriven { REDRIVEN } else { 0 };
        [&fixed[..], worker, first, last].into_iter().for_each(|part| self.push(part));
    }
}

/// As much of a name as is kept.
fn worker_of(name: &str) -> &str {
    &name[..name.floor_char_boundary(WORKER_BYTES_MAX)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TRAP: Attempt<'static> = Attempt {
        number: 1,
        began: WallTime(5),
        ended: WallTime(9),
        ran_ns: 3,
        status: Status::Trap,
        worker: "host/0",
        text: b"unreachable",
        cut: false,
        redriven: false,
    };

    /// Attempts one after the other, as the queue notes them.
    fn history(buf: &mut HistoryBuf, attempts: &[Attempt<'_>]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for attempt in attempts {
            let before = (!bytes.is_empty()).then(|| History::parsed_before(&bytes));
            bytes = buf.extend(before, attempt).bytes().to_vec();
        }
        bytes
    }

    proptest! {
        #[test]
        fn the_last_attempts_are_listed(
            texts in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..600), "\\PC{0,40}"), 1..30),
            short_of in 0..ATTEMPTS_MAX,
        ) {
            let number = |at: usize| at as u16 + 1;
            let attempts: Vec<Attempt<'_>> = texts
                .iter()
                .enumerate()
                .map(|(at, (text, worker))| Attempt { number: number(at), text, worker, ..TRAP })
                .collect();
            let mut buf = HistoryBuf::default();
            let mut bytes = history(&mut buf, &attempts);
            for _ in 0..short_of {
                bytes = buf.drop_oldest().map_or(bytes, |fewer| fewer.bytes().to_vec());
            }
            let (read, behind) = History::parse(&bytes).unwrap();
            prop_assert!(behind.is_empty());
            let whole = attempts.len().min(ATTEMPTS_MAX);
            let kept = whole.saturating_sub(short_of).max(1);
            prop_assert_eq!(read.earlier() as usize, attempts.len() - kept);
            prop_assert_eq!(read.is_partial(), kept < whole);
            prop_assert_eq!(read.attempts().count(), kept);
            for (got, made) in read.attempts().zip(&attempts[attempts.len() - kept..]) {
                prop_assert_eq!(got.number, made.number);
                prop_assert!(made.worker.starts_with(got.worker));
                prop_assert_eq!(got.cut, made.text.len() > TEXT_BYTES_MAX);
                let half = got.text.len() / 2;
                prop_assert!(made.text.starts_with(&got.text[..half]) && made.text.ends_with(&got.text[half..]));
            }
        }

        #[test]
        fn bytes_that_are_no_history_are_refused(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            at in 0usize..200,
            value in any::<u8>(),
        ) {
            let _ = History::parse(&bytes).map(|(read, _)| read.attempts().count());
            let mut near = history(&mut HistoryBuf::default(), &[TRAP; 3]);
            let at = at % near.len();
            near[at] = value;
            if let Ok((read, _)) = History::parse(&near) {
                prop_assert_eq!(read.attempts().count(), usize::from(near[8]));
            }
            prop_assert!(History::parse(&near[..near.len() - 1]).is_err());
        }
    }

    #[test]
    fn a_redrive_is_seen() {
        let (mut buf, mut again) = (HistoryBuf::default(), HistoryBuf::default());
        let before = history(&mut buf, &[TRAP, Attempt { number: 2, ..TRAP }]);
        let marked = again.redriven(History::parsed_before(&before));
        assert!(marked.attempts().all(|attempt| attempt.redriven));
        let bytes = marked.bytes().to_vec();
        let read = buf.extend(Some(History::parsed_before(&bytes)), &TRAP);
        let seen: Vec<_> = read.attempts().map(|attempt| (attempt.number, attempt.redriven)).collect();
        assert_eq!((seen, read.earlier()), (vec![(1, true), (2, true), (1, false)], 0));
    }

    #[test]
    fn what_is_not_known_is_counted() {
        let mut buf = HistoryBuf::default();
        // Of an older version, which kept none; or nothing could be kept.
        for (before, partial) in [(None, false), (Some(History::LOST), true)] {
            let read = buf.extend(before, &Attempt { number: 4, ..TRAP });
            assert_eq!((read.earlier(), read.is_partial()), (3, partial));
        }
        assert_eq!(History::parse(History::LOST.bytes()), Ok((History::LOST, &[][..])));
    }
}
