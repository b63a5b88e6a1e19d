//! The fast ABI: a module that exports `memory`, `millrace_alloc(len: i32) -> i32` and
//! `millrace_call(ptr: i32, len: i32) -> i64`, the reply as `ptr << 32 | len`.
//!
//! A call is: ask the guest for `len` bytes, copy the payload there, call, copy the reply out. The buffer
//! belongs to the guest from `millrace_alloc` on; the reply must stay in place until the guest is entered
//! again. If the module exports `_initialize` (a WASI reactor), it runs once, first. Every pointer that comes
//! from the guest is checked.
//!
//! Attributes are not visible here; a function that needs them is a command.

use super::host::{BadReply, Desk, Host};
use std::rc::Rc;
use wasmtime::{
    AsContextMut, Caller, Extern, Func, Instance, InstancePre, Memory, Module, ModuleExport, Store, TypedFunc,
};

/// The export that hands out room for arguments.
pub const ALLOC: &str = "millrace_alloc";
/// The export that runs a call.
pub const CALL: &str = "millrace_call";
/// A reactor's constructor.
pub const INITIALIZE: &str = "_initialize";

/// Where the ABI's exports are in a module, resolved once.
#[derive(Clone, Copy)]
pub struct Exports {
    memory: ModuleExport,
    alloc: ModuleExport,
    call: ModuleExport,
    initialize: Option<ModuleExport>,
}

impl Exports {
    /// Nothing if the module does not speak the fast ABI.
    pub fn of(module: &Module) -> Option<Exports> {
        Some(Exports {
            memory: module.get_export_index("memory")?,
            alloc: module.get_export_index(ALLOC)?,
            call: module.get_export_index(CALL)?,
            initialize: module.get_export_index(INITIALIZE),
        })
    }
}

/// An instance's exports.
struct Guest {
    alloc: TypedFunc<i32, i32>,
    call: TypedFunc<(i32, i32), i64>,
}

async fn instantiate(
    store: &mut Store<Host>,
    pre: &InstancePre<Host>,
    exports: Exports,
) -> wasmtime::Result<Guest> {
    let instance = pre.instantiate_async(&mut *store).await?;
    let memory = instance.get_module_export(&mut *store, &exports.memory).and_then(Extern::into_memory);
    store.data_mut().memory = memory;
    if let Some(initialize) = &exports.initialize {
        typed::<(), ()>(store, instance, initialize)?.call_async(&mut *store, ()).await?;
    }
    Ok(Guest { alloc: typed(store, instance, &exports.alloc)?, call: typed(store, instance, &exports.call)? })
}

fn typed<P: wasmtime::WasmParams, R: wasmtime::WasmResults>(
    store: &mut Store<Host>,
    instance: Instance,
    export: &ModuleExport,
) -> wasmtime::Result<TypedFunc<P, R>> {
    let function = instance.get_module_export(&mut *store, export).and_then(Extern::into_func);
    function
        .ok_or_else(|| wasmtime::Error::msg("an export of the fast ABI is not a function"))?
        .typed(&*store)
}

/// One call in a fresh instance.
pub async fn once(
    mut store: Store<Host>,
    pre: Rc<InstancePre<Host>>,
    exports: Exports,
) -> wasmtime::Result<()> {
    let guest = instantiate(&mut store, &pre, exports).await?;
    let bytes = take(store.data());
    let at = guest.alloc.call_async(&mut store, bytes).await?;
    let (memory, desk) = meet(store.data())?;
    fill(memory.data_mut(&mut store), &desk, at)?;
    let reply = guest.call.call_async(&mut store, (at, bytes)).await?;
    done(memory.data(&store), &desk, reply)
}

/// One call after the other in one instance; ends only by an error.
pub async fn forever(
    mut store: Store<Host>,
    pre: Rc<InstancePre<Host>>,
    exports: Exports,
    serve: Module,
) -> wasmtime::Result<()> {
    let guest = instantiate(&mut store, &pre, exports).await?;
    let core = [
        Func::wrap(&mut store, |caller: Caller<'_, Host>| take(caller.data())),
        Func::wrap(&mut store, |mut caller: Caller<'_, Host>, at: i32| {
            let (memory, desk) = meet(caller.data())?;
            fill(memory.data_mut(&mut caller), &desk, at)
        }),
        Func::wrap(&mut store, |mut caller: Caller<'_, Host>, reply: i64| {
            let (memory, desk) = meet(caller.data())?;
            done(memory.data(&caller), &desk, reply)?;
            desk.served.set(true);
            // The slice ends now: `$pause` yields, and its fiber resumes with the next call.
            caller.as_context_mut().set_epoch_deadline(0);
            Ok(())
        }),
    ];
    let [take, fill, done] = core.map(Extern::Func);
    let imports = [take, fill, done, (*guest.alloc.func()).into(), (*guest.call.func()).into()];
    let server = Instance::new_async(&mut store, &serve, &imports).await?;
    server.get_typed_func::<(), ()>(&mut store, "serve")?.call_async(&mut store, ()).await
}

/// Bytes of the call's payload.
fn take(host: &Host) -> i32 {
    host.desk.payload.borrow().len() as i32
}

fn meet(host: &Host) -> wasmtime::Result<(Memory, Rc<Desk>)> {
    let memory = host.memory.ok_or_else(|| wasmtime::Error::msg("`memory` is not a memory"))?;
    Ok((memory, host.desk.clone()))
}

/// Copies the payload to where the guest wants it.
fn fill(memory: &mut [u8], desk: &Desk, at: i32) -> wasmtime::Result<()> {
    let payload = desk.payload.borrow();
    let start = at as u32 as usize;
    match memory.get_mut(start..start + payload.len()) {
        Some(room) => room.copy_from_slice(&payload),
        None => {
            let told = format!(
                "{ALLOC}({}) returned {start}, which is not inside the memory of {} bytes",
                payload.len(),
                memory.len()
            );
            return Err(BadReply(told).into());
        }
    }
    Ok(())
}

/// Copies the reply out.
fn done(memory: &[u8], desk: &Desk, reply: i64) -> wasmtime::Result<()> {
    let (start, bytes) = ((reply as u64 >> 32) as usize, reply as u32 as usize);
    match memory.get(start..start + bytes) {
        Some(output) => desk.write_output(output),
        None => {
            let told = format!(
                "{CALL} returned {bytes} bytes at {start}, which are not inside the memory of {} bytes",
                memory.len()
            );
            return Err(BadReply(told).into());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever a guest answers: its own bytes, or an error.
        #[test]
        fn no_pointer_reaches_outside_the_memory(
            start in prop_oneof![0..80_u32, any::<u32>()],
            bytes in prop_oneof![0..80_u32, any::<u32>()],
            payload in 0..80_usize,
        ) {
            let desk = Desk::default();
            let mut memory: Vec<u8> = (0..64).collect();
            let before = memory.clone();
            let (from, to) = (u64::from(start), u64::from(start) + u64::from(bytes));
            let got = done(&memory, &desk, (u64::from(start) << 32 | u64::from(bytes)) as i64);
            prop_assert_eq!(got.is_ok(), to <= 64);
            if got.is_ok() {
                prop_assert_eq!(&**desk.output.borrow(), &before[from as usize..to as usize]);
            }
            desk.payload.borrow_mut().resize(payload, 0xff);
            let filled = fill(&mut memory, &desk, start as i32);
            prop_assert_eq!(filled.is_ok(), from + payload as u64 <= 64);
            let changed = memory.iter().zip(&before).filter(|(now, then)| now != then).count();
            prop_assert_eq!(changed, if filled.is_ok() { payload } else { 0 });
        }
    }
}
