//! The cold side: the operator's HTTP+JSON API, on a thread of its own.
//!
//! It owns the catalog file and the artefact store, may block on files, and talks to the ring thread as a client
//! does: over the node's own Unix socket, with [`call::Kind::Ask`] and [`call::Kind::Answer`] frames. A route maps
//! to one [`call::admin::Ask`] and returns its answer unchanged as JSON.

pub mod http;
mod error;
mod link;
mod functions;
mod artefacts;
mod blobs;
mod calls;
mod operations;
mod passing;
mod region;
mod results;
mod shards;
mod shares;
mod usage;
mod logs;
mod metrics;
mod invoke;
mod catalog_file;
mod shaping;
mod shaping_file;
pub(crate) mod signals;

pub use calls::entropy;
pub use catalog_file::CatalogFile;
pub use http::{AdminOptions, serve};
pub use logs::Logs;
pub use region::RegionFile;
pub use shaping_file::ShapingFile;
pub use shards::ShardFile;
pub use shares::{NAME as SHARES, read as read_shares};
