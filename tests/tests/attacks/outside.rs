//! The attacker without a sandbox: the canary of all attacks. What is refused inside must succeed here.

use crate::stage::attacker;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

/// How the attacker runs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum As {
    /// This user, with mounts, host name and IPC of its own, so that what it changes of them is gone with it.
    Root,
    /// Nobody in particular.
    Nobody,
}

/// What the attacker answers to one call.
pub fn run(arguments: &str, user: As) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let mut command = Command::new(attacker());
    command.env("AWS_LAMBDA_RUNTIME_API", listener.local_addr().expect("an address").to_string());
    command.env("HOME", "/tmp").current_dir("/").stdin(Stdio::null()).stdout(Stdio::null());
    command.process_group(0);
    if user == As::Nobody {
        command.uid(65_534).gid(65_534);
    }
    let own = libc::CLONE_NEWNS | libc::CLONE_NEWUTS | libc::CLONE_NEWIPC;
    let apart = move || {
        // SAFETY: system calls with plain numbers and C strings, between fork and exec.
        unsafe {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            let none = std::ptr::null();
            if user == As::Root
                && (libc::unshare(own) != 0
                    || libc::mount(none, c"/".as_ptr(), none, libc::MS_REC | libc::MS_PRIVATE, none.cast())
                        != 0)
            {
                return Err(std::io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: `apart` makes system calls only.
    unsafe { command.pre_exec(apart) };
    let mut child = command.spawn().expect("the attacker starts");
    let (mut stream, _) = listener.accept().expect("it connects");
    request(&mut stream);
    let head = format!(
        "HTTP/1.1 200 OK\r\nLambda-Runtime-Aws-Request-Id: 00\r\nContent-Length: {}\r\n\r\n{arguments}",
        arguments.len()
    );
    stream.write_all(head.as_bytes()).expect("it reads");
    let answer = request(&mut stream);
    // With what it forked.
    let group = nix::unistd::Pid::from_raw(child.id() as i32);
    let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
    let _ = child.wait();
    answer
}

/// Reads one request; its body.
fn request(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let mut buffer = [0; 65_536];
    loop {
        let got = stream.read(&mut buffer).expect("it speaks");
        assert!(got > 0, "it hung up: {}", String::from_utf8_lossy(&bytes));
        bytes.extend_from_slice(&buffer[..got]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).expect("a length");
        if body.len() >= length.parse().expect("a number") {
            return body.to_owned();
        }
    }
}

/// The attack succeeds in all that it tries.
#[track_caller]
pub fn succeeds(arguments: &str, user: As) {
    let answer = run(arguments, user);
    let is_ok = |line: &str| !line.contains(": ") || line.ends_with(": ok");
    assert!(
        answer.contains(": ok") && answer.lines().all(is_ok),
        "outside a sandbox `{arguments}` gives: {answer}"
    );
}
