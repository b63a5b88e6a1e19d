//! The millrace binary: operator CLI and performance tools.
//!
//! [`commands`] is the command line, one file per command; below it are libraries that other programs of this project
//! use as well: [`replay`] and [`trace`] (the demo), [`load`] (benchmarks), [`deployment`] and [`admin`] (tests). Errors of
//! all of them are [`exit::Failure`]s: what, where, and what to do.
//!
//! Only `main` reads the environment.

pub mod commands;
pub mod exit;
pub mod settings;
pub mod admin;
pub mod regions;
pub mod shards;
pub mod packing;
pub mod deployment;
pub mod output;
pub mod asked;
pub mod bulk;
pub mod backup;
pub mod watch;
pub mod times;
pub mod interrupt;
pub mod children;
pub mod pages;
pub mod rows;
pub mod batch;
pub mod spread;
pub mod load;
pub mod trace;
pub mod replay;
pub mod demo;
