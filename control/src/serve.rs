//! A control node as a process: from options to a ring that serves, to an orderly end.

use crate::accounts::book::{Keeper, wall};
use crate::accounts::{Book, Ledger, rows_max};
use crate::admin::{self, AdminOptions, CatalogFile, RegionFile, ShapingFile, ShardFile, signals};
use crate::artefacts::ArtefactStore;
use crate::blobs::BlobStore;
use crate::blobs::service::Service;
use crate::datadir::{DataDir, write_durably};
use crate::logs::{self, Bounds, Sink};
use crate::node::{Node, NodeOptions, Phase};
use crate::recovery::{Booting, LogError};
use crate::regions::RegionOptions;
use crate::salvage::write_report;
use crate::shards::{SESSIONS_MAX, ShardOptions};
use crate::start::StartError;
use call::admin::Shaping;
use call::blob::Reference;
use call::limits::{BLOB_ABOVE_BYTES, Limits};
use call::{FunctionId, FunctionSpec, ShardId, WallTime};
use driver::notes::say;
use driver::shell::{self, Shell};
use driver::uring::{self, Uring};
use driver::{Arrivals, Driver, Endpoint};
use serde::{Deserialize, Serialize};
use std::future::Future;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::sync::mpsc;
use std::task::{Context, Poll, Waker};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// What an operator says about a node; everything else follows.
#[derive(Clone, Debug)]
pub struct ControlOptions {
    /// The data directory; made if missing.
    pub data: PathBuf,
    /// Where the admin API listens. Port 0 takes any free one.
    pub admin: SocketAddr,
    /// Where the native protocol listens on TCP; none for Unix socket and shared memory only.
    pub tcp: Option<SocketAddr>,
    /// CPU to pin the ring thread to, inside an executor of its own; none leaves it to the kernel.
    pub cpu: Option<usize>,
    /// How long to spin for work before sleeping.
    pub spin: Duration,
    /// How long a drain waits for leases to end.
    pub drain: Duration,
    /// Whether SIGTERM and SIGINT drain the node. Off where the process is not the node's own, as in tests.
    pub signals: bool,
    /// Whether endpoints and backends are printed at the start.
    pub print: bool,
    /// How much is kept of what calls write to stderr.
    pub logs: Bounds,
    /// What to do if the log is damaged.
    pub recover: durableq::Recover,
    /// What this node calls itself among regions; empty if it is alone.
    pub region: String,
    /// The other regions, and where their nodes listen.
    pub peers: Vec<(String, Endpoint)>,
    /// Its number among shards, and their file; none if it is alone.
    pub shard: Option<(ShardId, PathBuf)>,
    /// Arguments above this, submitted over HTTP, become a blob; at most [`ARGUMENTS_BYTES_MAX`].
    ///
    /// [`ARGUMENTS_BYTES_MAX`]: call::limits::ARGUMENTS_BYTES_MAX
    pub blob_above: usize,
    /// See [`ShardOptions::remember`].
    pub shard_remember: Duration,
    /// Bounds of everything.
    pub limits: Limits,
}

impl Default for ControlOptions {
    fn default() -> ControlOptions {
        ControlOptions {
            data: "./millrace-data".into(),
            admin: SocketAddr::from(([127, 0, 0, 1], 7411)),
            tcp: Some(SocketAddr::from(([127, 0, 0, 1], 7410))),
            cpu: None,
            spin: uring::Options::default().spin,
            drain: NodeOptions::default().drain,
            signals: true,
            print: true,
            logs: Bounds::default(),
            recover: durableq::Recover::Strict,
            region: String::new(),
            peers: Vec::new(),
            shard: None,
            blob_above: BLOB_ABOVE_BYTES,
            shard_remember: crate::shards::REMEMBER,
            limits: Limits::default(),
        }
    }
}

/// `run/control.json`: how to reach the node that uses the directory. There while it serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoints {
    /// Its process.
    pub pid: u32,
    /// Base of its admin API: `http://127.0.0.1:7411`.
    pub admin: String,
    /// The native protocol over TCP: `tcp:127.0.0.1:7410`.
    pub tcp: Option<String>,
    /// The native protocol over a Unix socket.
    pub unix: String,
    /// The native protocol over shared memory.
    pub shm: String,
}

impl Endpoints {
    /// Of the node that uses this data directory.
    ///
    /// # Errors
    /// Not found: no node serves there.
    pub fn read(data: &Path) -> io::Result<Endpoints> {
        let bytes = std::fs::read(data.join("run").join(ENDPOINTS))?;
        serde_json::from_slice(&bytes).map_err(io::Error::other)
    }
}

