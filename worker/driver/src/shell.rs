//! The executor around a pinned core's loop: glommio, and nothing of it outside of this file.
//!
//! A worker core or control node is a loop of `reap` and one step of its state machine. Inside [`run_pinned`] that
//! loop is one task of a glommio executor that owns the CPU: while there is work it ticks the ring and lets others
//! run when their share is due; without work it spins for a moment, sleeps in the ring until that share is due, then
//! parks on an eventfd that the ring rings.
//! Cold tasks (timers, housekeeping of files) share the thread without locks.
//!
//! Worker cores run here; the control node's ring loop may as well. Clients, tools and tests use
//! [`crate::Driver::reap`], which sleeps in the ring itself and needs no executor.
//!
//! Why an eventfd: polling the ring's own descriptor never wakes anybody with DEFER_TASKRUN. Why a socket type for
//! it: glommio has no public `poll`; its `UnixStream` arms one when it is made, and a read resolves (with ENOTSOCK)
//! as soon as the descriptor is readable.
//!
//! Why the loop ends its turns itself: glommio 0.9 sleeps with tasks ready to run if its preemption timer fires before
//! it has looked at them (`run_task_queues` then says that nothing ran, which `run` takes for "nothing to run"; polling
//! for news swallows the timer's completion). It needs no more than the CPU taken away for the timer's time between two
//! instructions, and nothing wakes such a thread: its news have been heard. So that timer is set to [`NO_PREEMPTION`],
//! and the loop makes way each [`COLD_TURN`] by the driver's clock. A wake-up by another thread (a foreign waker,
//! glommio's pool for blocking calls) goes the same way as that timer: cold tasks must not wait for other threads.

use crate::arrivals::Arrivals;
use crate::seam::Driver;
use crate::topology;
use crate::uring::{self, Options, Uring};
use call::Instant;
use futures_lite::AsyncReadExt;
use glommio::net::UnixStream;
use glommio::{LocalExecutorBuilder, Placement};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::future::Future;
use std::io;
use std::os::fd::{AsFd, FromRawFd, IntoRawFd};
use std::time::Duration;

/// Memory that glommio registers for its own file I/O, in each of its three rings. Hot I/O does not use it, so this
/// is the least that serves cold tasks (the default of 10 MiB pins 30 MiB per core).
const COLD_IO_BYTES: usize = 1 << 20;
/// A busy loop lets cold tasks run at least this often.
const COLD_TURN: Duration = Duration::from_millis(10);
/// What a loop waits for to let them run: glommio looks for news only when all tasks wait. Longer than it takes to
/// begin waiting, and over, or nearly, when glommio has looked.
const COLD_MOMENT: Duration = Duration::from_micros(1);
/// When glommio would end a task's turn: later than any CPU is taken away from a thread. See above.
const NO_PREEMPTION: Duration = Duration::from_secs(365 * 24 * 3600);

/// How a task waits for its driver. One for each driver.
pub struct Shell {
    news: EventFd,
    /// When cold tasks are due to run.
    turn_ends: Instant,
}

/// Runs `body` on the calling thread, pinned to `cpu`, with a driver made there.
///
/// Fails with the remedy in its message if the CPU is not ours, if too little memory may be locked, or if the driver
/// cannot be made.
pub fn run_pinned<T, F: Future<Output = T>>(
    cpu: usize,
    options: Options,
    body: impl FnOnce(Uring, Shell) -> F,
) -> io::Result<T> {
    topology::check_memlock(0)?;
    // glommio panics where no ring may be made.
    uring::check()?;
    topology::pin(cpu)?;
    // Without it the loop runs, only later beside others that want its CPU: the driver's backends tell.
    let _ = topology::take_precedence();
    let executor = LocalExecutorBuilder::new(Placement::Fixed(cpu))
        .name("millrace")
        .io_memory(COLD_IO_BYTES)
        .preempt_timer(NO_PREEMPTION)
        .make()
        .map_err(|error| io::Error::other(format!("cannot start an executor on CPU {cpu}: {error}")))?;
    executor.run(async {
        let mut driver = Uring::new(options)?;
        let shell = Shell::new(&mut driver)?;
        Ok(body(driver, shell).await)
    })
}

