//! beanstalkd with `-f 0` (a sync for each write to its log): pipelined put, reserve and delete.

use super::{BATCH, Rate, Server, patiently, process_cpu};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

/// Runs one producer and one consumer for `span`, with payloads of `bytes`.
pub fn run(bytes: usize, span: Duration) -> io::Result<Rate> {
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let server = Server::start("beanstalkd", "beanstalkd", |folder| {
        let mut command = Command::new("beanstalkd");
        command.args(["-l", "127.0.0.1", "-p", &port.to_string(), "-f", "0", "-b"]).arg(folder);
        Ok(command)
    })?;
    let connect = || patiently(|| TcpStream::connect(("127.0.0.1", port)));
    let (producer, consumer) = (connect()?, connect()?);
    let (server_before, own_before) = (server.cpu(), process_cpu(std::process::id()));
    let begun = Instant::now();
    let put = std::thread::spawn(move || produce(producer, bytes, begun + span));
    let deleted = consume(consumer, begun + span)?;
    put.join().expect("the producer does not panic")?;
    let took = begun.elapsed().as_secs_f64();
    let cpu = (server.cpu() - server_before) + (process_cpu(std::process::id()) - own_before);
    Ok(Rate { jobs_per_s: deleted as f64 / took, cpu_us: cpu.as_secs_f64() * 1e6 / deleted.max(1) as f64 })
}

fn produce(mut to: TcpStream, bytes: usize, until: Instant) -> io::Result<()> {
    to.set_nodelay(true)?;
    let mut replies = BufReader::new(to.try_clone()?);
    let batch = format!("put 0 0 60 {bytes}\r\n{}\r\n", "x".repeat(bytes)).repeat(BATCH);
    let mut line = String::new();
    while Instant::now() < until {
        to.write_all(batch.as_bytes())?;
        for _ in 0..BATCH {
            line.clear();
            replies.read_line(&mut line)?;
            if !line.starts_with("INSERTED") {
                return Err(io::Error::other(format!("put: {line}")));
            }
        }
    }
    Ok(())
}

fn consume(mut from: TcpStream, until: Instant) -> io::Result<usize> {
    from.set_nodelay(true)?;
    let mut replies = BufReader::new(from.try_clone()?);
    let (reserves, mut deleted) = ("reserve-with-timeout 1\r\n".repeat(BATCH), 0);
    let (mut line, mut body) = (String::new(), Vec::new());
    while Instant::now() < until {
        from.write_all(reserves.as_bytes())?;
        let mut deletes = String::new();
        let mut held = 0;
        for _ in 0..BATCH {
            line.clear();
            replies.read_line(&mut line)?;
            let words: Vec<&str> = line.split_whitespace().collect();
            if let ["RESERVED", id, bytes] = words[..] {
                body.resize(bytes.parse::<usize>().map_err(io::Error::other)? + 2, 0);
                replies.read_exact(&mut body)?;
                deletes.push_str(&format!("delete {id}\r\n"));
                held += 1;
            }
        }
        from.write_all(deletes.as_bytes())?;
        for _ in 0..held {
            line.clear();
            replies.read_line(&mut line)?;
        }
        deleted += held;
    }
    Ok(deleted)
}
