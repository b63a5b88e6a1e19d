//! Bytes from a stranger's connection: as they are, and behind a header that fits them.

#![no_main]

#[path = "../../../worker/call/tests/examine/mod.rs"]
mod examine;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    examine::stream(bytes);
    examine::disguised(bytes);
});
