//! A `function.toml` that anybody may have written.

#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| {
    match call::manifest::parse("function.toml", text) {
        Ok(manifest) => assert_eq!(manifest.spec.validate(), Ok(())),
        Err(error) => assert!(error.place.starts_with("function.toml"), "an error without a place: {error}"),
    }
});
