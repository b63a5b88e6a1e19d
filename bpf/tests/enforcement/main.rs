//! On the running kernel: the programs of sandboxes, each packet and each attempt for real. Needs root; says so
//! otherwise, and fails if it is root of a CI that skips.

mod act;
mod harness;
mod accounting;
mod devices;
mod events;
mod network;
mod packets;
mod restart;
mod verifier;
