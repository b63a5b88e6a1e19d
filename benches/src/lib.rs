//! Benchmarks: micro, macro, and versus a rival in the same run.
