//! For this crate's tests.

use call::body::{Submit, append_submit};
use call::frame::FrameBuf;
use call::{Arguments, Attribute, CallId, FunctionId, WallTime};

/// A submit frame with this payload and these attributes.
pub fn submit(payload: &[u8], attributes: &[Attribute<'_>]) -> FrameBuf {
    let mut out = FrameBuf::new();
    let submit = Submit {
        call: CallId(1),
        function: FunctionId(7),
        start_at: WallTime(0),
        deadline: WallTime(0),
        criticality: 0,
        want_outcome: true,
        arguments: Arguments { payload, attributes },
        ..Submit::default()
    };
    append_submit(&mut out, &submit).expect("arguments of a test are within the limits");
    out
}
