//! Redis streams with `appendfsync always`: pipelined XADD, XREADGROUP and XACK in batches of 64.
//!
//! The client writes the protocol by hand, since a general client would cost more CPU than the server.

use super::{BATCH, Rate, Server, patiently, process_cpu};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::{Duration, Instant};

/// Runs `pairs` of one producer and one consumer for `span`, with payloads of `bytes`.
pub fn run(pairs: usize, bytes: usize, span: Duration) -> io::Result<Rate> {
    let server = Server::start("redis", "redis-server", |folder| {
        let mut command = Command::new("redis-server");
        let socket = folder.join("redis.sock");
        command.args(["--port", "0", "--save", "", "--appendonly", "yes", "--appendfsync", "always"]);
        command.arg("--unixsocket").arg(socket);
        Ok(command)
    })?;
    let socket = server.folder.join("redis.sock");
    let connect = || patiently(|| UnixStream::connect(&socket)).map(Connection::new);
    let (server_before, own_before) = (server.cpu(), process_cpu(std::process::id()));
    let begun = Instant::now();
    let mut sides = Vec::new();
    for pair in 0..pairs {
        let (producer, mut consumer) = (connect()?, connect()?);
        consumer.command(&["XGROUP", "CREATE", &format!("s{pair}"), "g", "0", "MKSTREAM"])?;
        consumer.reply()?;
        sides.push(std::thread::spawn(move || produce(producer, pair, bytes, begun + span)));
        sides.push(std::thread::spawn(move || consume(consumer, pair, begun + span)));
    }
    let mut acknowledged = 0;
    for (n, side) in sides.into_iter().enumerate() {
        let count = side.join().expect("a client thread does not panic")?;
        acknowledged += if n % 2 == 1 { count } else { 0 };
    }
    let took = begun.elapsed().as_secs_f64();
    let cpu = (server.cpu() - server_before) + (process_cpu(std::process::id()) - own_before);
    Ok(Rate {
        jobs_per_s: acknowledged as f64 / took,
        cpu_us: cpu.as_secs_f64() * 1e6 / acknowledged.max(1) as f64,
    })
}

fn produce(mut to: Connection, pair: usize, bytes: usize, until: Instant) -> io::Result<usize> {
    let (stream, payload) = (format!("s{pair}"), "x".repeat(bytes));
    let mut sent = 0;
    // Two batches in the pipe: one travels while the server syncs the other.
    let mut in_pipe = 0;
    while Instant::now() < until {
        for _ in 0..BATCH {
            to.command(&["XADD", &stream, "MAXLEN", "~", "100000", "*", "d", &payload])?;
        }
        to.flush()?;
        in_pipe += 1;
        if in_pipe == 2 {
            for _ in 0..BATCH {
                to.reply()?;
            }
            in_pipe -= 1;
        }
        sent += BATCH;
    }
    for _ in 0..in_pipe * BATCH {
        to.reply()?;
    }
    Ok(sent)
}

fn consume(mut from: Connection, pair: usize, until: Instant) -> io::Result<usize> {
    let stream = format!("s{pair}");
    let count = BATCH.to_string();
    let mut acknowledged = 0;
    while Instant::now() < until {
        from.command(&[
            "XREADGROUP",
            "GROUP",
            "g",
            "c",
            "COUNT",
            &count,
            "BLOCK",
            "50",
            "STREAMS",
            &stream,
            ">",
        ])?;
        from.flush()?;
        let mut ids = Vec::with_capacity(BATCH);
        from.reply_ids(&mut ids)?;
        if ids.is_empty() {
            continue;
        }
        let mut words = vec!["XACK", &stream, "g"];
        words.extend(ids.iter().map(String::as_str));
        from.command(&words)?;
        from.flush()?;
        from.reply()?;
        acknowledged += ids.len();
    }
    Ok(acknowledged)
}

struct Connection {
    read: BufReader<UnixStream>,
    write: UnixStream,
    out: Vec<u8>,
    line: Vec<u8>,
}

impl Connection {
    fn new(stream: UnixStream) -> Connection {
        let write = stream.try_clone().expect("a socket can be duplicated");
        Connection {
            read: BufReader::with_capacity(1 << 16, stream),
            write,
            out: Vec::new(),
            line: Vec::new(),
        }
    }

    fn command(&mut self, words: &[&str]) -> io::Result<()> {
        write!(self.out, "*{}\r\n", words.len())?;
        for word in words {
            write!(self.out, "${}\r\n", word.len())?;
            self.out.extend_from_slice(word.as_bytes());
            self.out.extend_from_slice(b"\r\n");
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.write.write_all(&self.out)?;
        self.out.clear();
        Ok(())
    }

    fn reply(&mut self) -> io::Result<()> {
        self.flush()?;
        self.value(&mut |_| {})
    }

    /// The ids in a reply of XREADGROUP: the strings that look like `1700000000000-0`.
    fn reply_ids(&mut self, ids: &mut Vec<String>) -> io::Result<()> {
        self.value(&mut |text| {
            let is_id =
                text.len() < 32 && text.first().is_some_and(u8::is_ascii_digit) && text.contains(&b'-');
            if is_id {
                ids.push(String::from_utf8_lossy(text).into_owned());
            }
        })
    }

    fn value(&mut self, seen: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        self.line.clear();
        self.read.read_until(b'\n', &mut self.line)?;
        let text = String::from_utf8_lossy(&self.line[1.min(self.line.len())..]).trim().to_string();
        let number = || text.parse::<i64>().map_err(|_| io::Error::other(format!("reply `{text}`")));
        match self.line.first() {
            Some(b'+' | b':') => Ok(()),
            Some(b'$') => {
                let bytes = number()?;
                if bytes >= 0 {
                    let mut body = vec![0; bytes as usize + 2];
                    self.read.read_exact(&mut body)?;
                    seen(&body[..bytes as usize]);
                }
                Ok(())
            }
            Some(b'*') => (0..number()?.max(0)).try_for_each(|_| self.value(seen)),
            Some(b'-') => Err(io::Error::other(text)),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}
