//! The host's session with the node: gets every function, has its artefact fetched, checked and compiled or unpacked
//! into the host's cache, and answers whether calls of it may be sent here.
//!
//! It is off the path of calls: plain blocking sockets, two threads. One reads what the node publishes; the other
//! compiles, one artefact at a time and at low priority, so that the cores keep their CPUs.

use crate::bundle;
use crate::cache::{self, Tidiness, Uses};
use crate::plan::Plan;
use call::admin::Hello;
use call::frame::{self, FrameBuf, Header, Kind};
use call::function::RuntimeKind;
use call::limits::{ARTEFACT_BYTES_MAX, HEADER_BYTES};
use call::{Frame, FunctionId, FunctionSpec, Status};
use driver::Endpoint;
use nix::sys::signal::SigSet;
use runtime::wasm::artefact::{self, ArtefactError};
use runtime::wasm::files::Allowed;
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// Wait before the node is tried again after the connection was lost; doubles up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(100);
/// Longest wait.
const RETRY_MAX: Duration = Duration::from_secs(2);
/// How long the node may take to send an artefact.
const FETCH_TIMEOUT: Duration = Duration::from_secs(60);
/// Tries to fetch an artefact before the function is said to have failed here.
const FETCH_TRIES: u32 = 4;
/// Nice value of the compiling thread.
const NICE: i32 = 10;

/// What makes an artefact ready to run on this host; [`Artefacts`] in production.
pub trait Prepare: Send + 'static {
    /// Whether the function's artefact is ready, if need be made so from what is still there; false if it must be
    /// fetched.
    ///
    /// # Errors
    /// A sentence for the function's owner.
    fn ensure(&self, spec: &FunctionSpec) -> Result<bool, String>;
    /// Compiles or unpacks the artefact, whose hash was verified, into the cache.
    ///
    /// # Errors
    /// A sentence for the function's owner.
    fn prepare(&self, spec: &FunctionSpec, artefact: &[u8]) -> Result<(), String>;
}

/// The host's cache of compiled modules and unpacked bundles.
struct Artefacts {
    cache: PathBuf,
    /// Whether this worker has a jailer. Without one a process function is never ready here.
    has_jailer: bool,
    /// Directories that wasm functions may be granted.
    files_allowed: Allowed,
}

/// Why a process function is not ready on a host whose worker has no jailer.
const NO_JAILER: &str = "this host runs no process functions: its worker has no jailer (--no-process-functions); start \
                         the worker without that flag, or deploy to other hosts";

impl Prepare for Artefacts {
    fn ensure(&self, spec: &FunctionSpec) -> Result<bool, String> {
        match spec.runtime {
            RuntimeKind::Wasm => {
                self.files_allowed.check(&spec.files)?;
                match artefact::ensure(&self.cache, &spec.artefact) {
                    Ok(_) => Ok(true),
                    Err(ArtefactError::Missing(_)) => Ok(false),
                    Err(error) => Err(error.to_string()),
                }
            }
            RuntimeKind::Process if !self.has_jailer => Err(NO_JAILER.into()),
            RuntimeKind::Process => {
                let found = bundle::ensure(&self.cache, &spec.artefact).map_err(|error| error.to_string())?;
                found.as_ref().map_or(Ok(false), |contents| startable(contents, spec).map(|()| true))
            }
        }
    }

    fn prepare(&self, spec: &FunctionSpec, artefact: &[u8]) -> Result<(), String> {
        match spec.runtime {
            RuntimeKind::Wasm => {
                artefact::compile(&self.cache, artefact).map(|_| ()).map_err(|error| error.to_string())
            }
            RuntimeKind::Process => {
                let unpacked = bundle::unpack(&self.cache, &spec.artefact, artefact);
                startable(&unpacked.map_err(|error| format!("the bundle {error}"))?, spec)
            }
        }
    }
}

fn startable(contents: &bundle::Contents, spec: &FunctionSpec) -> Result<(), String> {
    contents.check_command(&spec.process).map_err(|error| format!("the bundle {error}"))
}

