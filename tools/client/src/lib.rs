//! Client of the native submit protocol, async ([`Client`]) and blocking ([`blocking::Client`]), with batching.
//!
//! ```no_run
//! use call::FunctionId;
//! use millrace_client::{Options, blocking::Client};
//! use std::time::Duration;
//!
//! let mut client = Client::connect(&"tcp:127.0.0.1:7410".parse()?, Options::default())?;
//! let call = client.call(FunctionId::of("default", "echo"), b"hello");
//! let outcome = client.run(&call, Duration::from_secs(10))?;
//! println!("{}: {} bytes", outcome.status.name(), outcome.output.len());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! **What an acknowledgement means.** A verdict `Accepted` or `Duplicate` says that the call is on the node's disk and
//! will run at least once. The client makes the id of a call, so it may say the same thing twice: when a connection
//! breaks, the client connects again and resubmits, under the same ids and byte for byte, every call that was not
//! acknowledged and every call whose outcome is still wanted; the node recognises what it holds. A node remembers a
//! bounded number of calls that have ended: one that is resubmitted after it was forgotten runs a second time.
//!
//! **Full is not broken.** A node that is full, draining, or cannot write its disk refuses and says when to come back.
//! The client comes back by itself, for as long as [`Options::patience`] says, and hands the refusal on after that.
//! While such calls wait they count in the window, so a full node slows its clients down.
//!
//! Who may block: [`blocking::Client`] in every operation, [`sender::Sender`] in `connect` and `wait`. The connection
//! state machine, `session`, does no I/O, reads no clock, and is the same under both clients.

mod ids;
mod endpoint;
mod error;
mod buffers;
mod results;
mod session;
mod client;
pub mod blocking;
pub mod sender;

pub use client::Client;
pub use endpoint::Endpoint;
pub use error::Error;
pub use ids::{IdSeries, IdSource};
pub use session::{Event, NodeHello, Options, Outcome, Receipt};
