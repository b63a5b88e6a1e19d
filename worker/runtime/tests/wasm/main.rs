//! The wasm runtime from outside: real guests on the real engine.

mod stage;
mod fast;
mod slices;
mod containment;
mod wasi;
mod files;
mod warm;
mod allocation;
mod artefact;
mod inspect;
mod template;
