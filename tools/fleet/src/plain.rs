//! What ours is compared with: one queue per region, no quotas and no controllers.

use crate::scenario::Order;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// The functions of waiting calls, in the order in which they run.
#[derive(Debug)]
pub struct Plain {
    order: Order,
    heap: BinaryHeap<Reverse<(u8, u64, u32)>>,
    arrivals: u64,
}

impl Plain {
    /// Nothing waits.
    pub fn new(order: Order) -> Plain {
        Plain { order, heap: BinaryHeap::new(), arrivals: 0 }
    }

    /// A call of a function came.
    pub fn push(&mut self, function: u32, criticality: u8) {
        let level = if self.order == Order::Priority { u8::MAX - criticality } else { 0 };
        self.heap.push(Reverse((level, self.arrivals, function)));
        self.arrivals += 1;
    }

    /// The function whose call runs next.
    pub fn pop(&mut self) -> Option<u32> {
        self.heap.pop().map(|Reverse((_, _, function))| function)
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.heap.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_come_or_most_critical_first() {
        let order = |order| {
            let mut plain = Plain::new(order);
            [(1, 50), (2, 100), (3, 50), (4, 100)].into_iter().for_each(|(f, level)| plain.push(f, level));
            std::iter::from_fn(|| plain.pop()).collect::<Vec<_>>()
        };
        assert_eq!((order(Order::Fifo), order(Order::Priority)), (vec![1, 2, 3, 4], vec![2, 4, 1, 3]));
    }
}
