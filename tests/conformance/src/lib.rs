//! One body of tests for every driver and every log.
