//! What a function process sends to the Runtime API: any bytes, cut anywhere, on several connections. The first bytes
//! of an input say how it is cut.

#![no_main]

// The server's state machine by itself: the crate around it would bring a compiler of WebAssembly along.
#[allow(dead_code)]
#[path = "../../../worker/runtime/src/process/api/mod.rs"]
mod api;
// What it lends of: nothing here.
#[allow(dead_code)]
#[path = "../../../worker/runtime/src/results.rs"]
mod results;

use api::{Event, HEAD_BYTES_MAX, Invocation, Session, invocation};
use call::CallId;
use call::limits::OUTPUT_BYTES_MAX;
use results::Room;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((recipe, stream)) = bytes.split_at_checked(4) else { return };
    let concurrent = u32::from(recipe[0] % 3) + 1;
    let whole = effects(stream, usize::MAX, concurrent);
    let cut = effects(stream, usize::from(recipe[1]) + 1, concurrent);
    assert_eq!(whole, cut, "a stream has the same effects however it is cut");
    several(stream, recipe[2], recipe[3]);
});

/// The effects of a stream on one connection, in which each `next` gets a call at once.
fn effects(stream: &[u8], cut: usize, concurrent: u32) -> (Vec<String>, Vec<u8>) {
    let mut session = Session::new(concurrent, &Room::default());
    let at = session.open().expect("the first");
    let (mut told, mut sent, mut given) = (Vec::new(), Vec::new(), 0);
    for piece in stream.chunks(cut.min(stream.len().max(1))) {
        let mut waits = 0;
        session.receive(at, piece, &mut |event| waits += note(&event, &mut told));
        while waits > 0 {
            waits -= 1;
            given += 1;
            give(&mut session, given, &mut |event| waits += note(&event, &mut told));
        }
        if session.flush(at, |bytes| sent.extend_from_slice(bytes)) {
            break;
        }
        assert!(session.held_bytes() <= 2 * (HEAD_BYTES_MAX + OUTPUT_BYTES_MAX), "held without bound");
    }
    (told, sent)
}

fn give(session: &mut Session, number: u128, on: &mut impl FnMut(Event<'_>)) {
    let (call, body) = (CallId(number), b"{}");
    let (at, out) = session.give(call);
    let (trace, client_context, content_type) = (None, None, None);
    invocation(
        out,
        &Invocation { call, deadline_unix_ms: 1, arn: "arn", trace, client_context, content_type, body },
    );
    session.advance(at, on);
}

fn note(event: &Event<'_>, told: &mut Vec<String>) -> u32 {
    told.push(format!("{event:?}"));
    u32::from(*event == Event::Waits)
}

/// The same bytes over several connections that come and go.
fn several(stream: &[u8], cut: u8, seed: u8) {
    let mut session = Session::new(2, &Room::default());
    let mut given = 0;
    let mut waiting = 0_i32;
    let mut random = u32::from(seed) | 1;
    let places: Vec<u16> = (0..3).map(|_| session.open().expect("room for three")).collect();
    for piece in stream.chunks(usize::from(cut) + 1) {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let at = places[(random >> 24) as usize % 3];
        let mut count = |event: Event<'_>| match event {
            Event::Waits => waiting += 1,
            Event::Left => waiting -= 1,
            _ => {}
        };
        session.receive(at, piece, &mut count);
        if random >> 16 & 7 == 0 {
            session.closed(at, &mut count);
            assert_eq!(session.open(), Some(at));
        }
        if waiting > 0 && random & 0x100 == 0 {
            waiting -= 1;
            given += 1;
            let mut more = 0;
            give(&mut session, given, &mut |event| match event {
                Event::Waits => more += 1,
                Event::Left => more -= 1,
                _ => {}
            });
            waiting += more;
        }
        assert!((0..=2).contains(&waiting), "{waiting} wait");
    }
}
