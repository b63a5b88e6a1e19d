//! A function for the tests: a small blocking client of the Runtime API, or a command with `stdio`, which does what its
//! payload says.
//!
//! ```text
//! echo TEXT | log TEXT | sleep MS TEXT | big BYTES | chunked TEXT | half | silence | flood | trouble | next | steal ID | twice
//! error KIND TEXT | exit CODE | abort | head | env NAME | daemon
//! ```
//! `BEGIN` in the environment says how it begins: `error`, `exit`, `hang`, or after so many ms.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

fn main() {
    if std::env::args().nth(1).as_deref() == Some("stdio") {
        return stdio();
    }
    let mut connection = Connection::new();
    begin(&mut connection);
    let threads =
        std::env::var("AWS_LAMBDA_MAX_CONCURRENCY").map_or(1, |text| text.parse().expect("a number"));
    let workers: Vec<_> = (1..threads).map(|_| std::thread::spawn(|| Connection::new().serve())).collect();
    connection.serve();
    workers.into_iter().for_each(|worker| worker.join().expect("a worker"));
}

fn begin(connection: &mut Connection) {
    match std::env::var("BEGIN").as_deref() {
        Err(_) => {}
        Ok("error") => {
            let head = "Lambda-Runtime-Function-Error-Type: Runtime.NoModule\r\n";
            connection.post("init/error", head, b"{\"errorMessage\":\"no module\"}");
            std::process::exit(1);
        }
        Ok("exit") => {
            eprintln!("cannot begin");
            std::process::exit(7);
        }
        Ok("hang") => std::thread::sleep(Duration::from_secs(1000)),
        Ok(ms) => std::thread::sleep(Duration::from_millis(ms.parse().expect("a number"))),
    }
}

/// A connection to the Runtime API.
struct Connection(BufReader<TcpStream>);

/// A call: its id, the head of the answer, the payload.
struct Call {
    id: String,
    head: String,
    payload: Vec<u8>,
}

impl Connection {
    fn new() -> Connection {
        let api = std::env::var("AWS_LAMBDA_RUNTIME_API").expect("AWS_LAMBDA_RUNTIME_API is set");
        let stream = TcpStream::connect(api).expect("the Runtime API answers");
        stream.set_nodelay(true).expect("a TCP socket");
        Connection(BufReader::new(stream))
    }

    fn serve(&mut self) {
        loop {
            let call = self.next();
            self.run(&call);
        }
    }

    fn send(&mut self, bytes: &[u8]) {
        self.0.get_mut().write_all(bytes).expect("the server reads");
    }

