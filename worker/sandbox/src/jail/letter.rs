//! What the jailer and a sandbox's first process write to each other, in plain bytes: read and written without a heap.
//!
//! The first process trusts these bytes: they come from the process that made it, through a socket that nobody else
//! has. The jailer does not trust what comes back more than it must: it is of fixed size and only numbers.

/// Bytes of a letter to the first process at most: a command, its candidates and two environments.
pub const LETTER_BYTES_MAX: usize = 192 << 10;
/// Texts in a letter at most.
pub const TEXTS_MAX: usize = 1024;
/// Descriptors beside a letter at most.
pub const DESCRIPTORS_MAX: usize = 40;
/// Devices of one sandbox at most.
pub const DEVICES_MAX: usize = 32;

/// The uid and gid of the function inside.
pub const FUNCTION_ID: u32 = 1000;
/// The port of the Runtime API in a network namespace of one's own.
pub const API_PORT: u16 = 9001;
/// Where the bundle is.
pub const TASK: &str = "/var/task";

/// To the first process: what to do.
pub mod word {
    /// The ids are mapped, the cgroups joined: make namespaces and root your own. Answered by `READY`.
    pub const GO: u32 = 1;
    /// Become this function's sandbox. Descriptors: bundle, `/tmp`, ruleset, then devices. Texts: the host name, the
    /// devices' paths. Answered by `FITTED`, but not where a `RUN` follows at once, whose answer says both.
    pub const FIT: u32 = 2;
    /// Run a command. Descriptors: stdin, stdout, stderr. Texts: candidates, arguments, environment.
    pub const RUN: u32 = 3;
    /// SIGTERM to what runs; end when it has ended.
    pub const TERM: u32 = 4;
}

/// From the first process: what happened.
pub mod answer {
    /// The blank is ready. A descriptor: the listener, if the network is its own.
    pub const READY: u32 = 1;
    /// It is the function's sandbox.
    pub const FITTED: u32 = 2;
    /// The command was executed.
    pub const RUNNING: u32 = 3;
    /// It was not: `step`, `errno`.
    pub const NOT_RUN: u32 = 4;
    /// It ended: `status` as of `wait`, `peak_kib`, `cpu_ns`.
    pub const ENDED: u32 = 5;
    /// The sandbox cannot be made: `step`, `errno`. It ends.
    pub const FAILED: u32 = 6;
}

/// Flag of `RUN`: the sandbox ends with this command.
pub const LAST: u32 = 1;
/// Flag of `RUN`: the tier is strict.
pub const STRICT: u32 = 2;
/// Flag of `FIT`: a ruleset is among the descriptors.
pub const RULESET: u32 = 4;
/// Flag of `FIT`: a `RUN` follows at once.
pub const FOLLOWED: u32 = 16;
/// Flag of `RUN`: it has devices of the host.
pub const DISKS: u32 = 8;

/// Which of the filters for a `RUN` with these flags: default, strict, and the same with devices.
pub fn filter(flags: u32) -> usize {
    usize::from(flags & STRICT != 0) + 2 * usize::from(flags & DISKS != 0)
}

/// The fixed part of a letter to the first process.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Head {
    /// Of [`word`].
    pub word: u32,
    /// Flags of this word.
    pub flags: u32,
    /// The run.
    pub run: u64,
    /// Open files of a process (`FIT`).
    pub files: u64,
    /// Texts in each of three lists.
    pub texts: [u32; 3],
    /// Zero.
    pub spare: u32,
}

/// A letter from the first process.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Of [`answer`].
    pub kind: u32,
    /// Which step failed; see [`Step`].
    pub step: u32,
    /// Why.
    pub errno: i32,
    /// As `wait` gives it.
    pub status: i32,
    /// The run.
    pub run: u64,
    /// Largest resident memory, KiB.
    pub peak_kib: u64,
    /// CPU time, nanoseconds.
    pub cpu_ns: u64,
}

/// Bytes of [`Head`].
pub const HEAD_BYTES: usize = size_of::<Head>();
/// Bytes of [`Answer`].
pub const ANSWER_BYTES: usize = size_of::<Answer>();

impl Answer {
    /// Its bytes.
    pub fn bytes(&self) -> [u8; ANSWER_BYTES] {
        // SAFETY: the struct has no padding (four numbers of 4 bytes, then of 8) and any bytes are valid for both.
        unsafe { std::mem::transmute(*self) }
    }

    /// From its bytes; none if the length is wrong.
    pub fn from_bytes(bytes: &[u8]) -> Option<Answer> {
        let bytes: [u8; ANSWER_BYTES] = bytes.try_into().ok()?;
        // SAFETY: as above.
        Some(unsafe { std::mem::transmute::<[u8; ANSWER_BYTES], Answer>(bytes) })
    }
}

const _: () = assert!(ANSWER_BYTES == 40 && HEAD_BYTES == 40);

