//! The fast ABI of Millrace: `millrace_alloc` hands out room for a call's arguments, `millrace_call` runs the
//! call. Nothing here needs to be changed.

use std::cell::UnsafeCell;

struct Buffer(UnsafeCell<Vec<u8>>);

// SAFETY: a wasm instance has one thread.
unsafe impl Sync for Buffer {}

static ARGUMENTS: Buffer = Buffer(UnsafeCell::new(Vec::new()));
static REPLY: Buffer = Buffer(UnsafeCell::new(Vec::new()));

/// Room for `bytes` bytes of arguments, valid until it is called again.
#[unsafe(no_mangle)]
pub extern "C" fn millrace_alloc(bytes: usize) -> *mut u8 {
    // SAFETY: the host enters one export at a time, and no reference from an earlier call is alive.
    let buffer = unsafe { &mut *ARGUMENTS.0.get() };
    buffer.clear();
    buffer.reserve(bytes);
    buffer.as_mut_ptr()
}

/// Runs a call on `bytes` bytes of arguments at `at`. The reply, `pointer << 32 | bytes`, is valid until the
/// next call.
#[unsafe(no_mangle)]
pub extern "C" fn millrace_call(at: *const u8, bytes: usize) -> u64 {
    // SAFETY: as above; the host wrote `bytes` bytes at `at`, which `millrace_alloc` returned.
    let (arguments, reply) = unsafe { (std::slice::from_raw_parts(at, bytes), &mut *REPLY.0.get()) };
    reply.clear();
    crate::handle(arguments, reply);
    (reply.as_ptr() as u64) << 32 | reply.len() as u64
}
