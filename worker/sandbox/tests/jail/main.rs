//! Each property of a sandbox, on the real kernel: something inside tries, the test sees that it failed and how it was
//! told. Most need root.

mod granted;
mod host;
mod inside;
mod limits;
mod lives;
mod probes;
mod unprivileged;
