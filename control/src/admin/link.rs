//! The wire between the cold side and the ring thread: one Unix connection, asks and answers told apart by stamp,
//! submits by call id. Connects again by itself.

use call::admin::{Answer, Ask, Hello};
use call::blob::Reference;
use call::body::{ArchivedVerdict, reply, verdicts};
use call::frame::{Frame, FrameBuf, Header, Kind, append, frame_bytes};
use call::upload::{AGAIN, PATIENCE};
use call::{CallId, Status, Usage, VerdictCode};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};

/// The node cannot be spoken to.
#[derive(Debug)]
pub struct LinkDown;

/// What became of a submit, and when to come back if it was refused as full (ms).
pub type Judged = (VerdictCode, u32);

enum Wish {
    /// By its number, which is its stamp on the wire.
    Ask(u64, Box<Ask>, oneshot::Sender<Answer>),
    /// An encoded submit frame.
    Submit(CallId, FrameBuf, oneshot::Sender<Judged>),
    /// As [`Wish::Submit`], of a call whose outcome is wanted here.
    Invoke(CallId, FrameBuf, oneshot::Sender<Judged>, oneshot::Sender<Outcome>),
    /// A piece of a result that another shard has, from this byte on.
    Fetch(CallId, Reference, u64, oneshot::Sender<Piece>),
}

/// A piece of a result, or why there is none.
pub type Piece = Result<Vec<u8>, String>;

/// How a call ended, byte for byte.
#[derive(Debug)]
pub struct Outcome {
    pub status: Status,
    pub usage: Usage,
    pub output: Vec<u8>,
    /// The blob that has the output; none stands above then.
    pub stored: Option<Reference>,
    pub stderr: Vec<u8>,
}

/// Whoever waited for this has gone.
enum Gone {
    /// For the answer to the ask of this number.
    Ask(u64),
    /// For the outcome of this call.
    Call(CallId),
}

/// An ask that is not answered yet. Dropped before it is, it leaves nothing behind, here or on the node.
struct Asking<'a> {
    number: u64,
    answered: bool,
    gone: &'a mpsc::UnboundedSender<Gone>,
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        if !self.answered {
            // The link has ended, and forgotten everything.
            let _ = self.gone.send(Gone::Ask(self.number));
        }
    }
}

/// Waits for the outcome of a call. Dropped, it leaves nothing behind.
pub struct Waiting {
    call: CallId,
    outcome: oneshot::Receiver<Outcome>,
    gone: mpsc::UnboundedSender<Gone>,
    waiting: Arc<AtomicUsize>,
}

impl Waiting {
    /// The outcome.
    pub async fn outcome(&mut self) -> Result<Outcome, LinkDown> {
        (&mut self.outcome).await.map_err(|_| LinkDown)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        // The link has ended, and forgotten everything.
        let _ = self.gone.send(Gone::Call(self.call));
    }
}

/// Cheap to clone; all clones share the connection.
#[derive(Clone)]
pub struct Link {
    wishes: mpsc::Sender<Wish>,
    gone: mpsc::UnboundedSender<Gone>,
    waiting: Arc<AtomicUsize>,
    /// Asks so far.
    asks: Arc<AtomicU64>,
}

/// Wishes that wait while the connection is being made; HTTP clients beyond them wait at their own door.
const WISHES_MAX: usize = 256;
/// How much of an answer is read at once.
const READ_BYTES: usize = 64 << 10;
/// Between two tries to connect.
const RETRY: Duration = Duration::from_millis(50);

impl Link {
    /// Starts the task that keeps the connection. Must be called inside a runtime.
    pub fn start(socket: PathBuf, secret: String) -> Link {
        let (wishes, receiver) = mpsc::channel(WISHES_MAX);
        let (gone, left) = mpsc::unbounded_channel();
        tokio::spawn(keep(socket, secret, receiver, left));
        Link { wishes, gone, waiting: Arc::default(), asks: Arc::default() }
    }