/// The wish to have functions compiled, and the way to answer.
struct Desk {
    /// The newest version of each function that is not compiled yet.
    wanted: BTreeMap<FunctionId, FunctionSpec>,
    /// Which artefacts are of use.
    uses: Uses,
    /// Base of the node's admin API.
    admin: String,
    /// The connection, while there is one.
    node: Option<Box<dyn Write + Send>>,
}

#[derive(Clone)]
struct Shared(Arc<(Mutex<Desk>, Condvar)>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Desk> {
        self.0.0.lock().expect("no thread panics while it holds the desk")
    }
}

/// Starts the session. It never ends: a lost connection is made again.
///
/// # Errors
/// If a thread cannot be started.
pub fn start(plan: &Plan) -> io::Result<()> {
    bundle::sweep(&plan.cache);
    let (cache, files_allowed) = (plan.cache.clone(), plan.files_allowed.clone());
    let tidiness = Tidiness::new(plan.unused_bytes);
    start_with(plan, tidiness, Artefacts { cache, has_jailer: plan.jailer.is_some(), files_allowed })
}

fn start_with(plan: &Plan, tidiness: Tidiness, prepare: impl Prepare) -> io::Result<()> {
    let uses = Uses::new(&tidiness);
    let desk = Desk { wanted: BTreeMap::new(), uses, admin: String::new(), node: None };
    let shared = Shared(Arc::new((Mutex::new(desk), Condvar::new())));
    let (compiler, artefacts, cache) = (shared.clone(), plan.artefacts.clone(), plan.cache.clone());
    let named = |name: &str| std::thread::Builder::new().name(name.into());
    named("compile").spawn(move || {
        leave_signals_to_others();
        let tidy = || tidy(&compiler, &cache, tidiness.unused_bytes);
        compile_for_ever(&compiler, artefacts, &prepare, tidiness.look, tidy);
    })?;
    let (node, host) = (plan.host_node.clone(), plan.host.clone());
    named("host-session").spawn(move || {
        leave_signals_to_others();
        connect_for_ever(&shared, &node, &host);
    })?;
    Ok(())
}

/// A signal that came to this thread would end the process; the supervisor's thread for signals is to have it.
fn leave_signals_to_others() {
    SigSet::all().thread_block().expect("a thread may always block signals");
}

fn connect_for_ever(shared: &Shared, node: &Endpoint, host: &str) {
    let mut wait = RETRY_MIN;
    loop {
        match session(shared, node, host, &mut wait) {
            Ok(()) => say(format_args!("event=host-disconnected node={node} reason=\"closed by the node\"")),
            Err(error) if wait == RETRY_MIN => {
                say(format_args!("event=host-disconnected node={node} reason=\"{error}\""));
            }
            // Told once; it is tried again silently.
            Err(_) => {}
        }
        let mut desk = shared.lock();
        desk.node = None;
        desk.wanted.clear();
        desk.uses.disconnected();
        drop(desk);
        std::thread::sleep(wait);
        wait = (wait * 2).min(RETRY_MAX);
    }
}

/// One connection, until it ends.
fn session(shared: &Shared, node: &Endpoint, host: &str, wait: &mut Duration) -> io::Result<()> {
    let (mut from, mut to) = connect(node)?;
    let hello = Hello::Host { host: host.into(), pid: std::process::id() };
    let body = serde_json::to_vec(&hello).expect("a hello is plain words and numbers");
    let mut out = FrameBuf::new();
    frame::append(&mut out, &Header::new(Kind::Hello), &body);
    to.write_all(&out)?;
    let mut buffer = FrameBuf::new();
    let mut to = Some(to);
    loop {
        let Some(frame) = read_frame(&mut from, &mut buffer)? else { return Ok(()) };
        match frame.kind() {
            Kind::Hello => {
                let Hello::Node { admin, version, .. } = json(&frame)? else {
                    return Err(malformed("the peer is no node"));
                };
                say(format_args!("event=host-connected node={node} version={version} admin={admin}"));
                *wait = RETRY_MIN;
                let mut desk = shared.lock();
                desk.admin = admin;
                desk.uses.connected(Instant::now());
                desk.node = to.take();
            }
            Kind::Publish => {
                let spec: FunctionSpec = json(&frame)?;
                let mut desk = shared.lock();
                desk.uses.published(&spec);
                desk.wanted.insert(frame.function(), spec);
                drop(desk);
                shared.0.1.notify_one();
            }
            Kind::Retire => {
                let mut desk = shared.lock();
                desk.uses.retired(Instant::now(), frame.function());
                desk.wanted.remove(&frame.function());
            }
            // Nothing else concerns a host; a newer node may say more.
            _ => {}
        }
    }
}