    fn answer(&mut self) -> (u16, String, Vec<u8>) {
        let (mut head, mut length) = (String::new(), 0);
        loop {
            let before = head.len();
            if self.0.read_line(&mut head).expect("the server answers") == 0 {
                // The sandbox is being ended.
                std::process::exit(0);
            }
            let line = &head[before..];
            if let Some(value) = line.strip_prefix("Content-Length: ") {
                length = value.trim().parse().expect("a length");
            }
            if line == "\r\n" {
                break;
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).expect("the body");
        (head[9..12].parse().expect("a status"), head, body)
    }

    fn next(&mut self) -> Call {
        self.send(b"GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\nHost: api\r\n\r\n");
        let (status, head, payload) = self.answer();
        assert_eq!(status, 200, "{head}");
        let id = head.split("Aws-Request-Id: ").nth(1).expect("an id")[..32].to_owned();
        Call { id, head, payload }
    }

    fn post(&mut self, path: &str, headers: &str, body: &[u8]) -> u16 {
        let length = body.len();
        let head =
            format!("POST /2018-06-01/runtime/{path} HTTP/1.1\r\n{headers}Content-Length: {length}\r\n\r\n");
        self.send(&[head.as_bytes(), body].concat());
        self.answer().0
    }

    fn respond(&mut self, id: &str, body: &[u8]) -> u16 {
        self.post(&format!("invocation/{id}/response"), "", body)
    }

    fn run(&mut self, call: &Call) {
        let text = String::from_utf8_lossy(&call.payload).into_owned();
        let (word, rest) = text.split_once(' ').unwrap_or((&text, ""));
        let (first, last) = rest.split_once(' ').unwrap_or((rest, ""));
        let id = &call.id;
        let status = match word {
            "log" => {
                println!("{rest}");
                eprintln!("{rest}");
                self.respond(id, b"logged")
            }
            "sleep" => {
                std::thread::sleep(Duration::from_millis(first.parse().expect("a number")));
                self.respond(id, last.as_bytes())
            }
            "big" => self.respond(id, &vec![b'x'; rest.parse().expect("a number")]),
            "chunked" => {
                let head = format!("POST /2018-06-01/runtime/invocation/{id}/response HTTP/1.1\r\n");
                self.send((head + "Transfer-Encoding: chunked\r\n\r\n").as_bytes());
                for part in rest.as_bytes().chunks(3) {
                    self.send(&[format!("{:x}\r\n", part.len()).as_bytes(), part, b"\r\n"].concat());
                }
                self.send(b"0\r\n\r\n");
                self.answer().0
            }
            "half" | "flood" | "trouble" | "silence" | "next" => self.misbehave(word, id),
            "steal" => {
                let stolen = self.respond(rest, b"stolen");
                self.respond(id, stolen.to_string().as_bytes())
            }
            "twice" => {
                self.respond(id, b"first");
                assert_eq!(self.respond(id, b"second"), 400);
                202
            }
            "error" => {
                let kind = format!("Lambda-Runtime-Function-Error-Type: {first}\r\n");
                self.post(&format!("invocation/{id}/error"), &kind, last.as_bytes())
            }
            "exit" => {
                eprintln!("leaving");
                std::process::exit(rest.parse().expect("a number"));
            }
            "abort" => std::process::abort(),
            "head" => self.respond(id, call.head.as_bytes()),
            "env" => self.respond(id, std::env::var(rest).unwrap_or_default().as_bytes()),
            _ => self.respond(id, rest.as_bytes()),
        };
        assert!(status == 202 || word == "big", "{status} for {text}");
    }

    /// What no official client does.
    fn misbehave(&mut self, word: &str, id: &str) -> u16 {
        match word {
            "half" => {
                let head = format!("POST /2018-06-01/runtime/invocation/{id}/response HTTP/1.1\r\n");
                self.send((head + "Content-Length: 100\r\n\r\nhalf").as_bytes());
                *self = Connection::new();
                202
            }
            // Writes for ever.
            "flood" => loop {
                std::io::stdout().write_all(&[b'x'; 1 << 16]).expect("stdout");
            },
            // Asks for what is not there, for ever.
            "trouble" => loop {
                let many = "GET / HTTP/1.1\r\n\r\n".repeat(1000);
                if self.0.get_mut().write_all(many.as_bytes()).is_err() {
                    std::thread::sleep(Duration::from_secs(1000));
                }
            },
            "silence" => {
                std::thread::sleep(Duration::from_secs(1000));
                0
            }
            // The next call is asked for without an answer to this one.
            "next" => {
                self.send(b"GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\n\r\n");
                assert_eq!(self.answer().0, 403);
                202
            }
            _ => unreachable!("{word}"),
        }
    }
}

/// The same as a command.
fn stdio() {
    let mut payload = Vec::new();
    std::io::stdin().read_to_end(&mut payload).expect("stdin");
    let text = String::from_utf8_lossy(&payload).into_owned();
    let (word, rest) = text.split_once(' ').unwrap_or((&text, ""));
    match word {
        "log" => eprintln!("{rest}"),
        "big" => std::io::stdout().write_all(&vec![b'x'; rest.parse().expect("a number")]).expect("stdout"),
        "exit" => std::process::exit(rest.parse().expect("a number")),
        "abort" => std::process::abort(),
        "silence" => std::thread::sleep(Duration::from_secs(1000)),
        "env" => print!("{}", std::env::var(rest).unwrap_or_default()),
        // Leaves a process behind that holds the pipes.
        "daemon" => {
            let mut left = std::process::Command::new("sleep").arg("30").spawn().expect("sleep is there");
            assert_eq!(left.try_wait().expect("it is a child"), None);
            print!("left");
        }
        _ => print!("{rest}"),
    }
}
