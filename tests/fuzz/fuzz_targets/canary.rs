//! A planted bug, which the smoke run must find: it shows that the fuzzer is led by what the code compares.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    assert!(!bytes.starts_with(b"MLRC\x01"), "the planted bug");
});
