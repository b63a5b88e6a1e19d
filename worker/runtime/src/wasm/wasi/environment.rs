//! Arguments, environment and randomness.

use super::clocks::end_slice;
use super::{Errno, MODULE, SUCCESS, on_memory, part, store};
use crate::seam::Begin;
use crate::wasm::host::Host;
use std::collections::BTreeMap;
use std::io::Write;
use wasmtime::{Caller, Linker};

/// Random bytes made in one slice: less than a millisecond of work, which nothing interrupts.
const RANDOM_BYTES: usize = 256 << 10;

/// A manifest's variables as `NAME=value` strings, each ended by a zero byte.
pub fn strings(variables: &BTreeMap<String, String>) -> Vec<u8> {
    variables.iter().flat_map(|(name, value)| format!("{name}={value}\0").into_bytes()).collect()
}

/// Writes a call's environment in the same form.
pub fn write(into: &mut Vec<u8>, function: &str, begin: &Begin<'_>) {
    // Writing to a vector cannot fail.
    let _ = write!(
        into,
        "MILLRACE_FUNCTION={function}\0MILLRACE_CALL={}\0MILLRACE_ATTEMPT={}\0",
        begin.call, begin.attempt
    );
    for attribute in begin.attributes {
        into.extend_from_slice(b"MILLRACE_ATTR_");
        let upper = |byte: u8| if byte.is_ascii_alphanumeric() { byte.to_ascii_uppercase() } else { b'_' };
        into.extend(attribute.key.bytes().map(upper));
        into.push(b'=');
        // A zero byte would end the string early.
        into.extend(attribute.value.bytes().map(|byte| if byte == 0 { b' ' } else { byte }));
        into.push(0);
    }
}

pub(super) fn link(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    linker.func_wrap(MODULE, "args_sizes_get", |mut caller: Caller<'_, Host>, count: i32, bytes: i32| {
        on_memory(&mut caller, |memory, host| {
            store(memory, count, &1_u32.to_le_bytes())?;
            store(memory, bytes, &(host.name.len() as u32 + 1).to_le_bytes())
        })
    })?;
    linker.func_wrap(MODULE, "args_get", |mut caller: Caller<'_, Host>, pointers: i32, text: i32| {
        on_memory(&mut caller, |memory, host| {
            store(memory, pointers, &text.to_le_bytes())?;
            let room = part(memory, text, host.name.len() + 1)?;
            room[..host.name.len()].copy_from_slice(host.name.as_bytes());
            room[host.name.len()] = 0;
            Ok(())
        })
    })?;
    linker.func_wrap(
        MODULE,
        "environ_sizes_get",
        |mut caller: Caller<'_, Host>, count: i32, bytes: i32| {
            on_memory(&mut caller, |memory, host| {
                let (granted, of_call) = (host.environment(), host.desk.environment.borrow());
                let strings = granted.iter().chain(&*of_call).filter(|byte| **byte == 0).count();
                store(memory, count, &(strings as u32).to_le_bytes())?;
                store(memory, bytes, &((granted.len() + of_call.len()) as u32).to_le_bytes())
            })
        },
    )?;
    linker.func_wrap(MODULE, "environ_get", |mut caller: Caller<'_, Host>, pointers: i32, text: i32| {
        on_memory(&mut caller, |memory, host| {
            let of_call = host.desk.environment.borrow();
            let (pointers, text) = environ_get(memory, host.environment(), pointers, text)?;
            environ_get(memory, &of_call, pointers, text).map(|_| ())
        })
    })?;
    linker.func_wrap_async(
        MODULE,
        "random_get",
        |mut caller: Caller<'_, Host>, (at, bytes): (i32, i32)| {
            Box::new(async move {
                let bytes = bytes as u32 as usize;
                let mut errno = on_memory(&mut caller, |memory, _| part(memory, at, bytes).map(|_| ()));
                let mut done = 0;
                while errno == SUCCESS && done < bytes {
                    if done > 0 {
                        end_slice().await;
                    }
                    let piece = (bytes - done).min(RANDOM_BYTES);
                    let from = at.wrapping_add(done as i32);
                    errno = on_memory(&mut caller, |memory, _| random(part(memory, from, piece)?));
                    done += piece;
                }
                errno
            })
        },
    )?;
    Ok(())
}

/// Writes strings and their pointers; where the next ones would be.
fn environ_get(memory: &mut [u8], environment: &[u8], pointers: i32, text: i32) -> Result<(i32, i32), Errno> {
    store(memory, text, environment)?;
    let mut string = text;
    let mut pointer = pointers;
    for each in environment.split_inclusive(|byte| *byte == 0) {
        store(memory, pointer, &string.to_le_bytes())?;
        string = string.wrapping_add(each.len() as i32);
        pointer = pointer.wrapping_add(4);
    }
    Ok((pointer, string))
}

fn random(mut room: &mut [u8]) -> Result<(), Errno> {
    while !room.is_empty() {
        // SAFETY: `room` is writable for its length.
        let got = unsafe { libc::getrandom(room.as_mut_ptr().cast(), room.len(), 0) };
        // A tick may interrupt it; nothing else can go wrong with these arguments.
        let got = usize::try_from(got).unwrap_or(0);
        room = &mut room[got..];
    }
    Ok(())
}