impl Head {
    /// From the begin of a letter; none if it is too short.
    pub fn from_bytes(bytes: &[u8]) -> Option<Head> {
        let bytes: [u8; HEAD_BYTES] = bytes.get(..HEAD_BYTES)?.try_into().ok()?;
        // SAFETY: no padding, any bytes are valid for both.
        Some(unsafe { std::mem::transmute::<[u8; HEAD_BYTES], Head>(bytes) })
    }

    /// A whole letter: this head, with the counts of the lists, then each text with a zero byte. None if it is longer
    /// than [`LETTER_BYTES_MAX`] or has more texts than [`TEXTS_MAX`].
    pub fn letter(mut self, lists: [&[String]; 3]) -> Option<Vec<u8>> {
        self.texts = lists.map(|list| list.len() as u32);
        if lists.iter().map(|list| list.len()).sum::<usize>() > TEXTS_MAX {
            return None;
        }
        // SAFETY: as above.
        let head: [u8; HEAD_BYTES] = unsafe { std::mem::transmute(self) };
        let mut bytes = head.to_vec();
        for text in lists.into_iter().flatten() {
            debug_assert!(!text.contains('\0'), "a checked spec has no zero bytes");
            bytes.extend_from_slice(text.as_bytes());
            bytes.push(0);
        }
        (bytes.len() <= LETTER_BYTES_MAX).then_some(bytes)
    }
}

/// What can fail inside, as a number and for people.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Step {
    Cgroups,
    Descriptors,
    Signals,
    Identity,
    CgroupNamespace,
    Loopback,
    Private,
    RootTree,
    RootMove,
    Proc,
    Pivot,
    OldRoot,
    Listener,
    Capabilities,
    Letter,
    HostName,
    Bundle,
    Tmp,
    Device,
    Fork,
    Session,
    Limits,
    Directory,
    Bounding,
    SecureBits,
    NoNewPrivileges,
    Landlock,
    Seccomp,
    Exec,
    Runs,
}

impl Step {
    /// Every step, in the order of its number.
    const ALL: [(Step, &'static str); 30] = [
        (Step::Cgroups, "join its cgroups"),
        (Step::Descriptors, "give it its descriptors"),
        (Step::Signals, "set up its signals"),
        (Step::Identity, "take its user id"),
        (Step::CgroupNamespace, "make a cgroup namespace"),
        (Step::Loopback, "bring its loopback interface up"),
        (Step::Private, "make its mounts private"),
        (Step::RootTree, "copy the tree of its root"),
        (Step::RootMove, "mount its root"),
        (Step::Proc, "mount /proc"),
        (Step::Pivot, "pivot to its root"),
        (Step::OldRoot, "unmount the host's root"),
        (Step::Listener, "listen for the Runtime API"),
        (Step::Capabilities, "drop capabilities"),
        (Step::Letter, "read what to do"),
        (Step::HostName, "set its host name"),
        (Step::Bundle, "mount the bundle at /var/task"),
        (Step::Tmp, "mount /tmp"),
        (Step::Device, "mount a device"),
        (Step::Fork, "start a process"),
        (Step::Session, "make a session"),
        (Step::Limits, "set resource limits"),
        (Step::Directory, "go to /var/task"),
        (Step::Bounding, "clear the capability bounding set"),
        (Step::SecureBits, "lock the secure bits"),
        (Step::NoNewPrivileges, "set no_new_privs"),
        (Step::Landlock, "apply Landlock"),
        (Step::Seccomp, "apply seccomp"),
        (Step::Exec, "execute the command"),
        (Step::Runs, "run so many commands at once"),
    ];

    /// What the step does, for people.
    pub fn text(number: u32) -> &'static str {
        Step::ALL.get(number as usize).map_or("do an unknown step", |(_, text)| text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_come_back() {
        let answer = Answer { kind: answer::ENDED, status: 9, run: u64::MAX, cpu_ns: 7, ..Answer::default() };
        assert_eq!(Answer::from_bytes(&answer.bytes()), Some(answer));
        assert_eq!(Answer::from_bytes(&[0; 39]), None);
        let head = Head { word: word::RUN, run: 5, files: 3, ..Head::default() };
        let letter = head.letter([&["a".into()], &[], &["b=c".into(), String::new()]]).unwrap();
        let back = Head::from_bytes(&letter).unwrap();
        assert_eq!((back.word, back.run, back.files, back.texts), (word::RUN, 5, 3, [1, 0, 2]));
        assert_eq!(&letter[HEAD_BYTES..], b"a\0b=c\0\0");
        assert!(head.letter([&["x".repeat(LETTER_BYTES_MAX)], &[], &[]]).is_none());
    }

    #[test]
    fn steps_have_their_numbers() {
        for (number, (step, _)) in Step::ALL.iter().enumerate() {
            assert_eq!(*step as usize, number);
        }
        assert_eq!(Step::text(10_000), "do an unknown step");
    }
}
