//! `awslambdaric`, Amazon's Runtime API client for Python, on a core beside the same on a server that does nothing else.

use super::calls::saturate_with;
use super::{Bench, Outcome, PAYLOAD, median};
use crate::Figure;
use crate::leases::Leased;
use crate::sandboxed::{self, BLANKS, anywhere, quietly};
use call::function::Base;
use driver::topology;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// The client, pinned.
const CLIENT: &str = "awslambdaric==4.2.2";
/// The host's own interpreter, which sandboxes see.
const PYTHON: &str = "/usr/bin/python3";
/// The function.
const APP: &str = "def handler(event, context):\n    return event\n";
/// Rounds of ours beside the bare server.
const ROUNDS: usize = 5;
/// Calls in flight: one always waits.
const IN_FLIGHT: u64 = 4;

impl Bench {
    /// Calls per second of one warm sandbox. Why it could not be measured, if so.
    pub(super) fn python(&mut self) -> Outcome<Option<String>> {
        let client = match installed() {
            Ok(client) => client,
            Err(error) => {
                println!("   SKIPPED: {error}");
                return Ok(Some(error.to_string()));
            }
        };
        let (mut ours, mut bare, mut ratios, mut core_us) = (vec![], vec![], vec![], vec![]);
        let time = self.time / 2;
        for _ in 0..if self.smoke { 1 } else { ROUNDS } {
            let stage = self.stage(BLANKS, &[])?;
            let bundle = stage.bundle("python")?;
            copy(&client, &bundle)?;
            std::fs::write(bundle.join("app.py"), APP)?;
            let mut spec = sandboxed::spec("python", &[PYTHON, "-m", "awslambdaric", "app.handler"], 1);
            spec.process.base = Base::Host;
            let (core, mut leases) = stage.core(self.core_cpu, vec![Leased::carrying(spec, &payload())])?;
            sandboxed::warm(&mut leases, 0, 1)?;
            let rate = saturate_with(&core, &mut leases, time, IN_FLIGHT)?;
            drop(core);
            let rival = self.bare_server(&bundle, time)?;
            ours.push(rate.per_s);
            core_us.push(rate.core_us);
            bare.push(rival);
            ratios.push(rate.per_s / rival);
        }
        println!("  calls/s: ours {ours:.0?}, bare server {bare:.0?}");
        let ratio = Figure::new("process-python", median(&ratios), "x").bar(0.9, 1.0);
        self.report.add(ratio.rival("bare server calls/s", median(&bare)));
        self.report.add(Figure::new("process-python-rate", median(&ours), "calls/s"));
        self.report.add(Figure::new("process-python-core-cpu-per-call", median(&core_us), "us"));
        Ok(None)
    }

    /// The same client as a plain process, served by a thread on the core's CPU.
    fn bare_server(&self, bundle: &Path, time: Duration) -> Outcome<f64> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let at = listener.local_addr()?;
        let answered = Arc::new(AtomicU64::new(0));
        let (cpu, counter) = (self.core_cpu as usize, answered.clone());
        std::thread::spawn(move || serve(&listener, cpu, &counter));
        let mut command = Command::new(PYTHON);
        command.args(["-m", "awslambdaric", "app.handler"]).current_dir(bundle).env_clear();
        command.env("AWS_LAMBDA_RUNTIME_API", at.to_string()).env("_HANDLER", "app.handler");
        command.env("AWS_LAMBDA_FUNCTION_NAME", "python").env("AWS_LAMBDA_FUNCTION_VERSION", "1");
        command.env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "64").env("PATH", "/usr/bin:/bin");
        let mut child = anywhere(quietly(&mut command)).spawn()?;
        let begun = Instant::now();
        while answered.load(Relaxed) == 0 {
            if begun.elapsed() > Duration::from_secs(20) {
                child.kill()?;
                return Err("the plain client does not ask for calls".into());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        std::thread::sleep(time / 2);
        let (before, begun) = (answered.load(Relaxed), Instant::now());
        std::thread::sleep(time);
        let rate = (answered.load(Relaxed) - before) as f64 / begun.elapsed().as_secs_f64();
        child.kill()?;
        child.wait()?;
        Ok(rate)
    }
}

/// JSON, as the client demands.
fn payload() -> Vec<u8> {
    let mut json = b"{\"text\":\"".to_vec();
    json.resize(PAYLOAD - 2, b'x');
    json.extend_from_slice(b"\"}");
    json
}

/// Where the client is installed; it is, if it was not.
fn installed() -> io::Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("benches/ is in the project");
    let folder = root.join("target/tmp").join(CLIENT.replace("==", "-")).join("client");
    if folder.join("awslambdaric/__main__.py").exists() {
        return Ok(folder);
    }
    let version =
        Command::new(PYTHON).args(["-c", "import sys; print('%d.%d' % sys.version_info[:2])"]).output()?;
    let version = String::from_utf8_lossy(&version.stdout).trim().to_owned();
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--no-compile", "--only-binary=:all:", "--python-version"]);
    let ran = pip.arg(version).arg("--target").arg(&folder).arg(CLIENT).output()?;
    if !ran.status.success() {
        let _ = std::fs::remove_dir_all(&folder);
        let why = String::from_utf8_lossy(&ran.stderr).into_owned();
        return Err(io::Error::other(format!("{CLIENT} cannot be installed: {why}")));
    }
    Ok(folder)
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let ran = Command::new("cp").arg("-rT").arg(from).arg(to).status()?;
    if ran.success() { Ok(()) } else { Err(io::Error::other(format!("cp: {ran}"))) }
}

/// Serves each connection on a thread of its own.
fn serve(listener: &TcpListener, cpu: usize, answered: &Arc<AtomicU64>) {
    for socket in listener.incoming().flatten() {
        let answered = answered.clone();
        std::thread::spawn(move || {
            topology::pin(cpu)?;
            converse(socket, &answered)
        });
    }
}

/// A call for each `next`, and a word of thanks for each answer.
fn converse(socket: TcpStream, answered: &AtomicU64) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let payload = payload();
    let mut call = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Lambda-Runtime-Aws-Request-Id: 018bcfe568000000000000000000000a\r\nLambda-Runtime-Deadline-Ms: 4000000000000\r\n\
         Lambda-Runtime-Invoked-Function-Arn: arn:aws:lambda:here:000000000000:function:python\r\n\r\n",
        payload.len()
    )
    .into_bytes();
    call.extend_from_slice(&payload);
    let accepted = b"HTTP/1.1 202 Accepted\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
    let (mut writer, mut reader) = (socket.try_clone()?, BufReader::new(socket));
    let (mut line, mut body) = (String::new(), Vec::new());
    loop {
        let (mut is_next, mut length) = (false, 0);
        loop {
            line.clear();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            is_next |= line.starts_with("GET ");
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().map_err(io::Error::other)?;
            }
            if line == "\r\n" {
                break;
            }
        }
        body.resize(length, 0);
        reader.read_exact(&mut body)?;
        if is_next {
            writer.write_all(&call)?;
        } else {
            writer.write_all(accepted)?;
            answered.fetch_add(1, Relaxed);
        }
    }
}
