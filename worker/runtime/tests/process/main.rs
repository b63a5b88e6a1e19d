//! Process functions on the real ring: real sockets, pipes and processes, and a jailer that only pretends to jail.

mod jailer;
mod stage;
mod runtime_api;
mod lifecycle;
mod stdio;
mod official;