fn connect(node: &Endpoint) -> io::Result<(Box<dyn Read>, Box<dyn Write + Send>)> {
    match node {
        Endpoint::Tcp(at) => {
            let stream = TcpStream::connect_timeout(at, Duration::from_secs(5))?;
            stream.set_nodelay(true)?;
            Ok((Box::new(stream.try_clone()?), Box::new(stream)))
        }
        Endpoint::Unix(path) => {
            let stream = UnixStream::connect(path)?;
            Ok((Box::new(stream.try_clone()?), Box::new(stream)))
        }
        Endpoint::Shm(_) => unreachable!("the plan refuses it"),
    }
}

/// The next frame, in `buffer`; `None` if the peer closed between two frames.
fn read_frame<'a>(from: &mut impl Read, buffer: &'a mut FrameBuf) -> io::Result<Option<Frame<'a>>> {
    buffer.clear();
    buffer.resize(HEADER_BYTES, 0);
    let first = from.read(buffer)?;
    if first == 0 {
        return Ok(None);
    }
    from.read_exact(&mut buffer[first..])?;
    let whole = frame::frame_bytes(buffer).map_err(malformed)?.expect("a whole header");
    buffer.resize(whole, 0);
    from.read_exact(&mut buffer[HEADER_BYTES..])?;
    Ok(Some(Frame::parse(buffer).map_err(malformed)?.0))
}

fn json<T: serde::de::DeserializeOwned>(frame: &Frame<'_>) -> io::Result<T> {
    serde_json::from_slice(frame.body()).map_err(malformed)
}

fn malformed(error: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
}

/// Compiles what is wanted; `tidy` follows about every `look`.
fn compile_for_ever(
    shared: &Shared,
    artefacts: Option<PathBuf>,
    prepare: &impl Prepare,
    look: Duration,
    tidy: impl Fn(),
) {
    // SAFETY: plain numbers; on Linux, 0 means the calling thread. If it is refused, compiling is only less polite.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) };
    let mut tidied = Instant::now();
    loop {
        if tidied.elapsed() >= look {
            tidy();
            tidied = Instant::now();
        }
        let mut desk = shared.lock();
        let Some((function, spec)) = desk.wanted.pop_first() else {
            drop(shared.0.1.wait_timeout(desk, look).expect("no thread panics while it holds the desk"));
            continue;
        };
        let admin = desk.admin.clone();
        drop(desk);
        let result = ready(&spec, artefacts.as_ref(), &admin, prepare);
        let (name, version) = (&spec.name, spec.version);
        match &result {
            Ok(()) => say(format_args!("event=ready function={}/{name} version={version}", spec.namespace)),
            Err(reason) => say(format_args!(
                "event=not-ready function={}/{name} version={version} reason={reason:?}",
                spec.namespace
            )),
        }
        if result.is_ok() {
            shared.lock().uses.ready(Instant::now(), &spec);
        }
        answer(shared, function, version, result);
    }
}

/// Removes from the cache what is of no use. By the thread that fills it, so that nothing goes that it has just found.
fn tidy(shared: &Shared, cache: &Path, room: u64) {
    let Some(needed) = shared.lock().uses.needed(Instant::now()) else { return };
    for artefact in cache::remove_unused(cache, &needed, room) {
        say(format_args!("event=artefact-removed artefact={artefact}"));
    }
}

