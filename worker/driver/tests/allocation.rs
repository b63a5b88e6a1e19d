//! After warm-up a round of sends and receives takes nothing from the heap, on any transport, and neither does a
//! durable write. Counted by the allocator itself; a test binary of its own, with one test, so that nobody else's
//! allocations are counted.

use call::frame::{FrameBuf, Header, Kind, append};
use counting::allocations;
use driver::uring::{Options, Uring};
use driver::{Arrivals, ConnectionId, Driver, Endpoint, Event, FileId, Token};
use std::time::{Duration, Instant};

/// Frames of one burst: many enough to fill receive buffers and to straddle them.
const BURST: usize = 700;

struct Echo {
    server: Uring,
    client: Uring,
    there: ConnectionId,
    arrivals: [Arrivals; 2],
    burst: FrameBuf,
}

impl Echo {
    fn connect(at: &Endpoint) -> Echo {
        let mut server = Uring::new(Options::default()).unwrap();
        let mut client = Uring::new(Options::default()).unwrap();
        let listener = server.listen(at).unwrap();
        let there = client.connect(&server.local(listener));
        let mut burst = FrameBuf::new();
        for stamp in 0..BURST as u64 {
            append(&mut burst, &Header { stamp, ..Header::new(Kind::Outcome) }, &[7; 130]);
        }
        Echo { server, client, there, arrivals: [Arrivals::new(), Arrivals::new()], burst }
    }

    /// One burst there and back.
    fn round(&mut self) {
        let stop = Instant::now() + Duration::from_secs(20);
        self.client.send(self.there, &self.burst).unwrap();
        let mut back = 0;
        while back < BURST {
            assert!(Instant::now() < stop, "stuck at {back}");
            self.client.tick(&mut self.arrivals[0]);
            back += self.arrivals[0].iter().filter(|event| matches!(event, Event::Frame { .. })).count();
            self.server.tick(&mut self.arrivals[1]);
            for event in self.arrivals[1].iter() {
                if let Event::Frame { connection, frame } = event {
                    let header = frame.bytes()[..64].try_into().unwrap();
                    self.server.send_parts(connection, header, frame.body()).unwrap();
                }
            }
        }
    }
}

/// A byte stream, and questions on it that are answered with the same bytes.
struct Dialogue {
    server: Uring,
    client: Uring,
    there: ConnectionId,
    arrivals: [Arrivals; 2],
}

impl Dialogue {
    fn connect(at: &Endpoint) -> Dialogue {
        let mut server = Uring::new(Options::default()).unwrap();
        let mut client = Uring::new(Options::default()).unwrap();
        let listener = server.listen_bytes(at).unwrap();
        let there = client.connect_bytes(&server.local(listener)).unwrap();
        Dialogue { server, client, there, arrivals: [Arrivals::new(), Arrivals::new()] }
    }

    fn round(&mut self) {
        const QUESTION: [u8; 3001] = [7; 3001];
        let stop = Instant::now() + Duration::from_secs(20);
        self.client.send(self.there, &QUESTION).unwrap();
        let mut back = 0;
        while back < QUESTION.len() {
            assert!(Instant::now() < stop, "stuck at {back}");
            self.client.tick(&mut self.arrivals[0]);
            for event in self.arrivals[0].iter() {
                back += if let Event::Bytes { bytes, .. } = event { bytes.len() } else { 0 };
            }
            self.server.tick(&mut self.arrivals[1]);
            for event in self.arrivals[1].iter() {
                if let Event::Bytes { connection, bytes } = event {
                    self.server.send(connection, bytes).unwrap();
                }
            }
        }
    }
}

fn allocations_of(rounds: usize, mut round: impl FnMut()) -> u64 {
    let before = allocations();
    (0..rounds).for_each(|_| round());
    allocations() - before
}

fn write_and_wait(driver: &mut Uring, file: FileId, arrivals: &mut Arrivals) {
    let block = driver.take_block().expect("given back each time");
    driver.write(file, 0, block, 4096, Token(1));
    loop {
        driver.reap(driver.precise() + Duration::from_secs(5), arrivals);
        if arrivals.iter().any(|event| matches!(event, Event::Written { result: Ok(()), .. })) {
            return driver.give_block(block);
        }
    }
}

#[test]
fn nothing_is_allocated_after_warm_up() {
    let dir = tempfile::tempdir().unwrap();
    let tcp = "tcp:127.0.0.1:0".parse().unwrap();
    for at in [tcp, Endpoint::Unix(dir.path().join("unix")), Endpoint::Shm(dir.path().join("shm"))] {
        let mut echo = Echo::connect(&at);
        assert!(allocations_of(200, || echo.round()) > 0, "{at}: the counter counts the warm-up");
        assert_eq!(allocations_of(200, || echo.round()), 0, "{at}");
    }

    for at in ["tcp:127.0.0.1:0".parse().unwrap(), Endpoint::Unix(dir.path().join("bytes"))] {
        let mut dialogue = Dialogue::connect(&at);
        assert!(allocations_of(200, || dialogue.round()) > 0, "{at}: the counter counts the warm-up");
        assert_eq!(allocations_of(200, || dialogue.round()), 0, "bytes over {at}");
    }

    let options = Options { data_dir: Some(dir.path().to_owned()), blocks: 2, ..Options::default() };
    let mut driver = Uring::new(options).unwrap();
    std::fs::write(dir.path().join("log"), [0; 8192]).unwrap();
    let file = driver.open("log").unwrap();
    let mut arrivals = Arrivals::new();
    write_and_wait(&mut driver, file, &mut arrivals);
    assert_eq!(allocations_of(50, || write_and_wait(&mut driver, file, &mut arrivals)), 0, "durable writes");
}
