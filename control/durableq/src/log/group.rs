//! A group: what one write carries.

use std::fmt;

/// `MLRG` as it stands in memory.
pub const MAGIC: [u8; 4] = *b"MLRG";
/// The version of the group header and of the records' meaning.
pub const VERSION: u8 = 2;
/// Bytes of a group's header: one cache line, and a multiple of the alignment of frames.
pub const GROUP_HEADER_BYTES: usize = 64;
/// Groups start at multiples of this, and are written in multiples of it: what direct I/O asks for.
pub const GROUP_ALIGN: usize = 4096;

const _: () = assert!(GROUP_HEADER_BYTES.is_multiple_of(call::limits::FRAME_ALIGN));

/// The header of a group. The table of [`crate::log`] says where each field stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GroupHeader {
    /// Bytes of header and records, without the zeros up to the next multiple of [`GROUP_ALIGN`].
    pub bytes: u32,
    /// Its place in the log; one more than that of the group before it.
    pub sequence: u64,
    /// Which start of the queue wrote it.
    pub incarnation: u32,
    /// So many bytes behind the header belong to a record that began in an earlier group.
    pub continues: u32,
    /// When it was written, the groups up to this one were known to be on disk.
    pub durable: u64,
    /// The number of the segment it was written to: in a file that got another number since, it is stale.
    pub segment: u64,
    /// Of the log. No client knows it, so no client can write a record that looks like a group.
    pub key: u64,
    /// The number of a segment from which on the log says everything, by a checkpoint that was on disk when this group was
    /// written; 0 for the oldest one.
    pub from: u64,
}

/// Why bytes are not a group. Each of these means the same to a reader: the log does not go on here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GroupError {
    /// Fewer bytes than the header says; more may be in the file.
    Short,
    /// Not the magic: never written.
    Magic,
    /// Another version.
    Version(u8),
    /// Lengths that cannot be, or reserved bytes that are not zero.
    Malformed,
    /// The checksum does not match: torn, or broken later.
    Crc,
}

impl fmt::Display for GroupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GroupError::Short => f.write_str("the group is cut off"),
            GroupError::Magic => f.write_str("no group was written here"),
            GroupError::Version(v) => write!(f, "group version {v}, this build reads {VERSION}"),
            GroupError::Malformed => f.write_str("the group's header is malformed"),
            GroupError::Crc => f.write_str("the group's checksum does not match: it is torn or damaged"),
        }
    }
}

impl std::error::Error for GroupError {}

impl GroupHeader {
    /// Writes the header in front of the records that stand in `block` already, and the checksum over all of it.
    pub fn seal(&self, block: &mut [u8]) {
        let head = &mut block[..GROUP_HEADER_BYTES];
        head.fill(0);
        head[0..4].copy_from_slice(&MAGIC);
        head[4] = VERSION;
        head[12..16].copy_from_slice(&self.bytes.to_le_bytes());
        head[16..24].copy_from_slice(&self.sequence.to_le_bytes());
        head[24..28].copy_from_slice(&self.incarnation.to_le_bytes());
        head[28..32].copy_from_slice(&self.continues.to_le_bytes());
        head[32..40].copy_from_slice(&self.durable.to_le_bytes());
        head[40..48].copy_from_slice(&self.segment.to_le_bytes());
        head[48..56].copy_from_slice(&self.key.to_le_bytes());
        head[56..64].copy_from_slice(&self.from.to_le_bytes());
        let crc = checksum(&block[..self.bytes as usize]);
        block[8..12].copy_from_slice(&crc.to_le_bytes());
    }

    /// Reads the group at the start of `bytes`: its header is sound and its checksum holds for all of it.
    pub fn parse(bytes: &[u8]) -> Result<GroupHeader, GroupError> {
        let head = bytes.get(..GROUP_HEADER_BYTES).ok_or(GroupError::Short)?;
        let header = GroupHeader::read(head)?;
        let whole = bytes.get(..header.bytes as usize).ok_or(GroupError::Short)?;
        let said = u32::from_le_bytes(head[8..12].try_into().expect("four bytes"));
        if checksum(whole) == said { Ok(header) } else { Err(GroupError::Crc) }
    }

    fn read(head: &[u8]) -> Result<GroupHeader, GroupError> {
        if head[0..4] != MAGIC {
            return Err(GroupError::Magic);
        }
        if head[4] != VERSION {
            return Err(GroupError::Version(head[4]));
        }
        let u32_at = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("four bytes"));
        let u64_at = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("eight bytes"));
        let header = GroupHeader {
            bytes: u32_at(12),
            sequence: u64_at(16),
            incarnation: u32_at(24),
            continues: u32_at(28),
            durable: u64_at(32),
            segment: u64_at(40),
            key: u64_at(48),
            from: u64_at(56),
        };
        header.plausible(head)?;
        Ok(header)
    }

    /// The group that would be there if all of it was: its header is sound, its checksum was not looked at.
    pub fn claimed(bytes: &[u8]) -> Option<GroupHeader> {
        let head = bytes.get(..GROUP_HEADER_BYTES)?;
        GroupHeader::read(head).ok()
    }

    fn plausible(&self, head: &[u8]) -> Result<(), GroupError> {
        let bytes = self.bytes as usize;
        let sound = head[5..8] == [0; 3]
            && bytes > GROUP_HEADER_BYTES
            && bytes.is_multiple_of(call::limits::FRAME_ALIGN)
            && self.continues as usize <= bytes - GROUP_HEADER_BYTES
            && (self.continues as usize).is_multiple_of(call::limits::FRAME_ALIGN)
            && (1..u32::MAX).contains(&self.incarnation)
            && self.durable < self.sequence
            && self.sequence < u64::MAX
            && self.from <= self.segment;
        if sound { Ok(()) } else { Err(GroupError::Malformed) }
    }

    /// Bytes on disk, with the zeros behind the records.
    pub fn bytes_on_disk(&self) -> usize {
        (self.bytes as usize).next_multiple_of(GROUP_ALIGN)
    }
}

/// CRC-32C of everything but the four bytes in which it stands.
fn checksum(group: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&group[..8]), &group[12..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group() -> (GroupHeader, Vec<u8>) {
        let mut block = vec![7; GROUP_ALIGN];
        let header = GroupHeader {
            bytes: 160,
            sequence: 9,
            incarnation: 2,
            continues: 32,
            durable: 7,
            segment: 3,
            key: 0x1234_5678_9abc_def0,
            from: 2,
        };
        header.seal(&mut block);
        (header, block)
    }

    #[test]
    fn a_sealed_group_is_read_back() {
        let (header, block) = group();
        assert_eq!(GroupHeader::parse(&block), Ok(header));
        assert_eq!(header.bytes_on_disk(), GROUP_ALIGN);
    }

    #[test]
    fn each_flipped_bit_of_a_group_is_noticed() {
        let (header, block) = group();
        for bit in 0..header.bytes as usize * 8 {
            let mut bad = block.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(GroupHeader::parse(&bad).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn each_cut_of_a_group_is_noticed() {
        let (header, block) = group();
        for len in 0..header.bytes as usize {
            assert_eq!(GroupHeader::parse(&block[..len]), Err(GroupError::Short), "{len}");
        }
    }
}
