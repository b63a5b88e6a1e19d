//! The most memory that a sandbox had, as a core reads it: from the kernel's own file, so that a call that has just ended
//! is told what it took, and not what the jailer knew a while ago.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

/// Bytes of the longest number that the kernel writes there, with room.
const NUMBER_BYTES: usize = 32;

/// The file of one sandbox. Reading it costs a system call, about a microsecond, and no memory.
#[derive(Debug)]
pub struct Peak(File);

impl Peak {
    /// Around the descriptor that came with [`crate::protocol::FromJailer::Made`].
    pub fn of(file: OwnedFd) -> Peak {
        Peak(file.into())
    }

    /// Bytes; none if the group is gone, or the file is not the kernel's.
    pub fn read(&self) -> Option<u64> {
        let mut text = [0; NUMBER_BYTES];
        let bytes = self.0.read_at(&mut text, 0).ok()?;
        std::str::from_utf8(&text[..bytes]).ok()?.trim_end().parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_read_again_and_again_and_nonsense_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("memory.peak");
        std::fs::write(&path, "4096\n").unwrap();
        let peak = Peak::of(File::open(&path).unwrap().into());
        assert_eq!(peak.read(), Some(4096));
        std::fs::write(&path, "18446744073709551615\n").unwrap();
        assert_eq!(peak.read(), Some(u64::MAX));
        std::fs::write(&path, "much").unwrap();
        assert_eq!(peak.read(), None);
    }
}
