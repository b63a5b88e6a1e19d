//! Making a sandbox, beside a bare clone and exec with the same namespaces.

use super::{Bench, Outcome, median};
use crate::Figure;
use crate::sandboxed::BLANKS;
use sandbox::protocol::*;
use sandbox::socket;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

/// All namespaces of a sandbox.
const NAMESPACES: i32 = libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWCGROUP;
/// Between two: as long as a pool needs to be full again, and the kernel to take away the one before.
const PAUSE: Duration = Duration::from_millis(30);

impl Bench {
    /// From a core's word until it hears that the function was executed; from the pool, and without one.
    pub(super) fn making(&mut self) -> Outcome<()> {
        let count = if self.smoke { 3 } else { 60 };
        let mut figures = Vec::new();
        for (name, blanks) in [("process-making-from-pool", BLANKS), ("process-making-without-pool", 0)] {
            let stage = self.stage(blanks, &["echo"])?;
            let core = socket::connect_to(&stage.socket())?;
            say(&core, &ToJailer::Hello { version: VERSION, cpu: self.core_cpu })?;
            hear(&core)?;
            let spec = Spec {
                function: "making".into(),
                bundle: stage.bundle("echo")?,
                command: vec!["./function".into(), "sleep".into()],
                ..Spec::default()
            };
            // The first finds an empty pool.
            make(&core, &spec)?;
            let (mut bare_us, mut made_us, mut hits) = (Vec::new(), Vec::new(), 0);
            for _ in 0..count {
                std::thread::sleep(PAUSE);
                bare_us.push(self.bare()?.as_secs_f64() * 1e6);
                std::thread::sleep(PAUSE);
                let (took, from_pool) = make(&core, &spec)?;
                made_us.push(took.as_secs_f64() * 1e6);
                hits += u32::from(from_pool);
            }
            println!("  {name}: {hits} of {count} from the pool");
            let (bare, made) = (median(&bare_us), median(&made_us));
            let figure = Figure::new(name, made / bare, "clones").bar(1.5, 0.5);
            figures.push(figure.floor("bare clone us", bare).rival("sandbox us", made));
        }
        figures.into_iter().for_each(|figure| self.report.add(figure));
        Ok(())
    }

    /// The rival: namespaces and an exec, no root, no limits, no filters. Until the program was executed: its end of a
    /// pipe closes then.
    fn bare(&self) -> io::Result<Duration> {
        let (mut reader, writer) = io::pipe()?;
        let program = std::ffi::CString::new(self.function.to_string_lossy().as_bytes())?;
        let argv = [program.as_ptr(), c"sleep".as_ptr(), std::ptr::null()];
        let begun = Instant::now();
        // SAFETY: a fork (clone without memory of its own needs no stack); the child executes or ends.
        let pid = unsafe {
            let none = std::ptr::null_mut::<libc::c_void>();
            let pid =
                libc::syscall(libc::SYS_clone, NAMESPACES | libc::SIGCHLD, none, none, none, none) as i32;
            if pid == 0 {
                libc::execv(argv[0], argv.as_ptr());
                libc::_exit(127);
            }
            pid
        };
        if pid < 0 {
            return Err(io::Error::last_os_error());
        }
        drop(writer);
        reader.read_to_end(&mut Vec::new())?;
        let took = begun.elapsed();
        // SAFETY: plain numbers; a child of this process.
        unsafe {
            libc::kill(pid, libc::SIGKILL);
            libc::waitpid(pid, std::ptr::null_mut(), 0);
        }
        Ok(took)
    }
}

/// Makes one sandbox and ends it: how long until its function was executed, and whether it came from the pool.
fn make(core: &OwnedFd, spec: &Spec) -> Outcome<(Duration, bool)> {
    let begun = Instant::now();
    say(core, &ToJailer::Make { sandbox: 1, spec: Box::new(spec.clone()) })?;
    let from_pool = match hear(core)? {
        FromJailer::Made { from_pool, .. } => from_pool,
        other => return Err(format!("the jailer said {other:?}").into()),
    };
    let took = begun.elapsed();
    say(core, &ToJailer::Stop { sandbox: 1, how: Stop::Kill })?;
    hear(core)?;
    Ok((took, from_pool))
}

fn say(core: &OwnedFd, message: &ToJailer) -> Outcome<()> {
    let bytes = encode(message).map_err(|error| format!("{error:?}"))?;
    Ok(socket::send(core.as_fd(), &bytes, &[])?)
}

/// The next message but those about memory.
fn hear(core: &OwnedFd) -> Outcome<FromJailer> {
    let mut buffer = Vec::new();
    loop {
        match socket::receive(core.as_fd(), &mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let mut readable = [nix::poll::PollFd::new(core.as_fd(), nix::poll::PollFlags::POLLIN)];
                nix::poll::poll(&mut readable, 20_000u16)?;
            }
            got => {
                got?.ok_or("the jailer is gone")?;
                match decode(&buffer).map_err(|error| format!("{error:?}"))? {
                    FromJailer::Pressure { .. } => {}
                    message => return Ok(message),
                }
            }
        }
    }
}
