//! Decoding arbitrary bytes can only give an error: random bytes, and whole frames with a few bytes changed.

mod examine;

use call::body::{self, Arguments, Attribute, Reply, Submit, Verdict};
use call::frame::{FrameBuf, append, flag};
use call::{CallId, Frame, FunctionId, Header, Kind, Status, Usage, VerdictCode, WallTime};
use proptest::prelude::*;
use proptest::sample::Index;

/// One frame of each sort that has a body worth attacking.
fn specimens(payload: &[u8]) -> Vec<FrameBuf> {
    let attributes =
        [Attribute { key: "traceparent", value: "00-ab-cd-01" }, Attribute { key: "k", value: "" }];
    let submit = Submit {
        call: CallId::new(1, 2),
        function: FunctionId::of("default", "echo"),
        start_at: WallTime(5),
        deadline: WallTime(9),
        criticality: 3,
        want_outcome: true,
        arguments: Arguments { payload, attributes: &attributes },
        ..Submit::default()
    };
    let mut all: Vec<FrameBuf> = (0..4).map(|_| FrameBuf::new()).collect();
    body::append_submit(&mut all[0], &submit).expect("within limits");
    let submitted = Frame::parse(&all[0]).expect("well formed").0.bytes().to_vec();
    let lease = Header { flags: flag::SEALED_BODY, attempt: 1, ..Header::new(Kind::Lease) };
    append(&mut all[1], &lease, &submitted);
    body::append_verdicts(&mut all[2], &[Verdict::new(CallId(7), VerdictCode::Full, 20); 3]).expect("few");
    let reply = Reply::new(&Usage::default(), payload, b"error");
    body::append_outcome(&mut all[3], &lease, Status::Trap, &reply).expect("small");
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn arbitrary_bytes_are_frames_or_errors(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        examine::stream(&bytes);
        examine::disguised(&bytes);
    }

    /// The header is made to fit the changed body, so that only the readers of the body stand in the way.
    #[test]
    fn changed_bodies_are_read_or_refused(
        payload in proptest::collection::vec(any::<u8>(), 0..60),
        changes in proptest::collection::vec((any::<Index>(), any::<u8>()), 0..6),
        cut in proptest::option::of(any::<Index>()),
    ) {
        for specimen in specimens(&payload) {
            let frame = Frame::parse(&specimen).expect("well formed").0;
            let mut body = frame.body().to_vec();
            for (at, to) in &changes {
                *at.get_mut(&mut body) = *to;
            }
            body.truncate(cut.map_or(body.len(), |cut| cut.index(body.len() + 1)));
            let mut out = FrameBuf::new();
            append(&mut out, &frame.header(), &body);
            prop_assert_eq!(examine::stream(&out), 1);
        }
    }

    #[test]
    fn a_changed_frame_is_noticed(
        payload in proptest::collection::vec(any::<u8>(), 0..60),
        at in any::<Index>(),
        flip in 1..=255u8,
    ) {
        for mut specimen in specimens(&payload) {
            let frame = Frame::parse(&specimen).expect("well formed").0;
            let (length, sealed) = (frame.bytes().len(), frame.sealed().is_ok());
            specimen[at.index(length)] ^= flip;
            let parsed = Frame::parse(&specimen);
            // The envelope's checksum leaves a sealed body to its own.
            let noticed = parsed.is_err() || (sealed && parsed.is_ok_and(|(frame, _)| frame.sealed().is_err()));
            prop_assert!(noticed);
        }
    }

    #[test]
    fn frames_in_a_row_are_found_one_by_one(
        payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..60), 0..8),
        cut in any::<Index>(),
    ) {
        let mut out = FrameBuf::new();
        payloads.iter().flat_map(|payload| specimens(payload)).for_each(|frame| out.extend_from_slice(&frame));
        prop_assert_eq!(examine::stream(&out), payloads.len() * 4);
        let whole = examine::stream(&out[..cut.index(out.len() + 1)]);
        prop_assert!(whole <= payloads.len() * 4);
    }
}

#[test]
fn an_empty_body_is_refused_by_every_reader_of_archives() {
    assert!(body::arguments(b"").is_err());
    assert!(body::verdicts(b"").is_err());
    assert!(body::reply(b"").is_err());
}

#[test]
#[should_panic(expected = "bytes that are not its own")]
fn canary_examine() {
    let specimen = specimens(b"payload").remove(0);
    let body = Frame::parse(&specimen).expect("well formed").0.body();
    let copy = examine::aligned(body);
    examine::lies_in(body, &body::arguments(&copy).expect("well formed").payload);
}
