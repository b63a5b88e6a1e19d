//! Ticks that end a call's slice.
//!
//! Guests compare a counter, the epoch, with a deadline at every loop and function entry; someone must
//! advance it. That is a POSIX timer whose signal comes to the core's own thread: about 1 us per tick, no
//! other thread to wake, and it comes also while the guest never leaves its loop. The timer disarms itself at
//! the first tick since which no slice ran, so that an idle core sleeps undisturbed.

use std::io;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering::Relaxed};
use std::time::Duration;
use wasmtime::Engine;

/// Shared between the core's loop and the signal handler on the same thread: atomics for the compiler's sake.
struct Tick {
    engine: Engine,
    /// A slice runs now: it must not lose its ticks, however long it takes.
    running: AtomicBool,
    /// A slice ran since the last tick.
    ran: AtomicBool,
    /// The timer runs.
    armed: AtomicBool,
    timer: AtomicPtr<libc::c_void>,
}

/// The timer of one core. Stays on the thread that made it, since the signal goes there.
pub struct Ticker {
    tick: &'static Tick,
    period: libc::itimerspec,
    on_one_thread: PhantomData<*const ()>,
}

impl Ticker {
    /// A disarmed timer that will advance the epoch of `engine` each `period`.
    ///
    /// # Errors
    /// What `sigaction` or `timer_create` said.
    pub fn new(engine: &Engine, period: Duration) -> io::Result<Ticker> {
        install()?;
        // Never freed: a signal of a deleted timer may still be under way. One per core's life.
        let tick: &'static Tick = Box::leak(Box::new(Tick {
            engine: engine.clone(),
            running: AtomicBool::new(false),
            ran: AtomicBool::new(false),
            armed: AtomicBool::new(false),
            timer: AtomicPtr::default(),
        }));
        tick.timer.store(create(tick)?, Relaxed);
        let step = libc::timespec {
            tv_sec: period.as_secs() as libc::time_t,
            tv_nsec: libc::c_long::from(period.subsec_nanos().max(1)),
        };
        let period = libc::itimerspec { it_interval: step, it_value: step };
        Ok(Ticker { tick, period, on_one_thread: PhantomData })
    }

    /// A slice begins: there are ticks until it ends.
    pub fn begin(&self) {
        self.tick.running.store(true, Relaxed);
        self.tick.ran.store(true, Relaxed);
        if !self.tick.armed.load(Relaxed) {
            self.arm();
        }
    }

    /// The slice has ended.
    pub fn end(&self) {
        self.tick.running.store(false, Relaxed);
    }

    #[cold]
    fn arm(&self) {
        self.tick.armed.store(true, Relaxed);
        set(self.tick, &self.period);
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        // SAFETY: the timer was made by `create` and is deleted here only.
        unsafe { libc::timer_delete(self.tick.timer.load(Relaxed)) };
    }
}

/// Not used by wasmtime (SIGSEGV, SIGILL, SIGFPE), glibc (the first two real-time signals) or job control.
fn signal() -> libc::c_int {
    libc::SIGRTMIN() + 8
}

fn install() -> io::Result<()> {
    // SAFETY: all zeros is a valid `sigaction`: no flags, an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_tick as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART | libc::SA_ONSTACK;
    // SAFETY: `on_tick` has the signature that SA_SIGINFO asks for and is async-signal-safe.
    match unsafe { libc::sigaction(signal(), &action, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A timer whose signals carry `tick` and come to this thread.
fn create(tick: &'static Tick) -> io::Result<libc::timer_t> {
    // SAFETY: all zeros is a valid `sigevent`.
    let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
    event.sigev_notify = libc::SIGEV_THREAD_ID;
    event.sigev_signo = signal();
    event.sigev_value.sival_ptr = std::ptr::from_ref(tick).cast_mut().cast();
    // SAFETY: no arguments, cannot fail.
    event.sigev_notify_thread_id = unsafe { libc::gettid() };
    let mut timer: libc::timer_t = std::ptr::null_mut();
    // SAFETY: both pointers are to live locals.
    match unsafe { libc::timer_create(libc::CLOCK_MONOTONIC, &mut event, &mut timer) } {
        0 => Ok(timer),
        _ => Err(io::Error::last_os_error()),
    }
}

fn set(tick: &Tick, to: &libc::itimerspec) {
    // SAFETY: the timer lives as long as its `Ticker`; a tick of a deleted one gets an error here that
    // changes nothing.
    unsafe { libc::timer_settime(tick.timer.load(Relaxed), 0, to, std::ptr::null_mut()) };
}

/// The signal handler: one tick. `timer_settime` and atomics are async-signal-safe, and so is
/// `increment_epoch`.
extern "C" fn on_tick(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid `siginfo_t`; its value is what `create` put there, a leaked `Tick`.
    let tick: &'static Tick = unsafe { &*(*info).si_value().sival_ptr.cast::<Tick>() };
    tick.engine.increment_epoch();
    if !tick.ran.swap(false, Relaxed) && !tick.running.load(Relaxed) {
        tick.armed.store(false, Relaxed);
        let never = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        set(tick, &libc::itimerspec { it_interval: never, it_value: never });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    /// Waits for something that ticks bring; a loaded machine may need long.
    fn wait_until(it_is_so: impl Fn() -> bool) {
        let from = Instant::now();
        while !it_is_so() {
            assert!(from.elapsed() < Duration::from_secs(20), "the ticks do not come");
            std::hint::spin_loop();
        }
    }

    #[test]
    fn the_timer_runs_while_calls_run_and_then_stops_itself() {
        let ticker = Ticker::new(&Engine::default(), Duration::from_millis(1)).unwrap();
        assert!(!ticker.tick.armed.load(Relaxed));
        for _ in 0..3 {
            ticker.begin();
            assert!(ticker.tick.armed.load(Relaxed));
            let from = Instant::now();
            while from.elapsed() < Duration::from_millis(20) {
                ticker.begin();
                ticker.end();
            }
            assert!(ticker.tick.armed.load(Relaxed));
            wait_until(|| !ticker.tick.armed.load(Relaxed));
        }
    }

    /// An endless loop depends on it.
    #[test]
    fn a_slice_keeps_its_ticks_however_long_it_takes() {
        let ticker = Ticker::new(&Engine::default(), Duration::from_millis(1)).unwrap();
        ticker.begin();
        let from = Instant::now();
        while from.elapsed() < Duration::from_millis(20) {
            assert!(ticker.tick.armed.load(Relaxed), "the slice lost its ticks");
        }
        ticker.end();
        wait_until(|| !ticker.tick.armed.load(Relaxed));
    }

    #[test]
    fn ticks_reach_the_thread_that_made_the_timer() {
        let ticker = Ticker::new(&Engine::default(), Duration::from_millis(1)).unwrap();
        ticker.begin();
        // Cleared by the handler only.
        wait_until(|| !ticker.tick.ran.load(Relaxed));
    }
}
