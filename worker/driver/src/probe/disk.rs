//! How fast a small write is on disk, measured the way the log writes.

use super::Finding;
use crate::arrivals::{Arrivals, Event};
use crate::clock;
use crate::seam::{Driver, FileId, Token};
use crate::uring::{Options, Uring};
use std::io;
use std::path::Path;
use std::time::Duration;

const FILE_BYTES: u64 = 1 << 20;
const WRITE_BYTES: usize = 4096;
const WRITES: u64 = 101;
/// A disk that is slower than this in a single step is given up.
const PATIENCE: Duration = Duration::from_secs(5);
/// A median beyond this bounds a durable submit more than everything else together.
const SLOW: Duration = Duration::from_millis(2);

pub(super) fn disk(directory: &Path) -> Finding {
    const NAME: &str = "disk";
    match measure(directory) {
        Ok((backend, median)) => {
            let detail = format!("{backend}: {} us for a durable 4 KiB write (median)", median.as_micros());
            if !backend.contains("O_DIRECT,") {
                return Finding::degraded(NAME, detail, "put the data directory on ext4 or xfs");
            }
            match median > SLOW {
                true => Finding::degraded(NAME, detail, "put the data directory on a local SSD"),
                false => Finding::ok(NAME, detail),
            }
        }
        Err(error) => Finding::missing(
            NAME,
            format!("cannot write in {}: {error}", directory.display()),
            "name a directory that exists, has space and may be written to",
        ),
    }
}

fn measure(directory: &Path) -> io::Result<(String, Duration)> {
    let mut driver = Uring::new(Options {
        data_dir: Some(directory.to_owned()),
        blocks: 1,
        block_bytes: WRITE_BYTES,
        ..Options::default()
    })?;
    let name = format!(".millrace-probe-{}", std::process::id());
    let file = make(&mut driver, &name)?;
    let measured = write_repeatedly(&mut driver, file);
    driver.remove(file, &name, Token(0));
    wait(&mut driver, |event| match event {
        Event::Directory { result, .. } => Some(*result),
        _ => None,
    })?;
    let backends = driver.backends();
    let backend = backends.into_iter().find(|(what, _)| what == "disk").expect("a driver has one").1;
    Ok((backend, measured?))
}

fn make(driver: &mut Uring, name: &str) -> io::Result<FileId> {
    driver.create(name, FILE_BYTES, Token(0));
    wait(driver, |event| match event {
        Event::Created { result, .. } => Some(*result),
        _ => None,
    })
}

fn write_repeatedly(driver: &mut Uring, file: FileId) -> io::Result<Duration> {
    let block = driver.take_block().expect("there is one");
    let mut times = Vec::with_capacity(WRITES as usize);
    for index in 0..WRITES {
        let offset = index * WRITE_BYTES as u64 % FILE_BYTES;
        let start = clock::monotonic();
        driver.write(file, offset, block, WRITE_BYTES, Token(index));
        wait(driver, |event| match event {
            Event::Written { result, .. } => Some(*result),
            _ => None,
        })?;
        times.push(clock::monotonic() - start);
    }
    times.sort_unstable();
    Ok(times[times.len() / 2])
}

fn wait<T>(driver: &mut Uring, pick: impl Fn(&Event<'_>) -> Option<Result<T, i32>>) -> io::Result<T> {
    let stop = clock::monotonic() + PATIENCE;
    let mut arrivals = Arrivals::new();
    while clock::monotonic() < stop {
        driver.reap(stop, &mut arrivals);
        if let Some(result) = arrivals.iter().find_map(|event| pick(&event)) {
            return result.map_err(io::Error::from_raw_os_error);
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}
