//! The io_uring instance: how it is set up, how entries get in, when the kernel is entered.

use io_uring::squeue::Entry;
use io_uring::{IoUring, types};
use std::collections::VecDeque;
use std::io;
use std::time::Duration;

/// `IORING_ENTER_GETEVENTS`: without it a DEFER_TASKRUN ring never completes anything while one only peeks.
const GETEVENTS: u32 = 1;

/// What an entry was for; comes back in its completion. Numbers live in the top byte of `user_data`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Purpose {
    Accept = 1,
    Connect,
    Receive,
    Send,
    /// Readability of the Unix socket beside a shared-memory link.
    Watch,
    /// The doorbell of a shared-memory link.
    Bell,
    /// A read or write of a block.
    Block,
    /// A step in making a file.
    Create,
    /// A step in removing or renaming a file.
    Directory,
    Timer,
    /// Nobody waits for it.
    Forget,
}

/// `user_data` of an entry: what for, and the index of whom it concerns. An index is not reused before the last
/// completion that names it has been seen, so no generation is needed here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Subject(pub Purpose, pub u32);

impl Subject {
    pub(super) fn user_data(self) -> u64 {
        (self.0 as u64) << 56 | u64::from(self.1)
    }

    fn from_user_data(user_data: u64) -> Subject {
        const ALL: [Purpose; 11] = [
            Purpose::Accept,
            Purpose::Connect,
            Purpose::Receive,
            Purpose::Send,
            Purpose::Watch,
            Purpose::Bell,
            Purpose::Block,
            Purpose::Create,
            Purpose::Directory,
            Purpose::Timer,
            Purpose::Forget,
        ];
        Subject(ALL[(user_data >> 56) as usize - 1], user_data as u32)
    }
}

/// One completion.
#[derive(Clone, Copy, Debug)]
pub(super) struct Completion {
    pub subject: Subject,
    /// Bytes, a descriptor, or a negative errno.
    pub result: i32,
    /// `IORING_CQE_F_*`.
    pub flags: u32,
}

pub(super) struct Ring {
    io: IoUring,
    /// Entries that found the submission queue full twice; they go first next time.
    backlog: VecDeque<Entry>,
    setup: &'static str,
    best: bool,
    /// Whether the kernel says in shared memory that completions wait to be collected, so that spinning costs no
    /// system call.
    tells: bool,
}

impl Ring {
    /// Sets up the best ring this kernel has.
    pub(super) fn new(entries: u32) -> io::Result<Ring> {
        let attempts: [(&'static str, bool, bool, bool); 3] = [
            ("SINGLE_ISSUER DEFER_TASKRUN TASKRUN_FLAG", true, true, true),
            (
                "SINGLE_ISSUER COOP_TASKRUN TASKRUN_FLAG (no DEFER_TASKRUN: kernel before 6.1)",
                true,
                false,
                true,
            ),
            ("plain (no COOP_TASKRUN: kernel before 5.19)", false, false, false),
        ];
        let mut refused = None;
        for (setup, single, defer, coop) in attempts {
            let mut builder = IoUring::builder();
            builder.setup_cqsize(entries * 8).setup_submit_all().setup_clamp().dontfork();
            if single {
                builder.setup_single_issuer();
            }
            if defer {
                builder.setup_defer_taskrun();
            }
            if coop {
                builder.setup_coop_taskrun().setup_taskrun_flag();
            }
            match builder.build(entries) {
                Ok(io) => {
                    return Ok(Ring {
                        io,
                        backlog: VecDeque::with_capacity(64),
                        setup,
                        best: defer,
                        tells: coop,
                    });
                }
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => refused = Some(error),
                Err(error) => return Err(explain_setup(error)),
            }
        }
        Err(explain_setup(refused.expect("three attempts")))
    }

    /// Whether it is the best kind of ring that we know.
    pub(super) fn is_best(&self) -> bool {
        self.best
    }

    /// The flags in force.
    pub(super) fn setup(&self) -> &'static str {
        self.setup
    }

