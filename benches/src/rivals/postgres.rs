//! PostgreSQL with `synchronous_commit=on`: inserts of 64 rows a statement, claims of 64 by `FOR UPDATE SKIP LOCKED`, and
//! a `DELETE` of them as their ACK, in the transaction that claimed them. Two commits for 64 jobs; a table of claims
//! would make it three.
//!
//! The client writes the protocol by hand, prepared statements and pipelined inserts: `libpq` would cost more CPU.

use super::{BATCH, Rate, Server, patiently, process_cpu};
use nix::unistd::{Uid, User, geteuid};
use std::io::{self, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Where Debian keeps its versions.
const VERSIONS: &str = "/usr/lib/postgresql";
/// Its name for the socket of the default port.
const SOCKET: &str = ".s.PGSQL.5432";
/// Protocol 3.0.
const PROTOCOL: u32 = 3 << 16;
/// Batches of inserts in the pipe: one travels while the server commits the other.
const IN_PIPE: usize = 2;

/// Runs `pairs` of one producer and one consumer for `span`, with payloads of `bytes`.
pub fn run(pairs: usize, bytes: usize, span: Duration) -> io::Result<Rate> {
    let server = Server::start("postgres", "postgresql", |folder| command(folder))?;
    let socket = server.folder.join(SOCKET);
    let connect = || patiently(|| Connection::open(&socket));
    let mut first = connect()?;
    // A payload that compresses well stays as long as it is.
    first.simple(
        "CREATE TABLE jobs (id bigserial PRIMARY KEY, payload text NOT NULL); \
         ALTER TABLE jobs ALTER payload SET STORAGE PLAIN",
    )?;
    let mut sides = Vec::new();
    let (server_before, own_before) = (server.cpu(), process_cpu(std::process::id()));
    let begun = Instant::now();
    for _ in 0..pairs {
        let (producer, consumer) = (connect()?, connect()?);
        sides.push(std::thread::spawn(move || produce(producer, bytes, begun + span)));
        sides.push(std::thread::spawn(move || consume(consumer, begun + span)));
    }
    // Its processes end with their connections, and their time with them.
    let rest = (begun + span).saturating_duration_since(Instant::now() + span / 50);
    std::thread::sleep(rest);
    let (server_cpu, own_cpu, seen) =
        (server.cpu() - server_before, process_cpu(std::process::id()) - own_before, begun.elapsed());
    let mut acknowledged = 0;
    for (n, side) in sides.into_iter().enumerate() {
        let count = side.join().expect("a client thread does not panic")?;
        acknowledged += if n % 2 == 1 { count } else { 0 };
    }
    let jobs_per_s = acknowledged as f64 / begun.elapsed().as_secs_f64();
    let jobs_seen = (jobs_per_s * seen.as_secs_f64()).max(1.0);
    Ok(Rate { jobs_per_s, cpu_us: (server_cpu + own_cpu).as_secs_f64() * 1e6 / jobs_seen })
}

/// Makes a cluster in the folder; the command that serves it. Its programs refuse to run as root.
fn command(folder: &Path) -> io::Result<Command> {
    let programs = programs()?;
    let who = match geteuid().is_root() {
        true => {
            User::from_name("postgres")?
                .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "there is no user `postgres`"))?
                .uid
        }
        false => geteuid(),
    };
    std::os::unix::fs::chown(folder, Some(who.as_raw()), None)?;
    let data = folder.join("data");
    let mut initdb = as_user(&programs.join("initdb"), who);
    initdb.arg("-D").arg(&data).args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "-N"]);
    let made = initdb.current_dir(folder).stdout(Stdio::null()).output()?;
    if !made.status.success() {
        return Err(io::Error::other(format!("initdb: {}", String::from_utf8_lossy(&made.stderr))));
    }
    let mut command = as_user(&programs.join("postgres"), who);
    command.arg("-D").arg(&data).arg("-k").arg(folder);
    let settings = [
        "listen_addresses=",
        "fsync=on",
        "synchronous_commit=on",
        "shared_buffers=256MB",
        "max_wal_size=4GB",
    ];
    command.args(settings.into_iter().flat_map(|setting| ["-c", setting]));
    Ok(command)
}

fn as_user(program: &Path, who: Uid) -> Command {
    let mut command = Command::new(program);
    if who != geteuid() {
        command.uid(who.as_raw());
    }
    command
}

/// Where the newest version's programs are.
fn programs() -> io::Result<PathBuf> {
    let versions = std::fs::read_dir(VERSIONS)?.flatten().filter_map(|entry| {
        let version: u32 = entry.file_name().to_str()?.parse().ok()?;
        Some((version, entry.path().join("bin")))
    });
    let newest = versions.filter(|(_, programs)| programs.join("initdb").is_file()).max();
    newest.map(|(_, programs)| programs).ok_or_else(|| io::ErrorKind::NotFound.into())
}

