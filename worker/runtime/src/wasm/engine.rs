//! The engine of one core: where instances live and how code is compiled.
//!
//! Memory, tables, fiber stacks and instances come from pools that reserve *address space* only: a slot costs
//! memory when a guest has touched it. With `PAGEMAP_SCAN` (Linux 6.7) an instance that ends leaves its dirty
//! pages to be overwritten in place, so that no call maps, unmaps or protects memory: 5-6 us for a fresh
//! instance instead of 25.

use super::files::Allowed;
use crate::results::Room;
use std::path::PathBuf;
use std::time::Duration;
use wasmtime::{Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

/// Bytes of a linear memory kept resident for its next instance: the working set of an ordinary guest.
const MEMORY_BYTES_RESIDENT: usize = 2 << 20;
/// Bytes of a table kept resident.
const TABLE_BYTES_RESIDENT: usize = 64 << 10;
/// Stack of a guest, bytes; deeper recursion ends the call with `Status::Stack`.
pub const STACK_BYTES: usize = 1 << 20;
/// A fiber's stack also carries the host functions that a guest calls.
const FIBER_STACK_BYTES: usize = STACK_BYTES + (512 << 10);
/// Tables of one module at most; toolchains make one.
pub const TABLES_MAX: u32 = 4;
/// Elements of one table at most. Interpreters compiled to wasm have some ten thousand functions.
pub const TABLE_ELEMENTS_MAX: usize = 1 << 16;
/// Bytes of wasmtime's own state for one instance at most; it grows with functions, globals and imports.
const INSTANCE_BYTES_MAX: usize = 4 << 20;

/// What a core's runtime is made of.
#[derive(Clone, Debug)]
pub struct Options {
    /// Calls served at once.
    pub slots: u32,
    /// Warm instances kept for reuse beside those in slots.
    pub warm: u32,
    /// Bytes of linear memory that warm instances have together at most.
    pub warm_bytes: u64,
    /// Directory of compiled artefacts; see [`crate::wasm::artefact`].
    pub cache_dir: PathBuf,
    /// Time after which a call yields to others: a call shorter than this never does, one twice as long
    /// always.
    pub slice: Duration,
    /// A warm instance unused for this long is dropped by `idle`.
    pub warm_for: Duration,
    /// Directories of this host that functions may be granted.
    pub files_allowed: Allowed,
    /// Files and directories that all guests have open together at most; of one instance [`super::files::OPEN_MAX`].
    pub files: u32,
    /// Memory for large results.
    pub room: Room,
}

impl Options {
    /// Defaults for a core: 512 slots, 256 warm instances of 1 GiB together for a minute, slices of 1 ms, 512 open files, which is
    /// half of the descriptors that a process usually has.
    pub fn new(cache_dir: impl Into<PathBuf>) -> Options {
        Options {
            slots: 512,
            warm: 256,
            warm_bytes: 1 << 30,
            cache_dir: cache_dir.into(),
            slice: Duration::from_millis(1),
            warm_for: Duration::from_secs(60),
            files_allowed: Allowed::default(),
            files: 512,
            room: Room::default(),
        }
    }
}

/// An engine with pools for `instances` guests at once, and whether it resets memory by `PAGEMAP_SCAN`.
///
/// # Errors
/// The kernel refuses the reservations (about 4 GiB of address space per instance), or the CPU has no code generator.
pub fn engine(instances: u32) -> wasmtime::Result<(Engine, bool)> {
    match Engine::new(&config(instances, Enabled::Yes)) {
        Ok(engine) => Ok((engine, true)),
        Err(_) => Ok((Engine::new(&config(instances, Enabled::No))?, false)),
    }
}

/// The wasm proposals that guests may use: all that wasmtime has on by default, in a build without threads
/// and GC.
pub fn features() -> wasmparser::WasmFeatures {
    Engine::default().get_wasm_features()
}

/// Every engine of a host must agree on this, or cached artefacts of one are foreign to the other. Pool sizes
/// do not matter for that.
fn config(instances: u32, pagemap_scan: Enabled) -> Config {
    let mut pool = PoolingAllocationConfig::new();
    pool.linear_memory_keep_resident(MEMORY_BYTES_RESIDENT)
        .table_keep_resident(TABLE_BYTES_RESIDENT)
        .pagemap_scan(pagemap_scan)
        // A guest, and the loop that serves it.
        .total_core_instances(2 * instances)
        .total_memories(instances)
        .total_tables(TABLES_MAX * instances)
        .total_stacks(instances)
        .max_core_instance_size(INSTANCE_BYTES_MAX)
        .max_tables_per_module(TABLES_MAX)
        .table_elements(TABLE_ELEMENTS_MAX);
    let mut config = Config::new();
    config
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool))
        .memory_init_cow(true)
        .epoch_interruption(true)
        .concurrency_support(false)
        .max_wasm_stack(STACK_BYTES)
        .async_stack_size(FIBER_STACK_BYTES);
    config
}
