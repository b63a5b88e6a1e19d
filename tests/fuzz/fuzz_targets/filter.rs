//! A filter that anybody may have typed: it is one, and what it prints is the same one, or it has a place and a remedy.

#![no_main]

use call::Filter;
use call::filter::BYTES_MAX;

libfuzzer_sys::fuzz_target!(|text: &str| {
    match Filter::parse(text) {
        Ok(filter) => {
            let printed = filter.to_string();
            if printed.len() <= BYTES_MAX {
                assert_eq!(Filter::parse(&printed), Ok(filter), "{printed}");
            }
        }
        Err(error) => {
            assert!((1..=text.chars().count() + 1).contains(&error.column), "{error}");
            assert!(!error.what.is_empty() && !error.remedy.is_empty(), "{error}");
        }
    }
});
