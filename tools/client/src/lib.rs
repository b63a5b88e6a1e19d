//! Client of the native submit protocol, async and blocking, with batching.
