//! The millrace binary: operator CLI and performance tools.
