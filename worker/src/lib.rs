//! The core loop: ingress, admit, dispatch, execute, egress; one pinned process per core.
