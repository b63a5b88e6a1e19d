//! The durable queue: one queue per function by start time, leases, log records, recovery. A pure decider.