fn produce(mut to: Connection, bytes: usize, until: Instant) -> io::Result<usize> {
    let places: Vec<String> = (1..=BATCH).map(|n| format!("(${n})")).collect();
    to.prepare("insert", &format!("INSERT INTO jobs (payload) VALUES {}", places.join(",")))?;
    let payload = "x".repeat(bytes);
    let (mut sent, mut in_pipe) = (0, 0);
    while Instant::now() < until {
        to.execute("insert", &[payload.as_str(); BATCH]);
        to.sync()?;
        (sent, in_pipe) = (sent + BATCH, in_pipe + 1);
        if in_pipe == IN_PIPE {
            to.ready(&mut |_| ())?;
            in_pipe -= 1;
        }
    }
    (0..in_pipe).try_for_each(|_| to.ready(&mut |_| ()))?;
    Ok(sent)
}

fn consume(mut from: Connection, until: Instant) -> io::Result<usize> {
    from.prepare("begin", "BEGIN")?;
    from.prepare(
        "claim",
        &format!("SELECT id, payload FROM jobs ORDER BY id LIMIT {BATCH} FOR UPDATE SKIP LOCKED"),
    )?;
    from.prepare("end", "DELETE FROM jobs WHERE id = ANY ($1::bigint[])")?;
    from.prepare("commit", "COMMIT")?;
    let mut acknowledged = 0;
    while Instant::now() < until {
        from.execute("begin", &[]);
        from.execute("claim", &[]);
        from.sync()?;
        let (mut ids, mut count) = (String::from("{"), 0);
        from.ready(&mut |id| {
            ids.push_str(if count == 0 { "" } else { "," });
            ids.push_str(id);
            count += 1;
        })?;
        ids.push('}');
        from.execute("end", &[&ids]);
        from.execute("commit", &[]);
        from.sync()?;
        from.ready(&mut |_| ())?;
        acknowledged += count;
        if count == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    Ok(acknowledged)
}

/// A connection of the frontend/backend protocol 3.0.
struct Connection {
    read: BufReader<UnixStream>,
    write: UnixStream,
    out: Vec<u8>,
    body: Vec<u8>,
}

impl Connection {
    fn open(socket: &Path) -> io::Result<Connection> {
        let stream = UnixStream::connect(socket)?;
        let write = stream.try_clone()?;
        let read = BufReader::with_capacity(1 << 16, stream);
        let mut connection = Connection { read, write, out: Vec::new(), body: Vec::new() };
        let words = b"user\0postgres\0database\0postgres\0\0";
        connection.out.extend(((words.len() + 8) as u32).to_be_bytes());
        connection.out.extend(PROTOCOL.to_be_bytes());
        connection.out.extend(words);
        connection.flush()?;
        connection.ready(&mut |_| ())?;
        Ok(connection)
    }

    /// A message of this kind.
    fn message(&mut self, kind: u8, body: impl FnOnce(&mut Vec<u8>)) {
        self.out.push(kind);
        let at = self.out.len();
        self.out.extend([0; 4]);
        body(&mut self.out);
        let bytes = (self.out.len() - at) as u32;
        self.out[at..at + 4].copy_from_slice(&bytes.to_be_bytes());
    }

    fn simple(&mut self, sql: &str) -> io::Result<()> {
        self.message(b'Q', |out| out.extend(sql.bytes().chain([0])));
        self.flush()?;
        self.ready(&mut |_| ())
    }

    fn prepare(&mut self, name: &str, sql: &str) -> io::Result<()> {
        self.message(b'P', |out| {
            out.extend(name.bytes().chain([0]));
            out.extend(sql.bytes().chain([0]));
            out.extend(0u16.to_be_bytes());
        });
        self.sync()?;
        self.ready(&mut |_| ())
    }

    /// Binds these texts and executes; goes with the next sync.
    fn execute(&mut self, name: &str, values: &[&str]) {
        self.message(b'B', |out| {
            out.push(0);
            out.extend(name.bytes().chain([0]));
            out.extend(0u16.to_be_bytes());
            out.extend((values.len() as u16).to_be_bytes());
            for value in values {
                out.extend((value.len() as u32).to_be_bytes());
                out.extend(value.bytes());
            }
            out.extend(0u16.to_be_bytes());
        });
        self.message(b'E', |out| out.extend([0; 5]));
    }

    fn sync(&mut self) -> io::Result<()> {
        self.message(b'S', |_| ());
        self.flush()
    }

    fn flush(&mut self) -> io::Result<()> {
        self.write.write_all(&self.out)?;
        self.out.clear();
        Ok(())
    }

    /// Reads until the server is ready; `row` gets the first column of each row.
    fn ready(&mut self, row: &mut dyn FnMut(&str)) -> io::Result<()> {
        loop {
            let mut head = [0; 5];
            self.read.read_exact(&mut head)?;
            let bytes = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
            self.body.resize(bytes.saturating_sub(4), 0);
            self.read.read_exact(&mut self.body)?;
            match head[0] {
                b'Z' => return Ok(()),
                b'E' => return Err(io::Error::other(String::from_utf8_lossy(&self.body).replace('\0', " "))),
                b'D' => {
                    let long = |at: usize| self.body.get(at..at + 4).and_then(|b| b.try_into().ok());
                    let bytes = long(2).map_or(0, u32::from_be_bytes) as usize;
                    let value = self.body.get(6..6 + bytes).and_then(|b| std::str::from_utf8(b).ok());
                    row(value.ok_or_else(|| io::Error::other("a row that is none"))?);
                }
                _ => {}
            }
        }
    }
}
