//! Everything a reader does with bytes that a stranger sent. Used by the property tests beside it and by the fuzz
//! target in `tests/fuzz`: whatever the bytes are, this returns.

use call::admin::{Answer, Ask, Hello};
use call::frame::{FrameBuf, append, frame_bytes, padded};
use call::{Frame, FunctionSpec, Header, Kind, body};
use std::hint::black_box;

/// Bytes at the alignment of a receive buffer.
pub fn aligned(bytes: &[u8]) -> FrameBuf {
    let mut out = FrameBuf::new();
    out.extend_from_slice(bytes);
    out
}

/// Reads a stream as a connection does, frame after frame, until it ends or breaks. Says how many frames it had.
pub fn stream(bytes: &[u8]) -> usize {
    let stream = aligned(bytes);
    let (mut at, mut frames) = (0, 0);
    while let Ok((frame, used)) = Frame::parse(&stream[at..]) {
        let whole =
            frame_bytes(&stream[at..]).expect("a frame's length can be told").expect("all of it is here");
        assert!(used == whole || at + used == stream.len(), "a frame takes its padding with it");
        assert_eq!(whole, padded(frame.bytes().len()));
        read(&frame);
        frames += 1;
        at += used;
    }
    frames
}

/// Makes a frame around the bytes that passes every check of the header, so that the checks behind it are reached.
pub fn disguised(bytes: &[u8]) {
    let mut bytes = bytes.iter().copied();
    let mut next = || u64::from_le_bytes(std::array::from_fn(|_| bytes.next().unwrap_or(0)));
    let kind = Kind::ALL[next() as usize % Kind::ALL.len()];
    let header = Header {
        flags: next() as u16 & kind.flags(),
        call: call::CallId(u128::from(next())),
        function: call::FunctionId(next()),
        stamp: next(),
        deadline: next(),
        level: next() as u8,
        attempt: next() as u16,
        label: if kind == Kind::Submit { call::Label(next() as u8) } else { call::Label::LOWEST },
        key: if kind == Kind::Submit { call::CallKey(next() as u32) } else { call::CallKey::NONE },
        kind,
    };
    let body: Vec<u8> = if kind.is_bare() { Vec::new() } else { bytes.collect() };
    let mut out = FrameBuf::new();
    append(&mut out, &header, &body);
    let (frame, used) = Frame::parse(&out).expect("what is appended can be parsed");
    assert_eq!((frame.header(), frame.body(), used), (header, &body[..], out.len()));
    read(&frame);
}

/// Every accessor, and every reading of the body whatever the kind says.
fn read(frame: &Frame<'_>) {
    let again = Frame::parsed_before(frame.bytes());
    assert_eq!((again.header(), again.body()), (frame.header(), frame.body()));
    black_box((
        frame.status().is_ok(),
        frame.criticality(),
        frame.start_at(),
        frame.deadline(),
        frame.epoch(),
        frame.label().flows_to(call::Label::LOWEST),
        frame.key().is_none(),
    ));
    black_box(format!("{frame:?}"));
    if let Ok(inner) = frame.sealed() {
        assert!(frame.bytes().ends_with(inner.bytes()), "a sealed frame is read in place");
        archives(inner.body());
    }
    archives(frame.body());
    black_box(serde_json::from_slice::<Hello>(frame.body()).is_ok());
    black_box(serde_json::from_slice::<Ask>(frame.body()).is_ok());
    black_box(serde_json::from_slice::<Answer>(frame.body()).is_ok());
    if let Ok(spec) = serde_json::from_slice::<FunctionSpec>(frame.body()) {
        black_box((spec.validate().is_ok(), spec.retry.backoff(frame.attempt())));
    }
}

/// What an archive shows is read to its last byte, where an address sanitizer sees it, and lies inside the body.
fn archives(bytes: &[u8]) {
    // A name of a blob is any forty bytes, and says the same back.
    if let Ok(blob) = call::blob::Reference::from_bytes(bytes) {
        assert_eq!(blob.to_bytes(), bytes);
    }
    if let Ok(read) = body::arguments(bytes) {
        lies_in(bytes, &read.payload);
        for attribute in read.attributes.iter() {
            lies_in(bytes, attribute.key.as_bytes());
            lies_in(bytes, attribute.value.as_bytes());
            assert!(std::str::from_utf8(attribute.key.as_bytes()).is_ok(), "a key is text");
            assert!(std::str::from_utf8(attribute.value.as_bytes()).is_ok(), "a value is text");
        }
    }
    if let Ok(read) = body::verdicts(bytes) {
        assert!(read.len() <= body::VERDICTS_MAX, "more verdicts than a body holds");
        for verdict in read {
            black_box((verdict.call(), verdict.code().is_ok()));
        }
    }
    if let Ok(read) = body::reply(bytes) {
        lies_in(bytes, read.output);
        lies_in(bytes, read.stderr);
        black_box(read.usage());
    }
}

/// Panics unless `part` is a part of `bytes`, in place.
pub fn lies_in(bytes: &[u8], part: &[u8]) {
    black_box(part.iter().fold(0, |sum: u8, byte| sum.wrapping_add(*byte)));
    let (outer, inner) = (bytes.as_ptr_range(), part.as_ptr_range());
    let inside = outer.start <= inner.start && inner.end <= outer.end;
    assert!(part.is_empty() || inside, "an archive shows bytes that are not its own");
}
