//! Clocks, and waiting for them.

use super::{Errno, INVAL, MODULE, SUCCESS, load_u32, on_memory, part, store};
use crate::wasm::host::Host;
use std::future::poll_fn;
use std::task::Poll;
use wasmtime::{Caller, Linker};

/// Clock ids of preview 1. The CPU clocks are not offered: they would show a guest the others' work.
const REALTIME: u32 = 0;
const MONOTONIC: u32 = 1;

/// Bytes of a subscription and of an event.
const SUBSCRIPTION: usize = 48;
const EVENT: usize = 32;
/// A subscription's type byte for a clock; the others are for descriptors.
const ON_CLOCK: u8 = 0;
/// `subclockflags`: the time-out is a point in time.
const ABSOLUTE: u16 = 1;
/// Subscriptions of one `poll_oneoff` at most.
const SUBSCRIPTIONS_MAX: usize = 1024;

pub(super) fn link(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    linker.func_wrap(MODULE, "clock_res_get", |mut caller: Caller<'_, Host>, clock: i32, at: i32| {
        on_memory(&mut caller, |memory, _| {
            now(clock as u32)?;
            store(memory, at, &1_u64.to_le_bytes())
        })
    })?;
    linker.func_wrap(
        MODULE,
        "clock_time_get",
        |mut caller: Caller<'_, Host>, clock: i32, _: i64, at: i32| {
            on_memory(&mut caller, |memory, _| store(memory, at, &now(clock as u32)?.to_le_bytes()))
        },
    )?;
    linker.func_wrap_async(MODULE, "sched_yield", |_: Caller<'_, Host>, ()| {
        Box::new(async {
            end_slice().await;
            SUCCESS
        })
    })?;
    linker.func_wrap_async(
        MODULE,
        "poll_oneoff",
        |mut caller: Caller<'_, Host>, (subscriptions, events, count, ready): (i32, i32, i32, i32)| {
            Box::new(async move {
                let count = count as u32 as usize;
                let mut wait = Wait { until: u64::MAX, at_once: false };
                let read = on_memory(&mut caller, |memory, _| wait.read(memory, subscriptions, count));
                if read != SUCCESS {
                    return read;
                }
                while !wait.at_once && now(MONOTONIC).is_ok_and(|now| now < wait.until) {
                    caller.data().desk.sleeps_until.set(wait.until);
                    end_slice().await;
                }
                caller.data().desk.sleeps_until.set(0);
                on_memory(&mut caller, |memory, _| report(memory, subscriptions, count, events, ready))
            })
        },
    )?;
    Ok(())
}

/// Nanoseconds of a clock.
fn now(clock: u32) -> Result<u64, Errno> {
    let id = match clock {
        REALTIME => libc::CLOCK_REALTIME,
        MONOTONIC => libc::CLOCK_MONOTONIC,
        _ => return Err(INVAL),
    };
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a live local; both clocks exist on every Linux.
    unsafe { libc::clock_gettime(id, &mut time) };
    Ok(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

/// The guest sleeps, and others run.
pub(super) async fn sleep(caller: &mut Caller<'_, Host>, ns: u64) {
    let until = now(MONOTONIC).expect("the clock exists").saturating_add(ns);
    while now(MONOTONIC).is_ok_and(|now| now < until) {
        caller.data().desk.sleeps_until.set(until);
        end_slice().await;
    }
    caller.data().desk.sleeps_until.set(0);
}

/// Lets other calls run.
pub(super) async fn end_slice() {
    let mut waited = false;
    poll_fn(|_| if std::mem::replace(&mut waited, true) { Poll::Ready(()) } else { Poll::Pending }).await
}

/// What a `poll_oneoff` waits for.
struct Wait {
    /// The first clock, ns of the monotonic clock.
    until: u64,
    /// A descriptor is among the subscriptions: the standard streams never block.
    at_once: bool,
}

impl Wait {
    fn read(&mut self, memory: &mut [u8], subscriptions: i32, count: usize) -> Result<(), Errno> {
        if count == 0 || count > SUBSCRIPTIONS_MAX {
            return Err(INVAL);
        }
        for each in part(memory, subscriptions, count * SUBSCRIPTION)?.as_chunks::<SUBSCRIPTION>().0 {
            match due(each)? {
                Some(due) => self.until = self.until.min(due),
                None => self.at_once = true,
            }
        }
        Ok(())
    }
}

/// When a subscription is due by the monotonic clock; nothing for a descriptor.
fn due(subscription: &[u8; SUBSCRIPTION]) -> Result<Option<u64>, Errno> {
    if subscription[8] != ON_CLOCK {
        return Ok(None);
    }
    let clock = u32::from_le_bytes(subscription[16..20].try_into().expect("4 bytes"));
    let timeout = u64::from_le_bytes(subscription[24..32].try_into().expect("8 bytes"));
    let flags = u16::from_le_bytes(subscription[40..42].try_into().expect("2 bytes"));
    let wait = if flags & ABSOLUTE != 0 { timeout.saturating_sub(now(clock)?) } else { timeout };
    now(clock)?;
    Ok(Some(now(MONOTONIC)?.saturating_add(wait)))
}

/// Writes an event for each subscription that has come true: all descriptors, or else every clock. A clock
/// that is not yet due may be told early only together with one that is, which callers must expect anyway.
fn report(memory: &mut [u8], subscriptions: i32, count: usize, events: i32, ready: i32) -> Result<(), Errno> {
    let mut any_stream = false;
    for n in 0..count {
        any_stream |= !on_clock(memory, subscriptions, n)?;
    }
    let mut told = 0;
    for n in 0..count {
        if any_stream && on_clock(memory, subscriptions, n)? {
            continue;
        }
        let mut event = [0; EVENT];
        let from = subscriptions.wrapping_add((n * SUBSCRIPTION) as i32);
        event[..8].copy_from_slice(part(memory, from, 8)?);
        event[10] = part(memory, from.wrapping_add(8), 1)?[0];
        store(memory, events.wrapping_add((told * EVENT) as i32), &event)?;
        told += 1;
    }
    store(memory, ready, &(told as u32).to_le_bytes())
}

fn on_clock(memory: &mut [u8], subscriptions: i32, n: usize) -> Result<bool, Errno> {
    let from = subscriptions.wrapping_add((n * SUBSCRIPTION + 8) as i32);
    Ok(load_u32(memory, from)? as u8 == ON_CLOCK)
}
