//! Large arguments and results: the store of blobs by content, and their way to cores and from them.
//!
//! ```text
//!  client ─PUT─▶ admin side ─▶ store: blobs/<sha256>, on disk ─"stored"─▶ index, on the ring
//!  client ─submit that names it─▶ ring: the index has it ─▶ the log
//!                core ─Fetch─▶ ring ─▶ thread of the store ─Piece─▶ ring ─▶ core, until it has all of it
//!
//!  core ─Keep, piece by piece─▶ ring ─▶ thread of the store: blobs/<sha256>, on disk ─Kept─▶ ring: index ─▶ core
//!  core ─outcome that names it─▶ ring: the index has it ─▶ the log
//!  client ─Fetch─▶ ring, or that of the shard that has it ─▶ thread of the store ─Piece─▶ client: a result
//! ```
//!
//! The ring decides and never touches a file: [`index`] says which blobs there are, [`relay`] passes pieces on, [`collect`]
//! finds those that no call and no outcome names. The admin side writes them ([`store`]); a thread of its own reads them
//! ([`service`]) and writes results ([`keeper`]); both talk to the ring over the node's own socket. A blob is on disk before
//! the index has it, and leaves the index before its file goes, so that an accepted call, or a durable outcome, never names
//! one that is not there.

pub mod index;
pub mod store;
pub(crate) mod collect;
pub(crate) mod service;
mod keeper;
mod relay;
mod results;

pub use index::BlobIndex;
pub use store::BlobStore;
