//! eBPF programs with typed loaders.