/// The file of [`Endpoints`], in `run/`.
const ENDPOINTS: &str = "control.json";
/// After a SIGKILL the kernel ends an io_uring's accepts in the background: its port is free a moment later.
const BIND_PATIENCE: Duration = Duration::from_secs(2);
/// Between two tries.
const BIND_RETRY: Duration = Duration::from_millis(50);
/// What an ended node still sends to its peers must have left in this time.
const FAREWELL: Duration = Duration::from_millis(500);

/// Everything a node is made of that can fail before its ring turns.
struct Prepared {
    options: ControlOptions,
    data: DataDir,
    functions: Vec<FunctionSpec>,
    buried: Vec<FunctionId>,
    shaping: Shaping,
    admin: String,
    secret: String,
    ledger: Arc<Ledger>,
    logs: Sink,
    region: RegionFile,
    shards: ShardOptions,
    blobs: Vec<(Reference, WallTime)>,
}

/// What is written beside the log, by threads of its own, while the ring turns.
struct Records {
    book: Arc<Book>,
    keeper: Keeper,
    logs: logs::Writer,
}

impl Records {
    fn start(data: &DataDir, options: &ControlOptions) -> Result<(Records, Sink), StartError> {
        let at = |entry: &str| (data.path(entry), data.path(entry));
        let (path, usage) = at("usage");
        let failed = |source| StartError::Io { path, source };
        let (book, note) = Book::open(usage, rows_max(&options.limits), wall()).map_err(failed)?;
        note.into_iter().for_each(say);
        let book = Arc::new(book);
        let (path, directory) = at("logs");
        let failed = |source| StartError::Io { path, source };
        let (sink, logs) = logs::Writer::start(directory, options.logs, say).map_err(failed)?;
        let keeper = Keeper::start(book.clone(), say).map_err(StartError::Driver)?;
        Ok((Records { book, keeper, logs }, sink))
    }

    /// Writes what is left, now that the ring has ended.
    fn stop(self) {
        self.logs.join();
        self.keeper.stop();
    }
}

/// Runs a control node on the calling thread until it has drained.
///
/// # Errors
/// [`StartError`] says what, where, and what to do. [`StartError::LogFailed`] is the only one of a node that served.
pub fn serve(options: ControlOptions) -> Result<(), StartError> {
    if options.signals {
        signals::endings().thread_block().map_err(|errno| StartError::Driver(errno.into()))?;
    }
    let data = DataDir::open(&options.data)?;
    data.belong(options.shard.as_ref().map(|(number, _)| *number))?;
    data.check_room(2 * options.limits.segment_bytes)?;
    let catalog = CatalogFile::open(data.root().to_owned(), options.limits.functions_max)?;
    let (functions, buried) = (catalog.functions().cloned().collect(), catalog.buried().collect());
    let failed = |source| StartError::Io { path: data.root().join("region.json"), source };
    let region = RegionFile::read(data.root()).map_err(failed)?;
    let shards = shard_options(&options)?;
    let shaping = ShapingFile::open(data.root().to_owned())?;
    let said = shaping.contents().clone();
    let artefacts = data.path("artefacts");
    let store = ArtefactStore::open(artefacts.clone())
        .map_err(|source| StartError::Io { path: artefacts, source })?;
    let blobs = data.path("blobs");
    let opened = BlobStore::open(blobs.clone(), &options.limits);
    let (blobs, found) = opened.map_err(|source| StartError::Io { path: blobs, source })?;
    let blobs = Arc::new(blobs);
    let refused = |source| StartError::ListenAdmin { at: options.admin, source };
    let listener = retry(|| TcpListener::bind(options.admin)).map_err(refused)?;
    let admin = format!("http://{}", listener.local_addr().map_err(refused)?);
    let secret = format!("{:032x}", admin::entropy().map_err(StartError::Driver)?);
    let (records, logs) = Records::start(&data, &options)?;
    let ledger = records.book.ledger().clone();
    let (stop, stopped) = oneshot::channel();
    let cold = AdminOptions {
        listener,
        socket: data.path("run/submit.sock"),
        secret: secret.clone(),
        catalog,
        root: data.root().to_owned(),
        region: region.clone(),
        shaping,
        shards: options.shard.as_ref().map(|(_, path)| path.clone()),
        store,
        blobs: blobs.clone(),
        blob_above: options.blob_above,
        book: records.book.clone(),
        logs: admin::Logs::new(data.path("logs"), &records.logs),
        signals: options.signals.then(signals::endings),
        stop: stopped,
    };
    // Before the ring thread is pinned: the cold side may run on any CPU.
    let (begin, thread) = cold_side().map_err(StartError::Driver)?;
    let service = Service::start(blobs, data.path("run/submit.sock"), secret.clone(), say)
        .map_err(StartError::Driver)?;
    let prepared = Prepared {
        blobs: found,
        options,
        data,
        functions,
        buried,
        shaping: said,
        admin,
        secret,
        ledger,
        logs,
        region,
        shards,
    };
    let result = run(prepared, || drop(begin.send(cold)));
    drop((begin, stop));
    let _ = thread.join();
    service.stop();
    records.stop();
    result
}

