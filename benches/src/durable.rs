//! The durable cycle on real processes: submit, on disk, lease, run, done.

use crate::cycle::{COALESCE, LOOK, Submitter};
use crate::generator::{Priority, Window, Windows};
use crate::platform::Platform;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Bytes of arguments.
pub const PAYLOAD: usize = 128;
/// Those of larger calls, beside which rivals are measured too.
pub const LARGE_PAYLOAD: usize = 4096;
/// Of calls that are enqueued only.
pub const ENQUEUED_PAYLOAD: usize = 256;
/// Windows of an open loop that are to count.
const WINDOWS: usize = 6;
/// Calls submitted before anything is measured take this part of the time.
const WARM_UP: u32 = 4;

/// What one run of the full cycle took.
#[derive(Clone, Debug)]
pub struct Cycle {
    /// Calls that went the whole way, from the first submit to the end of the last one, per second.
    pub calls_per_s: f64,
    /// CPU of all processes, client included, microseconds per call.
    pub cpu_us: f64,
    /// The same by process.
    pub cpu_us_of: Vec<(&'static str, f64)>,
    /// Log groups written per second, and bytes of log per call.
    pub groups_per_s: f64,
    /// Bytes of log per call.
    pub log_bytes_per_call: f64,
}

/// What enqueuing alone took.
#[derive(Clone, Copy, Debug)]
pub struct Enqueued {
    /// Accepted calls per second.
    pub calls_per_s: f64,
    /// CPU of the node and of its client, microseconds per call.
    pub cpu_us: f64,
}

/// Submits calls of a paused function as fast as verdicts come for `span`: acknowledged when they are on disk, and
/// nothing else.
///
/// # Errors
/// As [`run`].
pub fn enqueue(platform: &Platform, payload: usize, span: Duration) -> io::Result<Enqueued> {
    platform.pause()?;
    let mut client = Submitter::connect(&platform.socket(), platform.function, payload)?;
    client.on_the_way_max = u64::MAX;
    let nobody = AtomicU64::new(0);
    client.saturate(span / WARM_UP, &nobody)?;
    let (begun, accepted, cpu_before) = (Instant::now(), client.accepted, platform.cpu());
    client.saturate(span, &nobody)?;
    let (took, calls) = (begun.elapsed().as_secs_f64(), (client.accepted - accepted) as f64);
    if client.refused > 0 {
        return Err(io::Error::other(format!("{} submits were refused", client.refused)));
    }
    let spent = platform.cpu().into_iter().zip(cpu_before).map(|((_, new), (_, old))| new - old);
    let cpu_us = spent.sum::<Duration>().as_secs_f64() * 1e6 / calls;
    Ok(Enqueued { calls_per_s: calls / took, cpu_us })
}

/// Submits as fast as verdicts come for `span`, then waits until every accepted call has completed by the node's own
/// count. The rate counts that wait: a backlog is not throughput.
///
/// # Errors
/// If a call is refused or fails, or if the platform is gone.
pub fn run(platform: &Platform, payload: usize, span: Duration) -> io::Result<Cycle> {
    let mut client = Submitter::connect(&platform.socket(), platform.function, payload)?;
    let before = platform.status()?;
    counting(platform, |completed| client.saturate(span / WARM_UP, completed))?;
    settle(platform, before.completed + client.accepted)?;
    let (before, cpu_before, accepted) = (platform.status()?, platform.cpu(), client.accepted);
    let begun = Instant::now();
    counting(platform, |completed| client.saturate(span, completed))?;
    let calls = (client.accepted - accepted) as f64;
    let after = settle(platform, before.completed + client.accepted - accepted)?;
    let took = begun.elapsed().as_secs_f64();
    if client.refused > 0 {
        return Err(io::Error::other(format!("{} submits were refused", client.refused)));
    }
    let spent = platform.cpu().into_iter().zip(cpu_before);
    let cpu_us_of: Vec<_> =
        spent.map(|((name, new), (_, old))| (name, (new - old).as_secs_f64() * 1e6 / calls)).collect();
    Ok(Cycle {
        calls_per_s: calls / took,
        cpu_us: cpu_us_of.iter().map(|(_, us)| us).sum(),
        cpu_us_of,
        groups_per_s: (after.groups - before.groups) as f64 / took,
        log_bytes_per_call: (after.log_bytes - before.log_bytes) as f64 / calls,
    })
}

/// From a submit's intended time to its verdict, at `per_s` calls a second in an open loop. A generator that is late by
/// as much as a disk sync takes spoils a window. It has real-time priority where it may, the node has its own.
///
/// # Errors
/// As [`run`].
pub fn acknowledge(
    platform: &Platform,
    per_s: f64,
    dsync_us: f64,
    span: Duration,
) -> io::Result<Acknowledged> {
    let mut client = Submitter::connect(&platform.socket(), platform.function, PAYLOAD)?;
    let completed = platform.status()?.completed;
    let late = COALESCE + Duration::from_nanos((dsync_us * 1000.0) as u64);
    let mut windows = Windows::new(WINDOWS, late);
    let priority = Priority::real_time();
    client.pace(per_s, span / WARM_UP)?;
    while !windows.is_enough() {
        client.timed = Window::default();
        client.pace(per_s, span / WINDOWS as u32)?;
        windows.add(&client.timed);
    }
    let told = format!("{}; the generator ran {}", windows.told(), priority.told());
    drop(priority);
    settle(platform, completed + client.accepted)?;
    Ok(Acknowledged { windows, told })
}

/// What [`acknowledge`] measured.
#[derive(Debug)]
pub struct Acknowledged {
    /// In windows.
    pub windows: Windows,
    /// How, for people.
    pub told: String,
}

/// Waits until so many calls have completed.
fn settle(platform: &Platform, completed: u64) -> io::Result<call::admin::NodeStatus> {
    loop {
        let status = platform.status()?;
        if status.completed >= completed {
            return Ok(status);
        }
        if status.dead + status.retried > 0 {
            return Err(io::Error::other(format!("{} calls failed", status.dead + status.retried)));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Runs `work` while another thread keeps the node's count of completed calls up to date.
fn counting(platform: &Platform, work: impl FnOnce(&AtomicU64) -> io::Result<()>) -> io::Result<()> {
    let completed = AtomicU64::new(platform.status()?.completed);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let counter = scope.spawn(|| -> io::Result<()> {
            while !done.load(Relaxed) {
                completed.store(platform.status()?.completed, Relaxed);
                std::thread::sleep(LOOK);
            }
            Ok(())
        });
        let result = work(&completed);
        done.store(true, Relaxed);
        counter.join().expect("the counter does not panic").and(result)
    })
}
