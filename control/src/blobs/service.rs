//! The thread that reads blobs for cores: a peer of the ring over the node's own socket, which hears
//! [`Kind::Fetch`] and answers with [`Kind::Piece`].

use super::store::{BlobStore, Sound, Unsound};
use call::admin::Hello;
use call::blob::Reference;
use call::frame::{Frame, FrameBuf, Header, Kind, append, frame_bytes};
use call::{Status, limits::HEADER_BYTES};
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Blobs that stay open after a piece was read: each core fetches one at a time.
const OPEN_MAX: usize = 64;
/// Between two tries to connect.
const RETRY: Duration = Duration::from_millis(50);

/// The running thread.
pub(crate) struct Service {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Service {
    /// Starts it. What it cannot read it tells by `say`, with the place.
    ///
    /// # Errors
    /// If there can be no thread.
    pub fn start(
        store: Arc<BlobStore>,
        socket: PathBuf,
        secret: String,
        say: fn(String),
    ) -> io::Result<Service> {
        let stop = Arc::new(AtomicBool::new(false));
        let ended = stop.clone();
        let mut reader = Reader { store, open: VecDeque::new(), piece: Vec::new(), say };
        let work = move || {
            while !ended.load(Ordering::Relaxed) {
                // A lost connection is made again: the node may not listen yet, or no more.
                let _ = UnixStream::connect(&socket).and_then(|node| reader.serve(node, &secret));
                thread::sleep(RETRY);
            }
        };
        Ok(Service { stop, thread: thread::Builder::new().name("blobs".into()).spawn(work)? })
    }

    /// Ends it, now that the node has closed its connections.
    pub fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.join();
    }
}

struct Reader {
    store: Arc<BlobStore>,
    /// The last used at the end.
    open: VecDeque<Sound>,
    piece: Vec<u8>,
    say: fn(String),
}

impl Reader {
    /// Until the connection ends.
    fn serve(&mut self, mut node: UnixStream, secret: &str) -> io::Result<()> {
        let hello = serde_json::to_vec(&Hello::Store { secret: secret.to_owned() }).expect("plain data");
        let mut out = FrameBuf::new();
        append(&mut out, &Header::new(Kind::Hello), &hello);
        node.write_all(&out)?;
        let mut received = FrameBuf::new();
        loop {
            received.resize(HEADER_BYTES, 0);
            node.read_exact(&mut received)?;
            let whole = frame_bytes(&received).map_err(io::Error::other)?.expect("a whole header");
            received.resize(whole, 0);
            node.read_exact(&mut received[HEADER_BYTES..])?;
            let (frame, _) = Frame::parse(&received).map_err(io::Error::other)?;
            if frame.kind() == Kind::Fetch {
                out.clear();
                self.answer(&frame, &mut out);
                node.write_all(&out)?;
            }
        }
    }

    fn answer(&mut self, fetch: &Frame<'_>, out: &mut FrameBuf) {
        let header = Header { kind: Kind::Piece, level: Status::Ok as u8, ..fetch.header() };
        let Ok(blob) = Reference::from_bytes(fetch.body()) else { return };
        match self.read(blob, fetch.stamp()) {
            Ok(()) => append(out, &header, &self.piece),
            Err(unsound) => {
                (self.say)(format!("{unsound}; call {} ends as damaged", fetch.call()));
                let why = unsound.to_string();
                append(out, &Header { level: Status::Damaged as u8, ..header }, why.as_bytes());
            }
        }
    }

    /// Reads a piece; the whole blob is checked when its first one is read.
    fn read(&mut self, blob: Reference, offset: u64) -> Result<(), Unsound> {
        let known = self.open.iter().position(|sound| sound.blob == blob).filter(|_| offset > 0);
        let sound = match known.and_then(|at| self.open.remove(at)) {
            Some(sound) => sound,
            None => {
                self.open.retain(|sound| sound.blob != blob);
                self.store.sound(blob)?
            }
        };
        sound.piece(offset, &mut self.piece)?;
        if self.open.len() == OPEN_MAX {
            self.open.pop_front();
        }
        self.open.push_back(sound);
        Ok(())
    }
}
