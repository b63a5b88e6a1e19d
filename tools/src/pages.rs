//! Large pages for a program with large tables.
//!
//! A control node looks calls up in tables of some hundred MiB, at places that lie apart: with pages of 4 KiB, finding a
//! page costs as much as reading it (half of 300 ns on the reference machine; a call of the durable cycle takes an eighth less of
//! the node's CPU with pages of 2 MiB). glibc's allocator asks the kernel for large pages if its tunable says so, and reads that when a
//! program starts: so the program is started once more, in the same process.

use driver::topology::{HUGE, TUNABLES};
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Starts this program again with large pages, unless its environment says something of them already (`0` keeps pages
/// of 4 KiB). Returns if the kernel gives none on advice, or if the start fails: then pages stay as they are, and the node
/// says so.
pub fn take_large_pages(arguments: impl IntoIterator<Item = OsString>, tunables: Option<OsString>) {
    let Ok(told) = tunables.unwrap_or_default().into_string() else { return };
    if told.contains("glibc.malloc.hugetlb") || !driver::topology::gives_huge_pages() {
        return;
    }
    let all = if told.is_empty() { HUGE.to_owned() } else { format!("{told}:{HUGE}") };
    let Ok(program) = std::env::current_exe() else { return };
    let mut arguments = arguments.into_iter();
    let mut again = Command::new(program);
    if let Some(name) = arguments.next() {
        again.arg0(name);
    }
    // Comes back only if it fails.
    let _ = again.args(arguments).env(TUNABLES, all).exec();
}