/// What the file of all shards says, if this node is one.
fn shard_options(options: &ControlOptions) -> Result<ShardOptions, StartError> {
    let Some((number, path)) = &options.shard else { return Ok(ShardOptions::default()) };
    let failed = |source| StartError::Io { path: path.clone(), source };
    let ShardFile { secret, map } = ShardFile::read(path).map_err(failed)?;
    let remember = options.shard_remember;
    let failed = |source| StartError::Io { path: options.data.join(admin::SHARES), source };
    let shares = admin::read_shares(&options.data).map_err(failed)?;
    Ok(ShardOptions { number: Some(*number), map, secret, remember, shares })
}

/// A thread that serves the admin API as soon as it is told how, and ends if it never is.
fn cold_side() -> io::Result<(mpsc::Sender<AdminOptions>, JoinHandle<()>)> {
    let (begin, told) = mpsc::channel();
    let work = move || {
        if let Ok(options) = told.recv()
            && let Err(error) = admin::serve(options)
        {
            say(format_args!("the admin API has ended: {error}"));
        }
    };
    Ok((begin, thread::Builder::new().name("admin".into()).spawn(work)?))
}

/// The ring: pinned inside an executor, or on this thread as it is.
fn run(prepared: Prepared, begin_cold: impl FnOnce()) -> Result<(), StartError> {
    let driver = driver_options(&prepared);
    match prepared.options.cpu {
        Some(cpu) => shell::run_pinned(cpu, driver, |driver, mut shell| async move {
            turn(&prepared, driver, Some(&mut shell), begin_cold).await
        })
        .map_err(StartError::Driver)?,
        None => {
            let driver = Uring::new(driver).map_err(StartError::Driver)?;
            // Without a shell nothing in it ever waits for an executor.
            let mut turns = pin!(turn(&prepared, driver, None, begin_cold));
            match turns.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(result) => result,
                Poll::Pending => unreachable!("a reap of the driver blocks"),
            }
        }
    }
}

/// The node's whole life.
async fn turn(
    prepared: &Prepared,
    driver: Uring,
    mut shell: Option<&mut Shell>,
    begin_cold: impl FnOnce(),
) -> Result<(), StartError> {
    let log = prepared.data.path("log");
    let failed = |error: LogError| StartError::Log { path: log.clone(), message: error.to_string() };
    let options = NodeOptions {
        admin: prepared.admin.clone(),
        secret: prepared.secret.clone(),
        drain: prepared.options.drain,
        ledger: prepared.ledger.clone(),
        logs: Some(prepared.logs.clone()),
        regions: RegionOptions {
            name: prepared.options.region.clone(),
            peers: prepared.options.peers.clone(),
            matrix: prepared.region.matrix.clone(),
            drained: prepared.region.drained,
            siblings: false,
        },
        recover: prepared.options.recover,
        shards: prepared.shards.clone(),
        buried: prepared.buried.clone(),
        shaping: prepared.shaping.clone(),
        blobs: prepared.blobs.clone(),
        pid: std::process::id(),
    };
    let limits = prepared.options.limits.clone();
    let mut arrivals = Arrivals::new();
    let booting = Booting::new(limits, options, driver, prepared.functions.clone()).map_err(failed)?;
    let mut node = booting.run(&mut arrivals).map_err(failed)?;
    tell_salvage(prepared, &mut node)?;
    let endpoints = listen(prepared, &mut node)?;
    begin_cold();
    announce(prepared, &endpoints, &node)?;
    while matches!(node.phase(), Phase::Serving | Phase::Draining { .. }) {
        let until = node.turn(&arrivals);
        node.notes().for_each(say);
        match &mut shell {
            Some(shell) => shell.reap(node.driver(), until, &mut arrivals).await,
            None => node.driver().reap(until, &mut arrivals),
        }
    }
    take_leave(&mut node, &mut arrivals);
    let _ = std::fs::remove_file(prepared.data.path("run").join(ENDPOINTS));
    match node.phase() {
        Phase::Failed { errno } => {
            Err(StartError::LogFailed { path: log, source: io::Error::from_raw_os_error(errno) })
        }
        _ => Ok(()),
    }
}