/// Starts a cold task beside the loop; it ends with the executor.
pub fn spawn_cold(task: impl Future<Output = ()> + 'static) {
    glommio::spawn_local(task).detach();
}

/// Lets other tasks run for this long at least.
pub async fn sleep(time: Duration) {
    glommio::timer::sleep(time).await;
}

impl Shell {
    fn new(driver: &mut Uring) -> io::Result<Shell> {
        let news = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        driver.ring_on_news(news.as_fd())?;
        Ok(Shell { news, turn_ends: driver.precise() + COLD_TURN })
    }

    /// As [`Driver::reap`], leaving the thread to other tasks instead of sleeping on it.
    pub async fn reap(&mut self, driver: &mut Uring, until: Instant, into: &mut Arrivals) {
        if driver.tick(into) == 0 && until > driver.now() {
            // Sleeping in the ring is one system call, parking more than ten: it is for long pauses.
            if !driver.spin_for_news(until)
                && !driver.sleep_for_news(until.min(self.turn_ends))
                && until > self.turn_ends
            {
                self.park(driver, until).await;
            }
            driver.tick(into);
        }
        if driver.now() >= self.turn_ends {
            sleep(COLD_MOMENT).await;
            self.turn_ends = driver.precise() + COLD_TURN;
        }
    }

