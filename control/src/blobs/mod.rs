//! Large arguments: the store of blobs by content, and their way to cores.
//!
//! ```text
//!  client ─PUT─▶ admin side ─▶ store: blobs/<sha256>, on disk ─"stored"─▶ index, on the ring
//!  client ─submit that names it─▶ ring: the index has it ─▶ the log
//!                core ─Fetch─▶ ring ─▶ thread of the store ─Piece─▶ ring ─▶ core, until it has all of it
//! ```
//!
//! The ring decides and never touches a file: [`index`] says which blobs there are, [`relay`] passes pieces on, [`collect`]
//! finds those that no call names. The admin side writes them ([`store`]), a thread of its own reads them ([`service`]);
//! both talk to the ring over the node's own socket. A blob is on disk before the index has it, and leaves the index before its file goes, so that an accepted call
//! never names one that is not there.

pub mod index;
pub mod store;
pub(crate) mod collect;
pub(crate) mod service;
mod relay;

pub use index::BlobIndex;
pub use store::BlobStore;
