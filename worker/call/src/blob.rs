//! Blobs: large arguments and results, which are not in a call's frame. The frame names them by content, and a store
//! of the node has them.

use crate::body::{self, ArchivedArguments};
use crate::frame::{Frame, FrameError, flag};
use std::fmt;
use std::str::FromStr;

/// Bytes of a [`Reference`] as it stands in a frame.
pub const REFERENCE_BYTES: usize = 40;
/// Bytes of one piece of a blob on its way: as many as a group of the log, so that a call's frames never wait longer for
/// a piece than for the disk.
pub const PIECE_BYTES: usize = 256 << 10;

/// SHA-256 of a blob.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlobId(pub [u8; 32]);

impl fmt::Display for BlobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for BlobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// The text is not a blob's name: 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotABlobId;

impl fmt::Display for NotABlobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a blob's name is its SHA-256, 64 lower-case hex digits")
    }
}

impl FromStr for BlobId {
    type Err = NotABlobId;
    fn from_str(text: &str) -> Result<BlobId, NotABlobId> {
        let digits = text.as_bytes();
        if digits.len() != 64 || !digits.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(NotABlobId);
        }
        let nibble = |digit: u8| if digit <= b'9' { digit - b'0' } else { digit - b'a' + 10 };
        let mut id = [0; 32];
        for (byte, pair) in id.iter_mut().zip(digits.chunks(2)) {
            *byte = nibble(pair[0]) << 4 | nibble(pair[1]);
        }
        Ok(BlobId(id))
    }
}

/// What stands in a frame instead of a blob: the SHA-256, then how many bytes it has, little-endian.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Reference {
    /// Which.
    pub id: BlobId,
    /// Its length.
    pub bytes: u64,
}

impl Reference {
    /// As it stands in a frame.
    pub fn to_bytes(self) -> [u8; REFERENCE_BYTES] {
        let mut out = [0; REFERENCE_BYTES];
        out[..32].copy_from_slice(&self.id.0);
        out[32..].copy_from_slice(&self.bytes.to_le_bytes());
        out
    }

    /// Back from [`Reference::to_bytes`].
    ///
    /// # Errors
    /// [`FrameError::Body`] if the length is another one.
    pub fn from_bytes(bytes: &[u8]) -> Result<Reference, FrameError> {
        let bytes: &[u8; REFERENCE_BYTES] = bytes.try_into().map_err(|_| FrameError::Body)?;
        let (id, length) = bytes.split_first_chunk::<32>().expect("longer");
        let bytes = u64::from_le_bytes(length.try_into().expect("eight bytes"));
        Ok(Reference { id: BlobId(*id), bytes })
    }

    /// The blob that a submit frame names instead of a payload; `None` if it brings the payload itself. `arguments` is its
    /// body.
    ///
    /// # Errors
    /// [`FrameError::Body`] if it says that it names one, and does not.
    pub fn of(
        submit: &Frame<'_>,
        arguments: &ArchivedArguments<'static>,
    ) -> Result<Option<Reference>, FrameError> {
        if submit.flags() & flag::BLOB == 0 {
            return Ok(None);
        }
        Reference::from_bytes(&arguments.payload).map(Some)
    }

    /// The blob that an outcome frame names instead of an output; `None` if it brings the output itself. `output` is that
    /// of its body.
    ///
    /// # Errors
    /// [`FrameError::Body`] if it says that it names one, and does not.
    pub fn of_result(outcome: &Frame<'_>, output: &[u8]) -> Result<Option<Reference>, FrameError> {
        if outcome.flags() & flag::BLOB == 0 {
            return Ok(None);
        }
        Reference::from_bytes(output).map(Some)
    }

    /// As [`Reference::of_result`], of a frame that was validated before. Of one that names none only the header is read.
    pub fn in_outcome(outcome: &Frame<'_>) -> Option<Reference> {
        if outcome.flags() & flag::BLOB == 0 {
            return None;
        }
        body::reply(outcome.body()).ok().and_then(|reply| Reference::from_bytes(reply.output).ok())
    }

    /// As [`Reference::of`], of a frame that was validated before.
    pub fn in_frame(submit: &Frame<'_>) -> Option<Reference> {
        let arguments = body::arguments(submit.body()).ok()?;
        Reference::of(submit, arguments).ok().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::{Arguments, Reply, Submit, append_outcome, append_stored_outcome, append_submit};
    use crate::frame::{FrameBuf, Header, Kind};
    use crate::outcome::{Status, Usage};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_reference_survives_its_bytes_and_its_name_its_text(id: [u8; 32], bytes: u64) {
            let reference = Reference { id: BlobId(id), bytes };
            prop_assert_eq!(Reference::from_bytes(&reference.to_bytes()), Ok(reference));
            prop_assert_eq!(reference.id.to_string().parse(), Ok(reference.id));
        }

        #[test]
        fn no_other_length_is_a_reference(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            prop_assert_eq!(Reference::from_bytes(&bytes).is_ok(), bytes.len() == REFERENCE_BYTES);
        }

        #[test]
        fn a_name_is_read_in_one_way(text in "[0-9a-fA-F/.]{60,68}") {
            if let Ok(id) = text.parse::<BlobId>() {
                prop_assert_eq!(id.to_string(), text);
            }
        }
    }

    #[test]
    fn a_submit_names_a_blob_or_has_its_payload() {
        let reference = Reference { id: BlobId([7; 32]), bytes: 5 << 20 };
        let payload = reference.to_bytes();
        let found = |blob: bool, payload: &[u8]| {
            let submit =
                Submit { blob, arguments: Arguments { payload, attributes: &[] }, ..Submit::default() };
            let mut out = FrameBuf::new();
            append_submit(&mut out, &submit).unwrap();
            let (frame, _) = Frame::parse(&out).unwrap();
            Reference::of(&frame, body::arguments(frame.body()).unwrap())
        };
        assert_eq!(found(true, &payload), Ok(Some(reference)));
        assert_eq!(found(false, &payload), Ok(None));
        assert_eq!(found(true, &payload[1..]), Err(FrameError::Body));
    }

    #[test]
    fn an_outcome_names_a_blob_or_has_its_output() {
        let reference = Reference { id: BlobId([7; 32]), bytes: 5 << 20 };
        let output = reference.to_bytes();
        let found = |blob: bool, output: &[u8]| {
            let lease = Header { flags: flag::WANT_OUTCOME | flag::SEALED_BODY, ..Header::new(Kind::Lease) };
            let reply = Reply::new(&Usage::default(), output, b"said");
            let mut out = FrameBuf::new();
            if blob {
                append_stored_outcome(&mut out, &lease, Status::Ok, &reply).unwrap();
            } else {
                append_outcome(&mut out, &lease, Status::Ok, &reply).unwrap();
            }
            let (frame, _) = Frame::parse(&out).unwrap();
            let read = body::reply(frame.body()).unwrap();
            assert_eq!(read.stderr, b"said");
            let of = Reference::of_result(&frame, read.output);
            assert_eq!(Reference::in_outcome(&frame), of.ok().flatten());
            of
        };
        assert_eq!(found(true, &output), Ok(Some(reference)));
        assert_eq!(found(false, &output), Ok(None));
        assert_eq!(found(true, &output[1..]), Err(FrameError::Body));
    }
}
