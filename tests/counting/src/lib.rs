//! An allocator that counts, per thread, how often memory was asked for. Every program that links this crate has it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::backtrace::Backtrace;
use std::cell::Cell;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    static TRACED: Cell<u32> = const { Cell::new(0) };
}

struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

fn count() {
    // A thread that is ending has no counter any more, and nobody reads it.
    let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
    let left = TRACED.try_with(Cell::get).unwrap_or(0);
    if left > 0 {
        // Taking a trace allocates, too: not traced.
        TRACED.set(0);
        eprintln!("an allocation where none is expected:\n{}", Backtrace::force_capture());
        TRACED.set(left - 1);
    }
}

/// Prints from where the next `count` allocations of this thread come: for a test that counts some and finds none to
/// be expected.
pub fn trace(count: u32) {
    TRACED.set(count);
}

// SAFETY: every method hands its arguments to `System` unchanged, and counting does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as the caller promised to us.
        unsafe { System.alloc(layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as the caller promised to us.
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn realloc(&self, at: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        count();
        // SAFETY: as the caller promised to us.
        unsafe { System.realloc(at, layout, bytes) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as the caller promised to us.
        unsafe { System.dealloc(at, layout) }
    }
}

/// Allocations and reallocations of this thread so far.
pub fn allocations() -> u64 {
    ALLOCATIONS.with(Cell::get)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_allocation_is_counted_on_its_own_thread() {
        let before = allocations();
        std::hint::black_box(Box::new(7));
        std::thread::scope(|scope| {
            scope.spawn(|| std::hint::black_box(vec![1; 1000])).join().map(drop).unwrap()
        });
        let mut grown = Vec::with_capacity(1);
        grown.extend_from_slice(std::hint::black_box(&[1, 2, 3]));
        assert!(allocations() >= before + 3);
        let before = allocations();
        std::hint::black_box([0; 100]);
        assert_eq!(allocations(), before);
    }
}