fn answer(shared: &Shared, function: FunctionId, version: u32, result: Result<(), String>) {
    let level = if result.is_ok() { Status::Ok } else { Status::Unavailable } as u8;
    let header = Header { function, stamp: u64::from(version), level, ..Header::new(Kind::Ready) };
    let body = result.err().map(|reason| serde_json::to_vec(&reason).expect("a string"));
    let mut out = FrameBuf::new();
    frame::append(&mut out, &header, body.as_deref().unwrap_or_default());
    let mut desk = shared.lock();
    if let Some(node) = &mut desk.node {
        // If the connection is gone the node publishes all functions again over the next one.
        let _ = node.write_all(&out);
    }
}

/// Has the artefact compiled or unpacked in the cache, or says why not.
fn ready(
    spec: &FunctionSpec,
    artefacts: Option<&PathBuf>,
    admin: &str,
    prepare: &impl Prepare,
) -> Result<(), String> {
    if prepare.ensure(spec)? {
        return Ok(());
    }
    let artefact = fetch(spec, artefacts, admin)?;
    let is = artefact::sha256(&artefact);
    if is != spec.artefact {
        return Err(format!(
            "the artefact's SHA-256 is {is}, but {} was deployed; deploy it again",
            spec.artefact
        ));
    }
    prepare.prepare(spec, &artefact)
}

/// The artefact: from the node's store if it is on this host, else over HTTP.
fn fetch(spec: &FunctionSpec, artefacts: Option<&PathBuf>, admin: &str) -> Result<Vec<u8>, String> {
    let ending = match spec.runtime {
        RuntimeKind::Wasm => "wasm",
        RuntimeKind::Process => "bundle",
    };
    if let Some(store) = artefacts
        && let Ok(bytes) = std::fs::read(store.join(format!("{}.{ending}", spec.artefact)))
    {
        return Ok(bytes);
    }
    let url = format!("{admin}/v1/artefacts/{}", spec.artefact);
    let mut wait = RETRY_MIN;
    let mut tries = 1;
    loop {
        match get(&url) {
            Ok(bytes) => return Ok(bytes),
            Err(error) if tries == FETCH_TRIES => {
                return Err(format!(
                    "GET {url} failed {tries} times: {error}; is the admin API reachable from here?"
                ));
            }
            Err(_) => std::thread::sleep(wait),
        }
        tries += 1;
        wait *= 2;
    }
}

fn get(url: &str) -> Result<Vec<u8>, ureq::Error> {
    let mut response =
        ureq::get(url).config().proxy(None).timeout_global(Some(FETCH_TIMEOUT)).build().call()?;
    response.body_mut().with_config().limit(ARTEFACT_BYTES_MAX as u64).read_to_vec()
}

