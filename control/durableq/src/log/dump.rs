//! Reading a segment offline, group by group: for people and tools. Follows no chain: what is stale is shown too.

use super::group::{GROUP_ALIGN, GroupError, GroupHeader};
use call::frame::frame_bytes;
use call::{Frame, FrameError};

/// What stands in a segment, in the order of the file.
#[derive(Debug)]
pub enum Entry<'a> {
    /// A sound group.
    Group {
        /// Where it begins.
        offset: u64,
        /// Its header.
        header: GroupHeader,
    },
    /// A record of the group named last.
    Record {
        /// Where it begins.
        offset: u64,
        /// The record.
        frame: Frame<'a>,
    },
    /// Bytes of a record that begins in an earlier group or ends in a later one.
    Part {
        /// Where they begin.
        offset: u64,
        /// How many there are.
        bytes: usize,
    },
    /// Something else than zeros and groups: a torn write, or damage.
    Broken {
        /// Where.
        offset: u64,
        /// Why it is no group.
        error: GroupError,
    },
    /// A group's checksum holds, but this is not a record.
    NotARecord {
        /// Where.
        offset: u64,
        /// Why.
        error: FrameError,
    },
}

/// The entries of a segment whose bytes are these.
///
/// # Panics
/// If `bytes` do not begin at a multiple of 16 in memory.
pub fn dump(bytes: &[u8]) -> Dump<'_> {
    let aligned = bytes.is_empty() || (bytes.as_ptr() as usize).is_multiple_of(call::limits::FRAME_ALIGN);
    assert!(aligned, "frames are read in place: read the segment into an aligned buffer");
    Dump { bytes, at: 0, group_end: 0, part: 0, next_group: 0 }
}

/// See [`dump`].
#[derive(Debug)]
pub struct Dump<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Records of the group at hand go up to here.
    group_end: usize,
    /// So many bytes at `at` belong to a cut record.
    part: usize,
    next_group: usize,
}

impl<'a> Iterator for Dump<'a> {
    type Item = Entry<'a>;

    fn next(&mut self) -> Option<Entry<'a>> {
        if self.part > 0 {
            let (offset, bytes) = (self.at as u64, std::mem::take(&mut self.part));
            self.at += bytes;
            return Some(Entry::Part { offset, bytes });
        }
        if self.at < self.group_end { Some(self.record()) } else { self.group() }
    }
}

impl<'a> Dump<'a> {
    fn record(&mut self) -> Entry<'a> {
        let offset = self.at as u64;
        let rest = &self.bytes[self.at..self.group_end];
        match Frame::parse(rest) {
            Ok((frame, used)) => {
                self.at += used;
                Entry::Record { offset, frame }
            }
            Err(error) => {
                self.at = self.group_end;
                match frame_bytes(rest) {
                    Ok(Some(whole)) if whole > rest.len() => Entry::Part { offset, bytes: rest.len() },
                    _ => Entry::NotARecord { offset, error },
                }
            }
        }
    }

    fn group(&mut self) -> Option<Entry<'a>> {
        self.at = self.next_group;
        while self.at < self.bytes.len() {
            let (offset, rest) = (self.at as u64, &self.bytes[self.at..]);
            match GroupHeader::parse(rest) {
                Ok(header) => {
                    self.next_group = self.at + header.bytes_on_disk();
                    self.group_end = self.at + header.bytes as usize;
                    self.at += super::GROUP_HEADER_BYTES;
                    self.part = header.continues as usize;
                    return Some(Entry::Group { offset, header });
                }
                Err(error) => {
                    self.at += GROUP_ALIGN;
                    (self.next_group, self.group_end) = (self.at, 0);
                    if rest.iter().take(GROUP_ALIGN).any(|byte| *byte != 0) {
                        return Some(Entry::Broken { offset, error });
                    }
                }
            }
        }
        None
    }
}
