//! The thread that reads blobs for cores and writes what they send: a peer of the ring over the node's own socket, which
//! hears [`Kind::Fetch`] and answers with [`Kind::Piece`], and hears [`Kind::Keep`] and answers with [`Kind::Kept`].

use super::keeper::Keeper;
use super::store::{BlobStore, Sound, Unsound};
use call::admin::Hello;
use call::blob::Reference;
use call::frame::{Frame, FrameBuf, Header, Kind, append, frame_bytes};
use call::{Instant, Status, limits::HEADER_BYTES};
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
/// Between two looks whether it is the store's turn to give names.
const LOOK: Duration = Duration::from_millis(1);
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
        let keeper = Keeper::new(store.clone());
        let since = std::time::Instant::now();
        let mut reader = Reader { store, keeper, open: VecDeque::new(), piece: Vec::new(), since, say };
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
    keeper: Keeper,
    /// The last used at the end.
    open: VecDeque<Sound>,
    piece: Vec<u8>,
    /// From when on it counts time.
    since: std::time::Instant,
    say: fn(String),
}

/// The frame that is coming from the ring.
struct Inbox {
    bytes: FrameBuf,
    filled: usize,
}

impl Inbox {
    /// Reads on, and no longer than so; whether the frame is whole.
    fn read(&mut self, node: &mut UnixStream, patience: Option<Duration>) -> io::Result<bool> {
        node.set_read_timeout(patience)?;
        loop {
            let whole = match frame_bytes(&self.bytes[..self.filled]).map_err(io::Error::other)? {
                None => HEADER_BYTES,
                Some(whole) if whole == self.filled => return Ok(true),
                Some(whole) => whole,
            };
            self.bytes.resize(whole, 0);
            match node.read(&mut self.bytes[self.filled..]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => self.filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    return Ok(false);
                }
                Err(error) => return Err(error),
            }
        }
    }
}

impl Reader {
    /// Until the connection ends.
    fn serve(&mut self, mut node: UnixStream, secret: &str) -> io::Result<()> {
        self.keeper.clear();
        let hello = serde_json::to_vec(&Hello::Store { secret: secret.to_owned() }).expect("plain data");
        let mut out = FrameBuf::new();
        append(&mut out, &Header::new(Kind::Hello), &hello);
        node.write_all(&out)?;
        let mut inbox = Inbox { bytes: FrameBuf::new(), filled: 0 };
        loop {
            out.clear();
            if inbox.read(&mut node, self.patience())? {
                let (frame, _) = Frame::parse(&inbox.bytes).map_err(io::Error::other)?;
                let now = Instant(call::time::nanos(self.since.elapsed()));
                match frame.kind() {
                    Kind::Fetch => self.answer(&frame, &mut out),
                    Kind::Keep => self.keeper.piece(&frame, now, &mut out),
                    Kind::Kept => self.keeper.heard(&frame, &mut out),
                    _ => {}
                }
                inbox.filled = 0;
            }
            self.keeper.turn(Instant(call::time::nanos(self.since.elapsed())), &mut out);
            node.write_all(&out)?;
        }
    }

    /// How long to wait for the ring.
    fn patience(&self) -> Option<Duration> {
        match self.keeper.is_busy() {
            (_, true) => Some(LOOK),
            (true, false) => Some(call::upload::AGAIN),
            (false, false) => None,
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
