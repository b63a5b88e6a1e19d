//! The Rust side of `include/abi.h`. Values come out of maps as bytes and are taken apart here, without unsafe code.

/// `RUNQ_BUCKETS`.
pub const BUCKETS: usize = 40;

/// Bytes of `struct runq_core`.
pub const CORE_BYTES: usize = 8 * (2 + BUCKETS);
/// Bytes of `struct runq_thread`.
pub const THREAD_BYTES: usize = 24;

/// `struct runq_core`.
#[derive(Clone, Copy, Debug)]
pub struct Core {
    pub cpu_ns: u64,
    pub switches: u64,
    pub delay: [u64; BUCKETS],
}

impl Core {
    /// Nothing counted.
    pub const ZERO: Core = Core { cpu_ns: 0, switches: 0, delay: [0; BUCKETS] };

    /// Adds what one CPU counted.
    pub fn add(&mut self, bytes: &[u8]) {
        assert_eq!(bytes.len(), CORE_BYTES, "struct runq_core and its mirror differ");
        self.cpu_ns += word(bytes, 0);
        self.switches += word(bytes, 1);
        self.delay.iter_mut().enumerate().for_each(|(bucket, count)| *count += word(bytes, 2 + bucket));
    }
}

/// `struct runq_thread`.
#[derive(Clone, Copy, Debug)]
pub struct Thread {
    pub tgid: u32,
    pub running_since: u64,
    pub waiting_since: u64,
}

impl Thread {
    pub fn from_bytes(bytes: &[u8]) -> Thread {
        assert_eq!(bytes.len(), THREAD_BYTES, "struct runq_thread and its mirror differ");
        let tgid = u32::from_ne_bytes(bytes[..4].try_into().expect("four bytes"));
        Thread { tgid, running_since: word(bytes, 1), waiting_since: word(bytes, 2) }
    }

    pub fn to_bytes(self) -> [u8; THREAD_BYTES] {
        let mut out = [0; THREAD_BYTES];
        out[..4].copy_from_slice(&self.tgid.to_ne_bytes());
        out[8..16].copy_from_slice(&self.running_since.to_ne_bytes());
        out[16..].copy_from_slice(&self.waiting_since.to_ne_bytes());
        out
    }
}

/// The 64-bit word of this index.
fn word(bytes: &[u8], index: usize) -> u64 {
    u64::from_ne_bytes(bytes[8 * index..8 * (index + 1)].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_shows_what_the_header_says() {
        let header = include_str!("../include/abi.h");
        assert!(header.contains(&format!("#define RUNQ_BUCKETS {BUCKETS}\n")));
        let thread = Thread { tgid: 7, running_since: 1 << 40, waiting_since: 3 };
        let back = Thread::from_bytes(&thread.to_bytes());
        assert_eq!((back.tgid, back.running_since, back.waiting_since), (7, 1 << 40, 3));
        let bytes: Vec<u8> = (0..CORE_BYTES / 8).flat_map(|word| (word as u64).to_ne_bytes()).collect();
        let mut core = Core::ZERO;
        core.add(&bytes);
        core.add(&bytes);
        assert_eq!((core.cpu_ns, core.switches, core.delay[0], core.delay[BUCKETS - 1]), (0, 2, 4, 82));
    }
}
