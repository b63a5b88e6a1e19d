//! A WASI preview-1 command, unmodified: the payload is its stdin, its stdout is the result, one instance per
//! call.

use super::host::Host;
use std::rc::Rc;
use wasmtime::{Extern, InstancePre, ModuleExport, Store};

/// A command's entry point.
pub const START: &str = "_start";

/// Runs the command to its end.
pub async fn run(
    mut store: Store<Host>,
    pre: Rc<InstancePre<Host>>,
    start: ModuleExport,
) -> wasmtime::Result<()> {
    let instance = pre.instantiate_async(&mut store).await?;
    let memory = instance.get_export(&mut store, "memory").and_then(Extern::into_memory);
    store.data_mut().memory = memory;
    let start = instance.get_module_export(&mut store, &start).and_then(Extern::into_func);
    let start = start.ok_or_else(|| wasmtime::Error::msg("`_start` is not a function"))?;
    start.typed::<(), ()>(&store)?.call_async(&mut store, ()).await
}
