//! The process of a worker core, or of what stands in for one.

use nix::unistd::Pid;
use std::io;
use std::process::Child;
use std::time::Duration;

/// A core's process; ends with this value.
#[derive(Debug)]
pub struct Core(pub Child);

impl Drop for Core {
    fn drop(&mut self) {
        // It may have ended by itself, which the measurement has then said.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Core {
    /// CPU time so far, in user and kernel.
    ///
    /// # Errors
    /// If the process is gone.
    pub fn cpu_ns(&self) -> io::Result<u64> {
        let clock = nix::time::clock_getcpuclockid(Pid::from_raw(self.0.id() as i32))?;
        Ok(Duration::from(nix::time::clock_gettime(clock)?).as_nanos() as u64)
    }

    /// How long its first thread has been ready to run and was not running: somebody else had its CPU.
    ///
    /// # Errors
    /// If the process is gone.
    pub fn waited(&self) -> io::Result<Duration> {
        let text = std::fs::read_to_string(format!("/proc/{}/schedstat", self.0.id()))?;
        Ok(Duration::from_nanos(
            text.split_whitespace().nth(1).and_then(|word| word.parse().ok()).ok_or_else(unread)?,
        ))
    }

    /// Resident memory, MiB.
    ///
    /// # Errors
    /// If the process is gone.
    pub fn resident_mib(&self) -> io::Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id()))?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).ok_or_else(unread)?;
        let kib: f64 =
            line.split_whitespace().nth(1).and_then(|word| word.parse().ok()).ok_or_else(unread)?;
        Ok(kib / 1024.0)
    }
}

fn unread() -> io::Error {
    io::Error::other("the kernel's text about the process is not understood")
}
