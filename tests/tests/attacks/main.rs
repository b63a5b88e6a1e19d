//! Hostile functions on the real platform: each does its worst in a call, and the test shows that it failed, that it was
//! told, and that a neighbour was served before, meanwhile and after. See `README.md` of the tests.
//!
//! The attacker is a static C program, `guests/attacker`. So that a refusal means something, each attack that does no
//! harm also runs outside of any sandbox, against a Runtime API of the test's own ([`outside`]), and must succeed there.

mod stage;
mod outside;
mod kernel;
mod files;
mod processes;
mod resources;
mod network;
mod api;
mod begin;
mod stdio;
mod bundles;