fn say(what: std::fmt::Arguments<'_>) {
    driver::notes::say(format_args!("millrace worker: {what}"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// A compiler that refuses one word and remembers nothing.
    struct Fake;

    impl Prepare for Fake {
        fn ensure(&self, spec: &FunctionSpec) -> Result<bool, String> {
            Ok(spec.artefact == "cached")
        }
        fn prepare(&self, _spec: &FunctionSpec, wasm: &[u8]) -> Result<(), String> {
            if wasm == b"bad" { Err("not wasm".into()) } else { Ok(()) }
        }
    }

    fn send(to: &mut TcpStream, header: Header, body: &[u8]) {
        let mut out = FrameBuf::new();
        frame::append(&mut out, &header, body);
        to.write_all(&out).expect("the host reads");
    }

    fn publish(to: &mut TcpStream, name: &str, artefact: String) {
        let spec = FunctionSpec { name: name.into(), artefact, version: 3, ..FunctionSpec::default() };
        let header = Header { function: spec.id(), ..Header::new(Kind::Publish) };
        send(to, header, &serde_json::to_vec(&spec).unwrap());
    }

    /// The reason in the next Ready, empty if it is ready.
    fn answered(from: &mut TcpStream, name: &str) -> String {
        let mut buffer = FrameBuf::new();
        let frame = read_frame(from, &mut buffer).unwrap().expect("an answer");
        assert_eq!((frame.kind(), frame.stamp()), (Kind::Ready, 3));
        assert_eq!(frame.function(), FunctionId::of("default", name));
        if frame.status().unwrap().is_ok() { String::new() } else { json(&frame).unwrap() }
    }

    fn greeted(node: &TcpListener, admin: &str) -> TcpStream {
        let (mut host, _) = node.accept().unwrap();
        let mut buffer = FrameBuf::new();
        let frame = read_frame(&mut host, &mut buffer).unwrap().expect("a hello");
        assert!(matches!(json(&frame).unwrap(), Hello::Host { host, .. } if host == "here"));
        let hello = Hello::Node { version: "0".into(), incarnation: 1, admin: admin.into() };
        send(&mut host, Header::new(Kind::Hello), &serde_json::to_vec(&hello).unwrap());
        host
    }

    fn plan(node: &TcpListener, store: &std::path::Path) -> Plan {
        Plan {
            host: "here".into(),
            node: Endpoint::Tcp(node.local_addr().unwrap()),
            host_node: Endpoint::Tcp(node.local_addr().unwrap()),
            cache: store.into(),
            artefacts: Some(store.into()),
            cpus: vec![0],
            slots: 1,
            jailer: None,
            files_allowed: Allowed::default(),
            unused_bytes: 0,
            drain: Duration::ZERO,
        }
    }

    /// Serves one body to each GET.
    fn serve_http(body: &'static [u8]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, mut head) = (stream.unwrap(), [0; 4096]);
                let read = stream.read(&mut head).unwrap();
                let found = head[..read].starts_with(b"GET /v1/artefacts/");
                let status = if found { "200 OK" } else { "404 Not Found" };
                let answer = format!(
                    "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                    body.len()
                );
                stream.write_all(answer.as_bytes()).unwrap();
                stream.write_all(body).unwrap();
            }
        });
        base
    }

    #[test]
    fn a_host_makes_functions_ready_or_says_why_not() {
        let store = tempfile::tempdir().unwrap();
        let node = TcpListener::bind("127.0.0.1:0").unwrap();
        let plan = plan(&node, store.path());
        let (good, bad) = (artefact::sha256(b"good"), artefact::sha256(b"bad"));
        std::fs::write(store.path().join(format!("{bad}.wasm")), b"bad").unwrap();
        std::fs::write(store.path().join("0000.wasm"), b"changed").unwrap();
        start_with(&plan, Tidiness::new(0), Fake).unwrap();

        let mut host = greeted(&node, &serve_http(b"good"));
        for (name, artefact, reason) in [
            ("in-the-cache", "cached".to_owned(), ""),
            ("over-http", good, ""),
            ("refused", bad, "not wasm"),
            ("changed", "0000".to_owned(), "the artefact's SHA-256 is"),
        ] {
            publish(&mut host, name, artefact);
            let answer = answered(&mut host, name);
            assert!(
                if reason.is_empty() { answer.is_empty() } else { answer.contains(reason) },
                "{name}: {answer}"
            );
        }
        drop(host);
        let mut host = greeted(&node, "http://127.0.0.1:1");
        publish(&mut host, "unreachable", "absent".into());
        let answer = answered(&mut host, "unreachable");
        assert!(answer.contains("failed 4 times") && answer.contains("admin API"), "{answer}");
    }

    /// Not running any more at its end: it goes on connecting, to a port that is closed.
    #[test]
    fn what_is_not_published_any_more_goes_also_after_a_restart() {
        let store = tempfile::tempdir().unwrap();
        let cache = tempfile::tempdir().unwrap();
        // Two modules that differ in a section of no meaning.
        let modules = [1, 2].map(|name| [b"\0asm\x01\0\0\0\0\x02\x01".as_slice(), &[name]].concat());
        let [first, second] = modules.each_ref().map(|module| artefact::sha256(module));
        for (sha256, module) in [(&first, &modules[0]), (&second, &modules[1])] {
            std::fs::write(store.path().join(format!("{sha256}.wasm")), module).unwrap();
        }
        let is_there = |sha256: &str| cache.path().join(format!("{sha256}.wasm")).exists();
        let goes = |sha256: &str| {
            let begun = Instant::now();
            while is_there(sha256) {
                assert!(begun.elapsed() < Duration::from_secs(120), "{sha256} stays");
                std::thread::sleep(Duration::from_millis(10));
            }
        };
        // A host with a node that publishes the second version after the first one, and `keeps` its slack.
        let run = |slack: Duration, publishes: &[&String]| {
            let node = TcpListener::bind("127.0.0.1:0").unwrap();
            let plan = Plan { cache: cache.path().into(), ..plan(&node, store.path()) };
            let short = Duration::from_millis(200);
            let tidiness = Tidiness { settle: short, look: short, slack, unused_bytes: 0 };
            let artefacts =
                Artefacts { cache: plan.cache.clone(), has_jailer: false, files_allowed: Allowed::default() };
            start_with(&plan, tidiness, artefacts).unwrap();
            let mut host = greeted(&node, "http://127.0.0.1:1");
            for artefact in publishes {
                publish(&mut host, "f", (*artefact).clone());
                assert_eq!(answered(&mut host, "f"), "");
            }
            host
        };
        let host = run(Duration::from_secs(3600), &[&first, &second]);
        std::thread::sleep(Duration::from_secs(1));
        assert!(is_there(&first) && is_there(&second), "calls of the first may still run");
        drop(host);
        // After a restart none does.
        let host = run(Duration::ZERO, &[&second]);
        goes(&first);
        std::thread::sleep(Duration::from_secs(1));
        assert!(is_there(&second), "it is published");
        drop(host);
    }

    #[test]
    fn without_a_jailer_no_process_function_is_ready_and_wasm_goes_on() {
        let store = tempfile::tempdir().unwrap();
        let node = TcpListener::bind("127.0.0.1:0").unwrap();
        let wasm = *b"\0asm\x01\0\0\0";
        std::fs::write(store.path().join(format!("{}.wasm", artefact::sha256(&wasm))), wasm).unwrap();
        super::start(&plan(&node, store.path())).unwrap();

        let mut host = greeted(&node, "http://127.0.0.1:1");
        let spec = FunctionSpec {
            name: "process".into(),
            version: 3,
            runtime: RuntimeKind::Process,
            ..FunctionSpec::default()
        };
        let header = Header { function: spec.id(), ..Header::new(Kind::Publish) };
        send(&mut host, header, &serde_json::to_vec(&spec).unwrap());
        let answer = answered(&mut host, "process");
        assert!(answer.starts_with("this host runs no process functions"), "{answer}");
        publish(&mut host, "wasm", artefact::sha256(&wasm));
        assert_eq!(answered(&mut host, "wasm"), "");
    }

    #[test]
    fn a_bundle_is_unpacked_checked_and_found_again() {
        let directory = tempfile::tempdir().unwrap();
        let artefacts =
            Artefacts { cache: directory.path().into(), has_jailer: true, files_allowed: Allowed::default() };
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o755);
        header.set_size(2);
        let mut builder = tar::Builder::new(Vec::new());
        builder.append_data(&mut header, "run", &b"hi"[..]).unwrap();
        let tar = builder.into_inner().unwrap();
        let spec = |command: &str| {
            let mut spec = FunctionSpec { runtime: RuntimeKind::Process, ..FunctionSpec::default() };
            spec.artefact = artefact::sha256(&tar);
            spec.process.command = vec![command.into()];
            spec
        };
        assert_eq!(artefacts.ensure(&spec("./run")), Ok(false));
        artefacts.prepare(&spec("./run"), &tar).unwrap();
        assert_eq!(artefacts.ensure(&spec("./run")), Ok(true));
        let file = bundle::directory(directory.path(), &spec("").artefact).join("run");
        assert_eq!(std::fs::read(&file).unwrap(), b"hi");
        // Another function has the same files and another command.
        for answer in [artefacts.ensure(&spec("./go")).map(|_| ()), artefacts.prepare(&spec("./go"), &tar)] {
            let reason = answer.unwrap_err();
            assert!(reason.starts_with("the bundle has no program") && reason.contains("`go`"), "{reason}");
        }
        assert!(artefacts.prepare(&spec("./run"), b"no tar").unwrap_err().contains("not a sound tar"));
    }
}
