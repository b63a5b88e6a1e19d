//! The suite on the real driver: io_uring, on each transport, with real files.

use conformance::Ground;
use driver::Endpoint;
use driver::uring::{Options, Uring};
use std::path::PathBuf;
use tempfile::TempDir;

#[derive(Clone, Copy)]
enum Transport {
    Tcp,
    Unix,
    Shm,
}

struct RealGround {
    dir: TempDir,
    transport: Transport,
    endpoints: u32,
}

impl RealGround {
    fn new(transport: Transport) -> RealGround {
        let dir = tempfile::tempdir().expect("a temporary directory");
        std::fs::create_dir(dir.path().join("data")).expect("an empty directory");
        RealGround { dir, transport, endpoints: 0 }
    }

    fn path(&mut self) -> PathBuf {
        self.endpoints += 1;
        self.dir.path().join(self.endpoints.to_string())
    }
}

impl Ground for RealGround {
    type Driver = Uring;

    fn driver(&mut self) -> Uring {
        let options = Options {
            data_dir: Some(self.dir.path().join("data")),
            blocks: 8,
            block_bytes: 32 << 10,
            ..Options::default()
        };
        Uring::new(options).expect("io_uring is there")
    }

    fn endpoint(&mut self) -> Endpoint {
        match self.transport {
            Transport::Tcp => "tcp:127.0.0.1:0".parse().expect("an endpoint"),
            Transport::Unix => Endpoint::Unix(self.path()),
            Transport::Shm => Endpoint::Shm(self.path()),
        }
    }
}

fn tcp(test: &dyn Fn(&mut RealGround)) {
    test(&mut RealGround::new(Transport::Tcp));
}

fn unix(test: &dyn Fn(&mut RealGround)) {
    test(&mut RealGround::new(Transport::Unix));
}

fn shm(test: &dyn Fn(&mut RealGround)) {
    test(&mut RealGround::new(Transport::Shm));
}

conformance::suite!(over_tcp, streams, crate::tcp);
conformance::suite!(over_unix, streams, crate::unix);
conformance::suite!(over_shm, streams, crate::shm);
conformance::suite!(bytes_over_tcp, bytes, crate::tcp);
conformance::suite!(bytes_over_unix, bytes, crate::unix);
conformance::suite!(files, files, crate::tcp);
