//! Control groups of both versions behind one small interface, by the kernel's own file names.
//!
//! A [`Hierarchy`] is what the host offers: which controller is bound where, and below which directory this process may
//! make groups. A [`Parent`] is one platform's subtree there, named after its data directory, so that two platforms on
//! one host do not see each other and a worker finds at its start what its predecessor left. A [`Group`] below it holds
//! one sandbox.
//!
//! Version 2 is used where it has the controllers; where the host binds them to version 1 they are used there, beside a
//! group in the v2 tree, which BPF programs attach to and whose `cgroup.kill` ends everything at once.
//!
//! Nothing here starts a thread or sleeps, but for [`Group::kill`] on a host without `cgroup.kill` (milliseconds, for
//! the freezer), where a name says `within`, and for [`Parent::open`] while another platform's jailer removes these very
//! groups (milliseconds).

mod device;
mod error;
mod files;
mod group;
mod hierarchy;
mod kill;
mod leftovers;
mod limits;
mod mounts;
mod parent;
mod subtree;

pub use error::CgroupError;
pub use group::{Entry, Group, Interest, Watch};
pub use hierarchy::{Controller, Delegation, Hierarchy, Version};
pub use leftovers::{Leftovers, Verdict};
pub use limits::Limits;
pub use parent::Parent;