    pub(super) fn submitter(&self) -> io_uring::Submitter<'_> {
        self.io.submitter()
    }

    /// Queues an entry for the next enter.
    ///
    /// # Safety
    /// All that the entry points to stays valid and unmoved until its last completion.
    pub(super) unsafe fn push(&mut self, entry: Entry, subject: Subject) {
        let entry = entry.user_data(subject.user_data());
        if self.backlog.is_empty() {
            // SAFETY: the caller's promise.
            if unsafe { self.io.submission().push(&entry) }.is_ok() {
                return;
            }
            let _ = self.enter();
            // SAFETY: the caller's promise.
            if unsafe { self.io.submission().push(&entry) }.is_ok() {
                return;
            }
        }
        self.backlog.push_back(entry);
    }

    /// Whether entries wait for the kernel.
    pub(super) fn has_queued(&mut self) -> bool {
        !self.backlog.is_empty() || !self.io.submission().is_empty()
    }

    /// Whether an enter or a look at the completion queue would bring something. No system call.
    pub(super) fn has_news(&mut self) -> bool {
        let submission = self.io.submission();
        let told = submission.taskrun() || submission.cq_overflow();
        drop(submission);
        told || !self.io.completion().is_empty()
    }

    /// Gives all queued entries to the kernel and lets it finish what is ready; does not sleep.
    pub(super) fn enter(&mut self) -> io::Result<()> {
        loop {
            self.refill();
            let queued = self.io.submission().len() as u32;
            // SAFETY: no argument is passed; the entries were vouched for when pushed.
            let entered = unsafe { self.io.submitter().enter::<libc::sigset_t>(queued, 0, GETEVENTS, None) };
            match entered {
                Ok(_) if self.backlog.is_empty() => return Ok(()),
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) => return pass_busy(error),
            }
        }
    }

    /// As [`Ring::enter`], only if there is a reason to.
    pub(super) fn enter_if_needed(&mut self) -> io::Result<()> {
        let told = {
            let submission = self.io.submission();
            submission.taskrun() || submission.cq_overflow()
        };
        if told || !self.tells || self.has_queued() { self.enter() } else { Ok(()) }
    }

    /// Gives all queued entries to the kernel and sleeps until a completion comes or `at_most` is over.
    pub(super) fn sleep(&mut self, at_most: Duration) -> io::Result<()> {
        self.refill();
        let timeout = types::Timespec::new().sec(at_most.as_secs()).nsec(at_most.subsec_nanos());
        let arguments = types::SubmitArgs::new().timespec(&timeout);
        match self.io.submitter().submit_with_args(1, &arguments) {
            Ok(_) => Ok(()),
            Err(error) => pass_busy(error),
        }
    }

    fn refill(&mut self) {
        while let Some(entry) = self.backlog.front() {
            // SAFETY: vouched for by the caller of `push`.
            if unsafe { self.io.submission().push(entry) }.is_err() {
                return;
            }
            self.backlog.pop_front();
        }
    }

    /// Takes all completions.
    pub(super) fn completions(&mut self, into: &mut impl Extend<Completion>) {
        into.extend(self.io.completion().map(|entry| Completion {
            subject: Subject::from_user_data(entry.user_data()),
            result: entry.result(),
            flags: entry.flags(),
        }));
    }

    /// Whether the kernel rings the registered eventfd for completions.
    pub(super) fn ring_eventfd(&mut self, on: bool) {
        let completion = self.io.completion();
        if on { completion.enable_eventfd() } else { completion.disable_eventfd() }
    }
}

/// Interrupted, timed out, or asked to collect completions first: the next round goes on.
fn pass_busy(error: io::Error) -> io::Result<()> {
    match error.raw_os_error() {
        Some(libc::EINTR | libc::ETIME | libc::EBUSY | libc::EAGAIN) => Ok(()),
        _ => Err(error),
    }
}

fn explain_setup(error: io::Error) -> io::Error {
    let disabled = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
    let why = match (error.raw_os_error(), disabled.trim()) {
        (Some(libc::ENOSYS), _) => "this kernel has no io_uring; Linux 6.1 or later is needed".to_owned(),
        (Some(libc::EPERM), level @ ("1" | "2")) => format!(
            "io_uring is switched off (kernel.io_uring_disabled = {level}); run `sysctl kernel.io_uring_disabled=0`"
        ),
        (Some(libc::EPERM), _) => {
            "io_uring is forbidden to this process, most likely by a container's seccomp \
             profile; allow io_uring_setup, io_uring_enter and io_uring_register there"
                .to_owned()
        }
        (Some(libc::ENOMEM), _) => {
            "no locked memory left for an io_uring; raise the limit with `ulimit -l` or \
             LimitMEMLOCK= of the service"
                .to_owned()
        }
        _ => format!("cannot set up an io_uring: {error}"),
    };
    io::Error::new(error.kind(), why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use io_uring::opcode;

    #[test]
    fn more_entries_than_the_queue_holds_all_complete() {
        let mut ring = Ring::new(8).unwrap();
        let mut done = Vec::new();
        for index in 0..100 {
            // SAFETY: a no-op points to nothing.
            unsafe { ring.push(opcode::Nop::new().build(), Subject(Purpose::Forget, index)) };
        }
        while done.len() < 100 {
            ring.enter().unwrap();
            ring.completions(&mut done);
        }
        let seen: Vec<u32> = done.iter().map(|completion| completion.subject.1).collect();
        assert_eq!(seen, (0..100).collect::<Vec<_>>());
        assert!(!ring.has_queued());
    }

    #[test]
    fn a_refused_setup_says_what_to_do() {
        let told = explain_setup(io::Error::from_raw_os_error(libc::EPERM)).to_string();
        assert!(told.contains("seccomp") || told.contains("sysctl"), "{told}");
    }
}
