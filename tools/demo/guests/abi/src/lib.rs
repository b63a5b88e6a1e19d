//! The fast ABI from the guest's side, and the one convention the demo's functions share: arguments begin with a
//! line `ROUNDS TOUCH_KIB`, the rest is data. A trace says how long a call ran and how much memory it used; rounds
//! of real work over real data reproduce the one, touched memory the other.

/// Exports `millrace_alloc` and `millrace_call` around `fn(&[u8]) -> Vec<u8>`.
#[macro_export]
macro_rules! function {
    ($function:path) => {
        /// Room for the arguments of the next call; freed by it.
        #[unsafe(no_mangle)]
        pub extern "C" fn millrace_alloc(bytes: usize) -> *mut u8 {
            Box::into_raw(vec![0u8; bytes].into_boxed_slice()) as *mut u8
        }

        /// Runs the function; the reply stays where it is until the next call.
        ///
        /// # Safety
        /// `start` and `bytes` are what `millrace_alloc` gave and took.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn millrace_call(start: *mut u8, bytes: usize) -> u64 {
            // SAFETY: the host passes the pair it got from `millrace_alloc`, once.
            let arguments = unsafe { Box::from_raw(std::ptr::slice_from_raw_parts_mut(start, bytes)) };
            $crate::keep($function(&arguments))
        }
    };
}

/// Keeps a reply alive until the next call and packs where it is.
pub fn keep(reply: Vec<u8>) -> u64 {
    use std::cell::RefCell;
    thread_local!(static REPLY: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) });
    REPLY.with(|kept| {
        let packed = ((reply.as_ptr() as u64) << 32) | reply.len() as u64;
        *kept.borrow_mut() = reply;
        packed
    })
}

/// Splits the arguments into rounds and data, after touching as much memory as the trace says.
pub fn rounds(arguments: &[u8]) -> (u32, &[u8]) {
    let end = arguments.iter().position(|byte| *byte == b'\n').unwrap_or(0);
    let line = std::str::from_utf8(&arguments[..end]).unwrap_or("");
    let mut words = line.split(' ').map(|word| word.parse::<u32>().unwrap_or(1));
    let (rounds, touch_kib) = (words.next().unwrap_or(1).max(1), words.next().unwrap_or(0));
    let mut memory = vec![0u8; touch_kib as usize * 1024];
    for page in memory.chunks_mut(4096) {
        page[0] = 1;
    }
    std::hint::black_box(&memory);
    (rounds, arguments.get(end + 1..).unwrap_or(&[]))
}