/// Says what was lost, and writes it down before anybody can connect.
fn tell_salvage(prepared: &Prepared, node: &mut Node<Uring>) -> Result<(), StartError> {
    let (root, now) = (prepared.data.root(), node.driver().wall());
    let written = write_report(root, node.salvaged(), now);
    let written = written.map_err(|source| StartError::Io { path: root.to_owned(), source })?;
    node.salvaged().iter().for_each(|loss| say(loss.to_string()));
    if let Some(path) = written {
        say(format!(
            "the log was salvaged; what is lost is in {}. All of it is written anew now: start with --recover salvage \
             until that is said to be done",
            path.display()
        ));
    }
    Ok(())
}

/// Closes all connections once what is queued on them has left. `arrivals` still holds what the last reap brought.
fn take_leave(node: &mut Node<Uring>, arrivals: &mut Arrivals) {
    let until = node.driver().precise() + FAREWELL;
    node.leave();
    loop {
        node.turn(arrivals);
        if node.is_alone() || node.driver().precise() >= until {
            return;
        }
        node.driver().reap(until, arrivals);
    }
}

fn driver_options(prepared: &Prepared) -> uring::Options {
    let limits = &prepared.options.limits;
    uring::Options {
        data_dir: Some(prepared.data.path("log")),
        blocks: durableq::block_count(limits),
        block_bytes: limits.group_bytes,
        spin: prepared.options.spin,
        connections_max: (limits.clients_max + 2 * limits.cores_max + SESSIONS_MAX + 16).min(65_535),
        ..uring::Options::default()
    }
}

fn listen(prepared: &Prepared, node: &mut Node<Uring>) -> Result<Endpoints, StartError> {
    let mut listen = |at: Endpoint| {
        if let Endpoint::Unix(path) | Endpoint::Shm(path) = &at {
            // Left by a node that was killed: the lock says that nobody uses it.
            let _ = std::fs::remove_file(path);
        }
        match retry(|| node.listen(&at)) {
            Ok(listener) => Ok(node.driver().local(listener).to_string()),
            Err(source) => Err(StartError::Listen { at, source }),
        }
    };
    Ok(Endpoints {
        pid: std::process::id(),
        admin: prepared.admin.clone(),
        tcp: prepared.options.tcp.map(|at| listen(Endpoint::Tcp(at))).transpose()?,
        unix: listen(Endpoint::Unix(prepared.data.path("run/submit.sock")))?,
        shm: listen(Endpoint::Shm(prepared.data.path("run/core.shm")))?,
    })
}

/// Tries again for a moment while the address is in use.
fn retry<T>(mut bind: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let until = Instant::now() + BIND_PATIENCE;
    loop {
        match bind() {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < until => {
                thread::sleep(BIND_RETRY);
            }
            result => return result,
        }
    }
}

/// Says how to reach the node, to programs and to people.
fn announce(prepared: &Prepared, endpoints: &Endpoints, node: &Node<Uring>) -> Result<(), StartError> {
    let run = prepared.data.path("run");
    let text = serde_json::to_vec_pretty(endpoints).expect("plain data");
    write_durably(&run, ENDPOINTS, &text).map_err(|source| StartError::Io { path: run, source })?;
    if !prepared.options.print {
        return Ok(());
    }
    let status = node.status();
    let data = prepared.data.root().display();
    let mut text = format!(
        "control node {} on {data}: incarnation {}, {} calls recovered, {} functions\n",
        status.version,
        status.incarnation,
        status.recovered,
        prepared.functions.len()
    );
    let native = [endpoints.tcp.as_ref(), Some(&endpoints.unix), Some(&endpoints.shm)];
    let native = native.into_iter().flatten().map(|at| ("native", at));
    let backends = status.backends.iter().map(|(thing, backend)| (thing.as_str(), backend));
    for (thing, value) in std::iter::once(("admin", &endpoints.admin)).chain(native).chain(backends) {
        text += &format!("  {thing:<12} {value}\n");
    }
    // Nobody may be reading; the node serves all the same.
    let _ = io::stdout().write_all(text.as_bytes());
    Ok(())
}
