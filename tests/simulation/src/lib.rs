//! The whole platform on one thread from one seed.
