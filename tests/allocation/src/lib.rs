//! Nothing is allocated after the start: counted by an allocator.
