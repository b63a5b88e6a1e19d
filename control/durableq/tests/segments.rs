//! A call names its segment by 16 bits. A log that comes near to so many segments refuses new calls, loses none of those that
//! it holds, and goes on when segments are free again, beyond the number where these bits begin anew.

use call::body::{Arguments, Submit, append_submit};
use call::frame::FrameBuf;
use call::limits::Limits;
use call::{CallId, Frame, FunctionId, Instant, VerdictCode, WallTime};
use durableq::{Blocks, Cancel, DurableQ, Event, LogOp, Origin, Recovery, block_count};

/// A call names its segment by so many numbers.
const NAMES: u64 = 1 << 16;
const NOW: u64 = 1_000_000_000;
/// Far ahead: no call is due, and none needs memory for its frame.
const HOUR: u64 = 3_600_000_000_000;

struct Memory(Vec<FrameBuf>);

impl Blocks for Memory {
    fn block(&mut self, number: u32) -> &mut [u8] {
        &mut self.0[number as usize]
    }
}

/// A queue whose segments hold one group, which holds one call; and a disk that does at once what it is told, and keeps
/// nothing, since no frame is read.
struct World {
    queue: DurableQ,
    memory: Memory,
    /// Segments on the disk, and the last number that was given.
    segments: usize,
    last: u64,
    accepted: Vec<CallId>,
}

impl World {
    fn new() -> World {
        let limits = Limits {
            calls_max: 1 << 17,
            segment_bytes: 4096,
            group_bytes: 4096,
            checkpoint_segments: usize::MAX,
            ..Limits::small()
        };
        let block = || {
            let mut block = FrameBuf::new();
            block.resize(limits.group_bytes, 0);
            block
        };
        let memory = Memory((0..block_count(&limits)).map(|_| block()).collect());
        let queue = Recovery::new(&limits).finish(Instant(NOW), WallTime(NOW), 7).expect("an empty log");
        let mut world = World { queue, memory, segments: 0, last: 0, accepted: Vec::new() };
        world.disk();
        world
    }

    fn disk(&mut self) {
        while let Some(op) = self.queue.next_op(&mut self.memory) {
            match op {
                LogOp::Create { segment, .. } => {
                    (self.segments, self.last) = (self.segments + 1, segment);
                    self.queue.created(segment, Ok(()));
                }
                LogOp::Recycle { segment, .. } => {
                    self.last = segment;
                    self.queue.created(segment, Ok(()));
                }
                LogOp::Write { group, .. } => self.queue.written(group, Ok(())),
                LogOp::Read { .. } => unreachable!("no call is due, and none is copied"),
                LogOp::Remove { segment } => {
                    self.segments -= 1;
                    self.queue.removed(segment, Ok(()));
                }
            }
        }
        while let Some(event) = self.queue.next_event() {
            if let Event::Verdict { call, code, .. } = event {
                assert_eq!(code, VerdictCode::Accepted);
                self.accepted.push(call);
            }
        }
    }

    /// Submits a call that nearly fills a segment.
    fn submit(&mut self, number: u64) -> Result<(), VerdictCode> {
        let function = FunctionId(1);
        let mut frame = FrameBuf::new();
        let submit = Submit {
            call: CallId(u128::from(number) + 1),
            function,
            start_at: WallTime(NOW + HOUR),
            arguments: Arguments { payload: &[7; 3000], attributes: &[] },
            ..Submit::default()
        };
        append_submit(&mut frame, &submit).expect("small arguments");
        let function = self.queue.intern(function).expect("room");
        let frame = Frame::parse(&frame).expect("just encoded").0;
        self.queue.submit(&mut self.memory, frame, function, Origin(1))?;
        self.disk();
        Ok(())
    }

    /// Cancels calls, as many at once as have their ends in one group.
    fn cancel(&mut self, calls: &[CallId]) {
        for some in calls.chunks(50) {
            for call in some {
                let cancelled = self.queue.cancel(&mut self.memory, *call);
                assert!(matches!(cancelled, Some(Cancel::Ended { .. })), "{call}: {cancelled:?}");
            }
            self.disk();
        }
    }
}

#[test]
fn a_log_of_all_segments_that_calls_can_name_refuses_and_goes_on_when_some_are_free() {
    let mut world = World::new();
    let mut number = 0;
    let refused = loop {
        match world.submit(number) {
            Ok(()) => number += 1,
            Err(code) => break code,
        }
        assert!(number < NAMES, "more segments than a call can name");
    };
    assert_eq!(refused, VerdictCode::Full, "with a wait, as of any full queue");
    assert!(refused.is_transient());
    assert!(number > 50_000 && world.segments > 50_000, "{number} calls, {} segments", world.segments);
    // Nothing is lost, and what is held goes on: calls end though the log takes no new ones.
    world.queue.check();
    assert_eq!(world.accepted.len() as u64, number);
    assert_eq!(world.queue.counters().pending_now, number);
    let held: Vec<CallId> = world.accepted.drain(..).collect();
    world.cancel(&held[..20_000]);
    assert!(world.segments < 40_000, "{} segments", world.segments);
    // Names are given anew, beside segments that have kept theirs.
    let first = number;
    while world.last < NAMES + 8_000 {
        world.submit(number).expect("there is room again");
        number += 1;
    }
    world.queue.check();
    assert_eq!(world.accepted.len() as u64, number - first);
    world.cancel(&held[20_000..]);
    world.queue.check();
    assert_eq!(world.queue.counters().pending_now, number - first);
    assert!(world.segments < 25_000, "{} segments", world.segments);
}