    /// Asks and waits for the answer; dropped meanwhile, the node is told that nobody waits any more.
    pub async fn ask(&self, ask: Ask) -> Result<Answer, LinkDown> {
        let (answer, answered) = oneshot::channel();
        let number = self.asks.fetch_add(1, Ordering::Relaxed) + 1;
        let mut asking = Asking { number, answered: false, gone: &self.gone };
        self.wishes.send(Wish::Ask(number, Box::new(ask), answer)).await.map_err(|_| LinkDown)?;
        let answer = answered.await.map_err(|_| LinkDown);
        asking.answered = true;
        answer
    }

    /// Submits an encoded frame and waits for its verdict.
    pub async fn submit(&self, call: CallId, frame: FrameBuf) -> Result<Judged, LinkDown> {
        let (verdict, judged) = oneshot::channel();
        self.wishes.send(Wish::Submit(call, frame, verdict)).await.map_err(|_| LinkDown)?;
        judged.await.map_err(|_| LinkDown)
    }

    /// A piece of a result that another shard has. Asked for again if it does not come.
    pub async fn fetch(&self, call: CallId, blob: Reference, offset: u64) -> Result<Piece, LinkDown> {
        let tries = PATIENCE.as_secs() / AGAIN.as_secs();
        for _ in 0..tries {
            let (piece, came) = oneshot::channel();
            self.wishes.send(Wish::Fetch(call, blob, offset, piece)).await.map_err(|_| LinkDown)?;
            if let Ok(came) = tokio::time::timeout(AGAIN, came).await {
                return came.map_err(|_| LinkDown);
            }
        }
        Ok(Err(format!("no shard that may have the result of call {call} answered in {PATIENCE:?}")))
    }

    /// Submits an encoded frame that wants its outcome; waits for the verdict, and gives what waits for the outcome.
    pub async fn invoke(&self, call: CallId, frame: FrameBuf) -> Result<(Judged, Waiting), LinkDown> {
        let (verdict, judged) = oneshot::channel();
        let (ended, outcome) = oneshot::channel();
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let waiting = Waiting { call, outcome, gone: self.gone.clone(), waiting: self.waiting.clone() };
        self.wishes.send(Wish::Invoke(call, frame, verdict, ended)).await.map_err(|_| LinkDown)?;
        Ok((judged.await.map_err(|_| LinkDown)?, waiting))
    }

    /// How many wait for an outcome.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }
}

