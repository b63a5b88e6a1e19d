//! The words of the platform: what a call is, and how it looks in a buffer.
//!
//! Every other crate depends on this one and this one on none of them. Nothing here does I/O or reads a clock.
//!
//! The modules stand in the order in which a call meets them.

pub mod ids;
pub mod label;
pub mod time;
pub mod limits;
pub mod frame;
pub mod body;
pub mod blob;
pub mod upload;
pub mod outcome;
pub mod history;
pub mod shards;
pub mod shares;
pub mod function;
pub mod manifest;
pub mod admin;
pub mod filter;
pub mod random;

pub use body::{Arguments, Attribute, Verdict, VerdictCode};
pub use filter::Filter;
pub use frame::{Frame, FrameError, Header, Kind};
pub use function::{FunctionSpec, SpecError};
pub use history::{Attempt, History};
pub use ids::{CallId, CallKey, Epoch, FunctionId};
pub use label::Label;
pub use outcome::{Status, Usage};
pub use shards::{ShardId, ShardMap, Slot};
pub use time::{Instant, WallTime};
