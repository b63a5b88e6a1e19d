//! Chunked bodies, decoded as they come.

use super::head::{ERROR_TYPE, Refusal, keep_kind};

/// Bytes of one line beside the data: a chunk's size with its extensions, or a trailer. The official Rust client sends
/// the error of a broken stream, in base64, as a trailer.
const LINE_BYTES_MAX: usize = 64 << 10;
/// Lines of trailers.
const TRAILERS_MAX: u32 = 16;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum At {
    /// In the line that begins a chunk.
    Size,
    /// In its data, so many bytes before its end.
    Data(u64),
    /// In the empty line behind the data.
    Gap,
    /// In a line of trailers, after so many of them.
    Trailer(u32),
}

/// Where in a chunked body the stream is.
#[derive(Debug)]
pub struct Chunks {
    at: At,
    /// The begin of a line that is not whole yet.
    line: Vec<u8>,
}

/// What is next in the stream.
#[derive(PartialEq, Eq, Debug)]
pub enum Piece<'x> {
    /// Some data.
    Data(&'x [u8]),
    /// The body is over.
    End,
    /// More bytes are needed.
    Hungry,
}

impl Chunks {
    /// For a connection; see [`Chunks::begin`].
    pub fn new() -> Chunks {
        Chunks { at: At::Size, line: Vec::new() }
    }

    /// Another body begins.
    pub fn begin(&mut self) {
        self.at = At::Size;
        self.line.clear();
    }

    /// Takes one piece off `input`. An error named in a trailer goes into `kind`.
    pub fn piece<'x>(&mut self, input: &mut &'x [u8], kind: &mut String) -> Result<Piece<'x>, Refusal> {
        loop {
            if let At::Data(left) = self.at {
                let here = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
                if here == 0 {
                    return Ok(Piece::Hungry);
                }
                let (data, rest) = input.split_at(here);
                *input = rest;
                let left = left - here as u64;
                self.at = if left == 0 { At::Gap } else { At::Data(left) };
                return Ok(Piece::Data(data));
            }
            if !self.take_line(input)? {
                return Ok(Piece::Hungry);
            }
            let over = self.line_ended(kind)?;
            self.line.clear();
            if over {
                return Ok(Piece::End);
            }
        }
    }

    /// Moves bytes into the line until it ends. Lines are short and rare: a copy is no cost.
    fn take_line(&mut self, input: &mut &[u8]) -> Result<bool, Refusal> {
        let end = input.iter().position(|byte| *byte == b'\n');
        let (part, rest) = input.split_at(end.map_or(input.len(), |end| end + 1));
        *input = rest;
        if self.line.len() + part.len() > LINE_BYTES_MAX {
            return Err(Refusal::Malformed);
        }
        self.line.extend_from_slice(part);
        Ok(end.is_some())
    }

    /// Acts on the whole line; true at the end of the body.
    fn line_ended(&mut self, kind: &mut String) -> Result<bool, Refusal> {
        let line = self.line.strip_suffix(b"\n").unwrap_or(&self.line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        match self.at {
            At::Size => {
                self.at = match size(line)? {
                    0 => At::Trailer(0),
                    bytes => At::Data(bytes),
                };
            }
            At::Gap if line.is_empty() => self.at = At::Size,
            At::Gap => return Err(Refusal::Malformed),
            At::Trailer(_) if line.is_empty() => return Ok(true),
            At::Trailer(TRAILERS_MAX) => return Err(Refusal::Head),
            At::Trailer(before) => {
                let mut parts = line.splitn(2, |byte| *byte == b':');
                let (name, value) = (parts.next().unwrap_or_default(), parts.next());
                let value = value.ok_or(Refusal::Malformed)?;
                if name.eq_ignore_ascii_case(ERROR_TYPE.as_bytes()) {
                    keep_kind(kind, value.trim_ascii());
                }
                self.at = At::Trailer(before + 1);
            }
            At::Data(_) => unreachable!("data has no lines"),
        }
        Ok(false)
    }
}

/// The size that begins a chunk: hexadecimal, at most 15 digits, then extensions that nobody uses.
fn size(line: &[u8]) -> Result<u64, Refusal> {
    let digits = line.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii_end();
    if !(1..=15).contains(&digits.len()) {
        return Err(Refusal::Malformed);
    }
    let digit = |byte: &u8| char::from(*byte).to_digit(16).ok_or(Refusal::Malformed);
    digits.iter().try_fold(0, |size, byte| Ok(size << 4 | u64::from(digit(byte)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(mut input: &[u8], cut: usize) -> Result<(Vec<u8>, String, usize), Refusal> {
        let (mut chunks, mut data, mut kind) = (Chunks::new(), Vec::new(), String::new());
        let whole = input.len();
        while !input.is_empty() {
            let mut part = &input[..cut.min(input.len())];
            let before = part.len();
            let piece = chunks.piece(&mut part, &mut kind)?;
            input = &input[before - part.len()..];
            match piece {
                Piece::Data(bytes) => data.extend_from_slice(bytes),
                Piece::End => return Ok((data, kind, whole - input.len())),
                Piece::Hungry => {}
            }
        }
        panic!("the body has no end");
    }

    #[test]
    fn a_body_is_the_same_however_it_is_cut() {
        let body = b"4\r\nWiki\r\n6;x=\"y\"\r\npedia \r\nE\r\nin \r\n\r\nchunks.\r\n0\r\nX: y\r\n\r\nnext";
        for cut in 1..body.len() {
            let (data, kind, used) = decode(body, cut).unwrap();
            assert_eq!((&data[..], &kind[..]), (&b"Wikipedia in \r\n\r\nchunks."[..], ""), "{cut}");
            assert_eq!(used, body.len() - 4);
        }
    }

    #[test]
    fn a_trailer_may_name_an_error() {
        let body = b"1\r\nx\r\n0\r\nlambda-runtime-function-error-type: Boom\r\n\r\n";
        assert_eq!(decode(body, 7).unwrap().1, "Boom");
    }

    #[test]
    fn what_is_no_chunk_is_refused() {
        for wrong in ["x\r\n", "\r\n", "-1\r\n", "1\r\nab\r\n", "1234567890123456\r\n", "0\r\nno colon\r\n"] {
            assert_eq!(decode(wrong.as_bytes(), 64), Err(Refusal::Malformed), "{wrong:?}");
        }
        let endless = [b'0'; LINE_BYTES_MAX + 1];
        assert_eq!(decode(&endless, 1000), Err(Refusal::Malformed));
        let trailers = format!("0\r\n{}", "a: b\r\n".repeat(20));
        assert_eq!(decode(trailers.as_bytes(), 64), Err(Refusal::Head));
    }
}
