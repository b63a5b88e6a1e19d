//! The real node on a log in which many calls wait: killed, and started again. What a user waits for after a crash.

use crate::{Figure, Report};
use call::admin::NodeStatus;
use call::body::{Arguments, Submit, append_submit, verdicts};
use call::frame::{FrameBuf, Header, append, frame_bytes};
use call::{CallId, Frame, FunctionId, FunctionSpec, Kind, VerdictCode, WallTime};
use serde::Deserialize;
use serde_json::json;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long a start may take.
const PATIENCE: Duration = Duration::from_secs(300);
/// Between two tries to connect: what that adds to the figure.
const PAUSE: Duration = Duration::from_millis(1);

/// A data directory below `folder`, with these functions; and where the segments of its log belong.
///
/// # Errors
/// It cannot be made.
pub fn data_directory(folder: &Path, functions: usize, namespace: &str) -> io::Result<PathBuf> {
    let log = folder.join("log");
    std::fs::create_dir_all(&log)?;
    let spec = |n: usize| {
        let (namespace, name) = (namespace.to_owned(), n.to_string());
        let spec = FunctionSpec { namespace, name, version: 1, ..FunctionSpec::default() };
        (format!("{}/{}", spec.namespace, spec.name), spec)
    };
    let functions: BTreeMap<String, FunctionSpec> = (0..functions).map(spec).collect();
    let catalog = json!({ "functions": functions, "deleted": {} });
    std::fs::write(folder.join("catalog.json"), serde_json::to_vec(&catalog)?)?;
    std::fs::write(folder.join("VERSION"), format!("{}\n", control::datadir::VERSION))?;
    Ok(log)
}

/// Starts the node `binary` on a data directory with so many waiting calls, kills it, and measures its next start: from
/// its exec to the verdict of its first submit, and until it says that all of the calls are pending.
///
/// # Errors
/// It does not serve, or calls are missing.
pub fn measure(
    binary: &Path,
    data: &Path,
    function: FunctionId,
    (calls, calls_max): (usize, usize),
    report: &mut Report,
) -> io::Result<()> {
    let mut node = Node::start(binary, data, calls_max)?;
    node.submit(function)?;
    node.child.kill()?;
    node.child.wait()?;
    let mut node = Node::start(binary, data, calls_max)?;
    node.submit(function)?;
    let served = node.begun.elapsed().as_secs_f64();
    let pending = loop {
        let pending = node.status()?.pending;
        if pending >= calls as u64 || node.begun.elapsed() > PATIENCE {
            break pending;
        }
        std::thread::sleep(PAUSE);
    };
    let counted = node.begun.elapsed().as_secs_f64();
    // One submit for each start was acknowledged.
    if pending != calls as u64 + 2 {
        return Err(io::Error::other(format!("{pending} calls are pending after a kill, not {calls} and 2")));
    }
    report.add(Figure::new("waiting-recovery-of-the-node", served, "s").bar(15.0, 5.0));
    report.add(Figure::new("waiting-recovery-of-the-node-until-counted", counted, "s"));
    Ok(())
}

/// What `run/control.json` says.
#[derive(Deserialize)]
struct Endpoints {
    admin: String,
}

/// A control node; killed when dropped.
struct Node {
    child: Child,
    begun: Instant,
    data: PathBuf,
}

impl Node {
    fn start(binary: &Path, data: &Path, calls_max: usize) -> io::Result<Node> {
        for stale in ["run/control.json", "run/submit.sock"] {
            let _ = std::fs::remove_file(data.join(stale));
        }
        let output = File::create(data.join("output"))?;
        let mut command = Command::new(binary);
        command.args(["control", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
        command.args(["--calls-max", &calls_max.to_string()]).arg("--data-dir").arg(data);
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let begun = Instant::now();
        let child =
            command.spawn().map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", binary.display())))?;
        Ok(Node { child, begun, data: data.to_owned() })
    }

    /// Submits a call as soon as the node listens, and waits until it is accepted.
    fn submit(&mut self, function: FunctionId) -> io::Result<()> {
        let mut socket = loop {
            match UnixStream::connect(self.data.join("run/submit.sock")) {
                Ok(socket) => break socket,
                Err(_) if self.child.try_wait()?.is_none() && self.begun.elapsed() < PATIENCE => {
                    std::thread::sleep(PAUSE);
                }
                Err(error) => {
                    let output = std::fs::read_to_string(self.data.join("output"))?;
                    return Err(io::Error::new(error.kind(), format!("the node does not serve:\n{output}")));
                }
            }
        };
        socket.set_read_timeout(Some(PATIENCE))?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
        let submit = Submit {
            call: CallId::new(now.as_millis() as u64, u128::from(now.subsec_nanos()) << 40),
            function,
            start_at: WallTime(now.as_nanos() as u64 + 3_600_000_000_000),
            arguments: Arguments { payload: b"the first", attributes: &[] },
            ..Submit::default()
        };
        let mut out = FrameBuf::new();
        append(&mut out, &Header::new(Kind::Hello), br#"{"role":"client","name":"bench"}"#);
        append_submit(&mut out, &submit).expect("small");
        socket.write_all(&out)?;
        let judged = loop {
            let read = read_frame(&mut socket)?;
            let (frame, _) = Frame::parse(&read).map_err(io::Error::other)?;
            if frame.kind() == Kind::Verdicts {
                let told = verdicts(frame.body()).map_err(io::Error::other)?;
                let code = told.iter().find(|verdict| verdict.call() == submit.call).map(|v| v.code());
                break code.expect("it is about our submit").map_err(io::Error::other)?;
            }
        };
        if judged == VerdictCode::Accepted {
            return Ok(());
        }
        Err(io::Error::other(format!("the first submit is judged {judged:?}")))
    }

    fn status(&self) -> io::Result<NodeStatus> {
        let endpoints: Endpoints =
            serde_json::from_slice(&std::fs::read(self.data.join("run/control.json"))?)?;
        let mut socket = TcpStream::connect(endpoints.admin.trim_start_matches("http://"))?;
        socket.write_all(b"GET /v1/status HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        socket.read_to_string(&mut text)?;
        let (_, body) = text.split_once("\r\n\r\n").ok_or_else(|| io::Error::other(text.clone()))?;
        Ok(serde_json::from_str(body)?)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read_frame(socket: &mut UnixStream) -> io::Result<FrameBuf> {
    let mut frame = FrameBuf::new();
    frame.resize(call::limits::HEADER_BYTES, 0);
    socket.read_exact(&mut frame)?;
    let whole = frame_bytes(&frame).map_err(io::Error::other)?.expect("a whole header");
    frame.resize(whole, 0);
    socket.read_exact(&mut frame[call::limits::HEADER_BYTES..])?;
    Ok(frame)
}
