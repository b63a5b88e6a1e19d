//! WASI preview 1 for guests that have no network and no other guest, and of files only what they were granted, to
//! read: arguments, environment, clocks, randomness, the three standard streams, and granted directories. Everything else
//! exists and answers `badf`, `rofs` or `notsup`, so that any preview-1 program links.
//!
//! It is written here, on wasmtime's core API, because wasmtime-wasi serves preview 1 through its component
//! host and waits on a tokio reactor, which a worker core does not have: a guest that sleeps would end the
//! process. What is left without sockets is these few calls; files are opened and read without a thread of their own.
//!
//! A command sees the payload as stdin, `argv[0]` is the function's name, and the environment holds
//! `MILLRACE_FUNCTION`, `MILLRACE_CALL`, `MILLRACE_ATTEMPT` and one `MILLRACE_ATTR_<KEY>` per attribute
//! (upper case, other characters than letters and digits as `_`), behind the variables of the manifest. A module of the
//! fast ABI sees the manifest's variables only.

pub mod environment;
mod clocks;
mod streams;
mod files;
mod reading;

use super::host::{Exit, Host};
use wasmtime::{Caller, Extern, Linker};

/// The import module of preview 1.
pub const MODULE: &str = "wasi_snapshot_preview1";

/// An error number of preview 1.
pub type Errno = i32;
/// It worked.
pub const SUCCESS: Errno = 0;
/// Not an open descriptor.
pub const BADF: Errno = 8;
/// A pointer outside the guest's memory.
pub const FAULT: Errno = 21;
/// An argument has no meaning.
pub const INVAL: Errno = 28;
/// Not supported.
pub const NOTSUP: Errno = 58;
/// A stream cannot seek.
pub const SPIPE: Errno = 70;

/// Defines preview 1.
///
/// # Errors
/// None in practice: a name defined twice.
pub fn link(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    environment::link(linker)?;
    clocks::link(linker)?;
    streams::link(linker)?;
    files::link(linker)?;
    reading::link(linker)?;
    absent(linker)?;
    linker.func_wrap(MODULE, "proc_exit", |code: i32| -> wasmtime::Result<()> { Err(Exit(code).into()) })?;
    linker.func_wrap(MODULE, "proc_raise", |signal: i32| -> wasmtime::Result<()> {
        Err(Exit(128 + signal).into())
    })?;
    Ok(())
}

/// Defines functions of these parameters that only answer with an error number.
macro_rules! answer {
    ($linker:ident, $errno:expr; $($name:literal ($($parameter:ty),*);)*) => {
        $( $linker.func_wrap(MODULE, $name, |$(_: $parameter),*| $errno)?; )*
    };
}

/// Sockets, which no guest has, and what has no meaning for streams and read-only files.
fn absent(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    answer! { linker, BADF;
        "fd_fdstat_set_rights" (i32, i64, i64);
        "fd_pwrite" (i32, i32, i32, i64, i32);
        "sock_accept" (i32, i32, i32);
        "sock_recv" (i32, i32, i32, i32, i32, i32);
        "sock_send" (i32, i32, i32, i32, i32);
        "sock_shutdown" (i32, i32);
    }
    answer! { linker, NOTSUP;
        "fd_fdstat_set_flags" (i32, i32);
        "fd_renumber" (i32, i32);
    }
    answer! { linker, SUCCESS;
        "fd_advise" (i32, i64, i64, i32);
        "fd_datasync" (i32);
        "fd_sync" (i32);
    }
    Ok(())
}

/// Runs `with` on the guest's memory and its host state.
fn on_memory(
    caller: &mut Caller<'_, Host>,
    with: impl FnOnce(&mut [u8], &mut Host) -> Result<(), Errno>,
) -> Errno {
    // Kept after instantiation; a start function runs before.
    let memory = match caller.data().memory {
        Some(memory) => Some(memory),
        None => caller.get_export("memory").and_then(Extern::into_memory),
    };
    let Some(memory) = memory else { return FAULT };
    let (bytes, host) = memory.data_and_store_mut(&mut *caller);
    match with(bytes, host) {
        Ok(()) => SUCCESS,
        Err(errno) => errno,
    }
}

/// `bytes` of the guest's memory from `at`.
fn part(memory: &mut [u8], at: i32, bytes: usize) -> Result<&mut [u8], Errno> {
    let start = at as u32 as usize;
    memory.get_mut(start..start + bytes).ok_or(FAULT)
}

fn store(memory: &mut [u8], at: i32, bytes: &[u8]) -> Result<(), Errno> {
    part(memory, at, bytes.len())?.copy_from_slice(bytes);
    Ok(())
}

fn load_u32(memory: &mut [u8], at: i32) -> Result<u32, Errno> {
    let bytes = part(memory, at, 4)?;
    Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wasm::files::{Budget, Table};
    use crate::wasm::host::{Grants, Stdout};
    use crate::wasm::inspect::PREVIEW1;

    /// What `deploy` promises is what a core can link.
    #[test]
    fn the_names_for_people_are_the_names_that_link() {
        let engine = wasmtime::Engine::default();
        let mut linker = Linker::new(&engine);
        link(&mut linker).unwrap();
        let desk = Default::default();
        let grants = Grants { granted: None, files: Table::new(&Budget::new(0)) };
        let mut store = Host::store(&engine, &desk, &"f".into(), 0, Stdout::Output, grants);
        let mut linked: Vec<String> = linker.iter(&mut store).map(|(_, name, _)| name.to_owned()).collect();
        linked.sort_unstable();
        assert_eq!(linked, PREVIEW1);
    }
}
