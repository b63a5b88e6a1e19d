//! The control node: submitter, durable queue, scheduler and worker load balancer on one ring; admin API.