async fn keep(
    socket: PathBuf,
    secret: String,
    mut wishes: mpsc::Receiver<Wish>,
    mut left: mpsc::UnboundedReceiver<Gone>,
) {
    while !wishes.is_closed() {
        if let Ok(mut talk) = Talk::open(&socket, &secret).await {
            // Whatever ends the connection, those who wait hear `LinkDown` as the talk is dropped.
            let _ = talk.run(&mut wishes, &mut left).await;
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// One connection's life.
struct Talk {
    stream: UnixStream,
    received: FrameBuf,
    asked: BTreeMap<u64, (oneshot::Sender<Answer>, Vec<u8>)>,
    submitted: BTreeMap<CallId, Vec<oneshot::Sender<Judged>>>,
    invoked: BTreeMap<CallId, oneshot::Sender<Outcome>>,
    /// Who waits for a piece, by its first byte.
    fetched: BTreeMap<(CallId, u64), Vec<oneshot::Sender<Piece>>>,
}

impl Talk {
    async fn open(socket: &Path, secret: &str) -> io::Result<Talk> {
        let mut stream = UnixStream::connect(socket).await?;
        let hello = Hello::Admin { secret: secret.to_owned() };
        stream.write_all(&json_frame(&Header::new(Kind::Hello), &hello)).await?;
        let (asked, submitted, invoked) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let fetched = BTreeMap::new();
        Ok(Talk { stream, received: FrameBuf::new(), asked, submitted, invoked, fetched })
    }

    async fn run(
        &mut self,
        wishes: &mut mpsc::Receiver<Wish>,
        left: &mut mpsc::UnboundedReceiver<Gone>,
    ) -> io::Result<()> {
        let mut chunk = vec![0u8; READ_BYTES];
        loop {
            tokio::select! {
                wish = wishes.recv() => match wish {
                    Some(wish) => self.send(wish).await?,
                    None => return Ok(()),
                },
                Some(gone) = left.recv() => self.forget(gone).await?,
                read = self.stream.read(&mut chunk) => match read? {
                    0 => return Ok(()),
                    bytes => self.receive(&chunk[..bytes])?,
                },
            }
        }
    }

    async fn send(&mut self, wish: Wish) -> io::Result<()> {
        match wish {
            // Who went away before this was heard hears no answer.
            Wish::Ask(_, _, answer) if answer.is_closed() => Ok(()),
            Wish::Ask(stamp, ask, answer) => {
                self.asked.insert(stamp, (answer, Vec::new()));
                let header = Header { stamp, ..Header::new(Kind::Ask) };
                self.stream.write_all(&json_frame(&header, &*ask)).await
            }
            Wish::Submit(call, frame, verdict) => {
                self.submitted.entry(call).or_default().push(verdict);
                self.stream.write_all(&frame).await
            }
            Wish::Fetch(call, blob, offset, piece) => {
                // Those who gave up are forgotten on this occasion.
                self.fetched.values_mut().for_each(|waiting| waiting.retain(|one| !one.is_closed()));
                self.fetched.retain(|_, waiting| !waiting.is_empty());
                self.fetched.entry((call, offset)).or_default().push(piece);
                let header = Header { call, stamp: offset, ..Header::new(Kind::Fetch) };
                let mut frame = FrameBuf::new();
                append(&mut frame, &header, &blob.to_bytes());
                self.stream.write_all(&frame).await
            }
            Wish::Invoke(call, frame, verdict, outcome) => {
                // Who went away before this was heard has been forgotten already.
                if !outcome.is_closed() {
                    self.invoked.insert(call, outcome);
                }
                self.submitted.entry(call).or_default().push(verdict);
                self.stream.write_all(&frame).await
            }
        }
    }

    async fn forget(&mut self, gone: Gone) -> io::Result<()> {
        match gone {
            Gone::Call(call) => drop(self.invoked.remove(&call)),
            // One that was asked of this node and is not answered yet.
            Gone::Ask(asked) if self.asked.remove(&asked).is_some() => {
                let frame = json_frame(&Header::new(Kind::Ask), &Ask::Forget { asked });
                self.stream.write_all(&frame).await?;
            }
            Gone::Ask(_) => {}
        }
        Ok(())
    }

    fn receive(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.received.extend_from_slice(bytes);
        let received = std::mem::take(&mut self.received);
        let mut rest = &received[..];
        let mut taken = 0;
        while let Some(whole) = frame_bytes(rest).map_err(io::Error::other)? {
            if rest.len() < whole {
                break;
            }
            let (frame, used) = Frame::parse(rest).map_err(io::Error::other)?;
            self.hear(&frame)?;
            rest = &rest[used..];
            taken += used;
        }
        self.received.extend_from_slice(&received[taken..]);
        Ok(())
    }

    fn hear(&mut self, frame: &Frame<'_>) -> io::Result<()> {
        match frame.kind() {
            Kind::Answer => self.hear_answer(frame)?,
            Kind::Verdicts => {
                for verdict in verdicts(frame.body()).map_err(io::Error::other)? {
                    self.hear_verdict(verdict)?;
                }
            }
            Kind::Outcome => self.hear_outcome(frame)?,
            Kind::Piece => self.hear_piece(frame),
            // The node's hello.
            _ => {}
        }
        Ok(())
    }

    /// A long answer comes in parts; `attempt` says how many follow.
    fn hear_answer(&mut self, frame: &Frame<'_>) -> io::Result<()> {
        let Some((_, parts)) = self.asked.get_mut(&frame.stamp()) else { return Ok(()) };
        parts.extend_from_slice(frame.body());
        if frame.attempt() == 0 {
            let (answer, whole) = self.asked.remove(&frame.stamp()).expect("found above");
            // An HTTP client that went away does not hear it; that is all.
            let _ = answer.send(serde_json::from_slice(&whole)?);
        }
        Ok(())
    }

    /// Of a call whose HTTP client waits for it here; one that waits through an ask, or not at all, hears nothing.
    fn hear_outcome(&mut self, frame: &Frame<'_>) -> io::Result<()> {
        let Some(waiting) = self.invoked.remove(&frame.call()) else { return Ok(()) };
        let reply = reply(frame.body()).map_err(io::Error::other)?;
        let status = frame.status().map_err(io::Error::other)?;
        let stored = Reference::of_result(frame, reply.output).map_err(io::Error::other)?;
        let output = if stored.is_some() { Vec::new() } else { reply.output.to_vec() };
        let (usage, stderr) = (reply.usage(), reply.stderr.to_vec());
        let _ = waiting.send(Outcome { status, usage, output, stored, stderr });
        Ok(())
    }

    /// For all who wait for it; who asked twice hears it once.
    fn hear_piece(&mut self, frame: &Frame<'_>) {
        let piece = match frame.status() {
            Ok(Status::Ok) => Ok(frame.body().to_vec()),
            _ => Err(String::from_utf8_lossy(frame.body()).into_owned()),
        };
        for waiting in self.fetched.remove(&(frame.call(), frame.stamp())).unwrap_or_default() {
            let _ = waiting.send(piece.clone());
        }
    }

    fn hear_verdict(&mut self, verdict: &ArchivedVerdict) -> io::Result<()> {
        let code = verdict.code().map_err(io::Error::other)?;
        for waiting in self.submitted.remove(&verdict.call()).unwrap_or_default() {
            let _ = waiting.send((code, verdict.retry_after_ms.to_native()));
        }
        Ok(())
    }
}

fn json_frame(header: &Header, body: &impl serde::Serialize) -> FrameBuf {
    let mut out = FrameBuf::new();
    append(&mut out, header, &serde_json::to_vec(body).expect("plain data"));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::net::UnixListener;

    /// The next frame that a node reads; the ask in it, if it is one, with its stamp.
    fn next(node: &mut impl Read) -> Option<(u64, Ask)> {
        let mut bytes = FrameBuf::new();
        let mut byte = [0];
        while frame_bytes(&bytes).unwrap().is_none_or(|whole| bytes.len() < whole) {
            node.read_exact(&mut byte).expect("the link speaks");
            bytes.extend_from_slice(&byte);
        }
        let (frame, _) = Frame::parse(&bytes).unwrap();
        (frame.kind() == Kind::Ask).then(|| (frame.stamp(), serde_json::from_slice(frame.body()).unwrap()))
    }

    #[test]
    fn a_node_hears_that_nobody_waits_any_more() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("node.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let handle = runtime.handle().clone();
        std::thread::spawn(move || runtime.block_on(std::future::pending::<()>()));
        let link = handle.block_on(async { Link::start(socket, "secret".into()) });
        let (mut node, _) = listener.accept().unwrap();
        assert!(next(&mut node).is_none(), "first its hello");
        let patient = || Ask::Call { call: CallId(7).to_string(), wait_ms: 60_000 };
        let other = link.clone();
        let waits = handle.spawn(async move { other.ask(patient()).await.map(drop).map_err(drop) });
        let (asked, ask) = next(&mut node).unwrap();
        assert_eq!(ask, patient());
        // Its HTTP client goes away.
        waits.abort();
        assert_eq!(next(&mut node).unwrap().1, Ask::Forget { asked });
        // One that was answered is not spoken of again.
        let other = link.clone();
        let served = handle.spawn(async move { other.ask(Ask::Status).await.map_err(drop) });
        let (stamp, ask) = next(&mut node).unwrap();
        assert_eq!(ask, Ask::Status);
        let answer = Answer::Error { code: "internal".into(), message: "no".into() };
        let header = Header { stamp, ..Header::new(Kind::Answer) };
        std::io::Write::write_all(&mut node, &json_frame(&header, &answer)).unwrap();
        assert_eq!(handle.block_on(served).unwrap(), Ok(answer));
        let _last = handle.spawn(async move { link.ask(Ask::Queues).await.map(drop).map_err(drop) });
        assert_eq!(next(&mut node).unwrap().1, Ask::Queues);
    }
}