    async fn park(&mut self, driver: &mut Uring, until: Instant) {
        if !driver.prepare_to_park(until) {
            return;
        }
        match self.news.as_fd().try_clone_to_owned() {
            Ok(copy) => {
                // SAFETY: the copy is ours alone; the stream closes it.
                let mut stream = unsafe { UnixStream::from_raw_fd(copy.into_raw_fd()) };
                let _ = stream.read(&mut [0; 8]).await;
            }
            // No descriptor left: look again soon, in the hope that one is.
            Err(_) => sleep(Duration::from_millis(1)).await,
        }
        let _ = self.news.read();
        driver.parked();
        self.turn_ends = driver.precise() + COLD_TURN;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::monotonic;
    use crate::{Endpoint, Event};
    use call::frame::{FrameBuf, Header, Kind, append};
    use std::cell::Cell;
    use std::rc::Rc;

    const ROUNDS: u64 = 300;

    async fn echo(mut driver: Uring, mut shell: Shell, at: Endpoint) -> u32 {
        let turns = Rc::new(Cell::new(0));
        spawn_cold({
            let turns = turns.clone();
            async move {
                loop {
                    sleep(Duration::from_millis(1)).await;
                    turns.set(turns.get() + 1);
                }
            }
        });
        driver.listen(&at).unwrap();
        let mut arrivals = Arrivals::new();
        loop {
            shell.reap(&mut driver, Instant::NEVER, &mut arrivals).await;
            for event in arrivals.iter() {
                match event {
                    Event::Frame { connection, frame } => driver.send(connection, frame.bytes()).unwrap(),
                    Event::Closed { .. } => return turns.get(),
                    _ => {}
                }
            }
        }
    }

    fn ask(at: &Endpoint) {
        let mut driver = Uring::new(Options::default()).unwrap();
        let mut arrivals = Arrivals::new();
        let mut to = driver.connect(at);
        let mut answers = 0;
        let mut frame = FrameBuf::new();
        append(&mut frame, &Header::new(Kind::Credit), b"");
        while answers < ROUNDS {
            // Long pauses let the other side park.
            if answers.is_multiple_of(10) {
                std::thread::sleep(Duration::from_millis(1));
            }
            driver.reap(driver.precise() + Duration::from_secs(20), &mut arrivals);
            for event in arrivals.iter() {
                match event {
                    Event::Connected { connection } => driver.send(connection, &frame).unwrap(),
                    Event::Frame { connection, .. } => {
                        answers += 1;
                        driver.send(connection, &frame).unwrap();
                    }
                    Event::Closed { .. } => {
                        std::thread::sleep(Duration::from_millis(5));
                        to = driver.connect(at);
                    }
                    _ => {}
                }
            }
        }
        driver.close(to);
    }

    #[test]
    fn the_loop_parks_wakes_and_leaves_time_to_cold_tasks() {
        let dir = tempfile::tempdir().unwrap();
        for at in [Endpoint::Unix(dir.path().join("unix")), Endpoint::Shm(dir.path().join("shm"))] {
            let asked = std::thread::spawn({
                let at = at.clone();
                move || ask(&at)
            });
            let cpu = topology::cpus()[0];
            let served = std::thread::spawn({
                let at = at.clone();
                move || run_pinned(cpu, Options::default(), |driver, shell| echo(driver, shell, at)).unwrap()
            });
            asked.join().unwrap();
            assert!(served.join().unwrap() > 0, "{at}: the cold task had its turns");
        }
    }

    #[test]
    fn a_loop_without_news_goes_on_when_its_time_has_come() {
        let cpu = topology::cpus()[0];
        let late = std::thread::spawn(move || {
            run_pinned(cpu, Options::default(), |mut driver, mut shell| async move {
                let mut arrivals = Arrivals::new();
                let mut rounds = 0;
                let until = driver.precise() + Duration::from_millis(20);
                while driver.precise() < until {
                    shell.reap(&mut driver, until, &mut arrivals).await;
                    rounds += 1;
                }
                rounds
            })
            .unwrap()
        })
        .join()
        .unwrap();
        assert!(late < 100, "it slept rather than spun: {late} rounds");
    }

    /// Takes the CPU from all threads of idle priority on it, for longer than a cold turn, again and again. In
    /// between they get moments of random length, so that each point of their loops is interrupted now and then.
    fn hog(cpu: usize, until: Instant) {
        topology::pin(cpu).unwrap();
        let mut random = 1u64;
        while monotonic() < until {
            let stop = monotonic() + COLD_TURN * 3 / 2;
            while monotonic() < stop {
                std::hint::spin_loop();
            }
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            std::thread::sleep(Duration::from_micros(random >> 55));
        }
    }

    /// Lowers the calling thread below all others: whoever wants its CPU has it.
    fn yield_to_everybody() {
        let none = libc::sched_param { sched_priority: 0 };
        // SAFETY: the parameters outlive the call; 0 is the calling thread.
        let set = unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &none) };
        assert_eq!(set, 0, "each thread may lower itself");
    }

    /// With glommio's preemption timer at [`COLD_TURN`], this one sleeps for good in four of five runs.
    #[test]
    fn a_loop_whose_cpu_is_taken_away_at_any_point_wakes_again() {
        let cpu = topology::cpus()[0];
        let stop = monotonic() + Duration::from_secs(5);
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            yield_to_everybody();
            let options = Options { spin: Duration::ZERO, ..Options::default() };
            run_pinned(cpu, options, |mut driver, mut shell| async move {
                let mut arrivals = Arrivals::new();
                let mut rounds = 0;
                while driver.precise() < stop {
                    let until = driver.precise() + Duration::from_micros(20);
                    shell.reap(&mut driver, until, &mut arrivals).await;
                    rounds += 1;
                }
                tell.send(rounds).unwrap();
            })
            .unwrap();
        });
        hog(cpu, stop);
        let rounds =
            told.recv_timeout(Duration::from_secs(60)).expect("the loop sleeps though its time has come");
        assert!(rounds > 0, "it had its moments");
    }

    #[test]
    fn a_loop_that_never_waits_makes_way_for_cold_tasks() {
        let cpu = topology::cpus()[0];
        let turns = std::thread::spawn(move || {
            run_pinned(cpu, Options::default(), |mut driver, mut shell| async move {
                let turns = Rc::new(Cell::new(0));
                spawn_cold({
                    let turns = turns.clone();
                    async move {
                        loop {
                            sleep(Duration::from_millis(1)).await;
                            turns.set(turns.get() + 1);
                        }
                    }
                });
                let mut arrivals = Arrivals::new();
                let patience = driver.precise() + Duration::from_secs(20);
                while turns.get() < 10 && driver.precise() < patience {
                    shell.reap(&mut driver, Instant(0), &mut arrivals).await;
                }
                turns.get()
            })
            .unwrap()
        })
        .join()
        .unwrap();
        assert_eq!(turns, 10);
    }

    #[test]
    fn a_cpu_that_is_not_ours_is_refused_with_the_list_of_those_that_are() {
        let told = std::thread::spawn(|| {
            run_pinned(900, Options::default(), |_, _| async {}).unwrap_err().to_string()
        })
        .join()
        .unwrap();
        assert!(told.contains("may use"), "{told}");
    }
}
