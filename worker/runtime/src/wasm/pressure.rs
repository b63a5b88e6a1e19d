//! The host call by which a guest says that a service behind it is overloaded: `millrace.back_pressure(name: i32,
//! bytes: i32)`, the name of the service in the guest's memory, or nothing at all.
//!
//! The guest goes on and returns as usual, so that its instance stays warm; whatever it returns, the execution has
//! ended with [`call::Status::BackPressure`]. Commands may do the same, or exit with
//! [`call::outcome::back_pressure::EXIT_STATUS`].

use super::host::{BadReply, Host};
use call::limits::NAME_BYTES_MAX;
use call::outcome::back_pressure::LINE;
use wasmtime::{Caller, Linker};

/// The import module of the platform's own host calls.
pub const MODULE: &str = "millrace";
/// The host call's name.
pub const BACK_PRESSURE: &str = "back_pressure";

/// Defines the host call.
///
/// # Errors
/// None in practice: a name defined twice.
pub fn link(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    linker.func_wrap(MODULE, BACK_PRESSURE, |caller: Caller<'_, Host>, at: i32, bytes: i32| {
        let (start, bytes) = (at as u32 as usize, bytes as u32 as usize);
        let memory = caller.data().memory.map_or(&[][..], |memory| memory.data(&caller));
        let desk = &caller.data().desk;
        desk.back_pressure.set(true);
        if bytes == 0 {
            return Ok(());
        }
        let name = memory.get(start..start.saturating_add(bytes)).filter(|_| bytes <= NAME_BYTES_MAX);
        let Some(name) = name else {
            let told =
                format!("{BACK_PRESSURE} was given {bytes} bytes at {start}, which are no service's name");
            return Err(wasmtime::Error::from(BadReply(told)));
        };
        desk.tell(&format!("{LINE}{}\n", String::from_utf8_lossy(name)));
        Ok(())
    })?;
    Ok(())
}
