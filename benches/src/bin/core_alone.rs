//! A worker core alone: this process is the node and the load, pinned to one CPU; the core is a process of its own,
//! pinned to another, exactly as `millrace core` runs it.
//!
//! `core_alone [--json PATH] [--smoke] [--only PART] [--ms TIME]`: the parts are tcp, shm, fresh, long, first and idle,
//! each measurement lasts 2000 ms; `--smoke` measures for an instant only, to see that everything runs.

use benches::core_process::Core;
use benches::generator::{Priority, Window, Windows, quantile_us};
use benches::leases::{Leased, Leases};
use benches::{Figure, Report};
use call::FunctionSpec;
use call::function::InstanceMode;
use call::limits::Limits;
use driver::uring::{Options, Uring};
use driver::{Arrivals, Driver, Endpoint, Event, topology};
use runtime::wasm::artefact;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use worker::{Config, Plan};

/// Returns nothing at once.
const NOOP: &str = r#"(module (memory (export "memory") 1)
    (func (export "millrace_alloc") (param i32) (result i32) (i32.const 1024))
    (func (export "millrace_call") (param i32 i32) (result i64) (i64.const 0)))"#;
/// Uses about two seconds of CPU.
const BURN: &str = r#"(module (memory (export "memory") 1)
    (func (export "millrace_alloc") (param i32) (result i32) (i32.const 1024))
    (func (export "millrace_call") (param i32 i32) (result i64)
        (local $turns i64)
        (loop $again
            (local.set $turns (i64.add (local.get $turns) (i64.const 1)))
            (br_if $again (i64.lt_u (local.get $turns) (i64.const 6000000000))))
        (local.get $turns) (drop) (i64.const 0)))"#;

/// Bytes of arguments.
const PAYLOAD: usize = 128;
/// Calls of long running time that share the core with short ones.
const LONG_CALLS: u64 = 50;
/// Windows of the open loop that are to count.
const WINDOWS: usize = 8;
/// Load of the open loop, as a part of what the core manages.
const LOAD: f64 = 0.7;
/// A window in which the core was ready and off its CPU for less than this part counts as one that it had to itself.
/// On a machine with CPUs to spare each does.
const OFF_CPU_PART: f64 = 0.002;
/// After each window of the open loop the generator sleeps for this part of one: the kernel takes the CPU from a
/// real-time thread that has had it for 95 % of a second (`sched_rt_runtime_us`), for the rest of that second.
const REST: u32 = 2;
/// A call that the generator sends so much too late cannot be measured against an aim of 50 us.
const LATE: Duration = Duration::from_micros(50);
/// Functions of an idle core.
const DEPLOYED: usize = 1000;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["core", cpu, node, directory] => {
            Ok(worker::process::run(&plan(node, directory)?, cpu.parse()?, &Limits::default())?)
        }
        ["echo", cpu, node, spin_us] => {
            echo(cpu.parse()?, &node.parse()?, Duration::from_micros(spin_us.parse()?))
        }
        _ => bench(&arguments),
    }
}

fn plan(node: &str, directory: &str) -> Outcome<Plan> {
    let host_node = Some("tcp:127.0.0.1:1".into());
    let config = Config { node: node.into(), host_node, data_dir: directory.into(), ..Config::default() };
    Ok(Plan::of(&config, &worker::plan::allowed_cpus())?)
}

/// The other side of a bare round trip: the same driver, nothing else.
fn echo(cpu: usize, node: &Endpoint, spin: Duration) -> Outcome<()> {
    topology::pin(cpu)?;
    let mut driver = Uring::new(Options { spin, ..Options::default() })?;
    let mut arrivals = Arrivals::new();
    driver.connect(node);
    loop {
        driver.reap(driver.now() + Duration::from_secs(10), &mut arrivals);
        for event in arrivals.iter() {
            match event {
                Event::Frame { connection, frame } => drop(driver.send(connection, frame.bytes())),
                Event::Closed { .. } => return Ok(()),
                _ => {}
            }
        }
    }
}

/// What all measurements share.
struct Bench {
    report: Report,
    /// The core's artefact cache is in here.
    directory: PathBuf,
    cpu: u32,
    /// How long each measurement lasts.
    time: Duration,
    /// As SHA-256 of artefacts in the cache.
    noop: String,
    burn: String,
    template: String,
}

fn bench(arguments: &[String]) -> Outcome<()> {
    let option = |name| arguments.iter().position(|a| a == name).and_then(|at| arguments.get(at + 1));
    let smoke = arguments.iter().any(|a| a == "--smoke");
    let cpus = topology::choose_cpus(2)?;
    topology::pin(cpus[1])?;
    let directory = std::env::temp_dir().join(format!("millrace-core-alone-{}", std::process::id()));
    let cache = directory.join("cache");
    let compiled = |wasm: &[u8]| artefact::compile(&cache, wasm).map(|compiled| compiled.sha256);
    let mut bench = Bench {
        report: Report::default(),
        cpu: cpus[0] as u32,
        time: Duration::from_millis(
            option("--ms").map_or(Ok(if smoke { 50 } else { 2000 }), |ms| ms.parse())?,
        ),
        noop: compiled(&wat::parse_str(NOOP)?)?,
        burn: compiled(&wat::parse_str(BURN)?)?,
        template: compiled(&template()?)?,
        directory,
    };
    let result = bench.run(smoke, option("--only").map(String::as_str));
    std::fs::remove_dir_all(&bench.directory)?;
    result?;
    if let Some(path) = option("--json") {
        bench.report.write(Path::new(path))?;
    }
    Ok(())
}

/// The function that `millrace init` makes, built.
fn template() -> Outcome<Vec<u8>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let (source, target) = (root.join("worker/runtime/template"), root.join("target/bench/template"));
    let built = Command::new("cargo")
        .args(["build", "--quiet", "--release", "--target", "wasm32-wasip1", "--manifest-path"])
        .arg(source.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(&target)
        .status()?;
    if !built.success() {
        return Err("the template does not build; `make setup` installs its target".into());
    }
    Ok(std::fs::read(target.join("wasm32-wasip1/release/hello.wasm"))?)
}

fn spec(name: &str, artefact: &str, instance: InstanceMode) -> FunctionSpec {
    FunctionSpec {
        name: name.into(),
        artefact: artefact.into(),
        instance,
        version: 1,
        ..FunctionSpec::default()
    }
}

impl Bench {
    fn run(&mut self, smoke: bool, only: Option<&str>) -> Outcome<()> {
        let wanted = |part: &str| only.is_none_or(|only| only == part);
        for transport in ["tcp", "shm"].into_iter().filter(|part| wanted(part)) {
            self.throughput(transport)?;
            self.latency(transport)?;
            self.open_loop(transport)?;
        }
        if wanted("fresh") {
            self.fresh()?;
        }
        if wanted("long") {
            self.beside_long_calls(smoke)?;
        }
        if wanted("first") {
            self.first_calls(if smoke { 4 } else { 64 })?;
        }
        if wanted("idle") {
            self.resident()?;
        }
        Ok(())
    }

    fn endpoint(&self, transport: &str) -> Endpoint {
        match transport {
            "tcp" => "tcp:127.0.0.1:0".parse().expect("an endpoint"),
            _ => Endpoint::Shm(self.directory.join("core.shm")),
        }
    }

    /// A core with these functions, and its node.
    fn start(&self, transport: &str, functions: Vec<Leased>) -> Outcome<(Core, Leases)> {
        let directory = self.directory.to_str().ok_or("the temporary directory has no plain name")?;
        self.spawn(transport, functions, &["core", &self.cpu.to_string(), "NODE", directory])
    }

    /// This program with `arguments`, `NODE` replaced.
    fn spawn(&self, transport: &str, functions: Vec<Leased>, arguments: &[&str]) -> Outcome<(Core, Leases)> {
        let mut core = None;
        let leases = Leases::serve(&self.endpoint(transport), functions, |node| {
            let node = node.to_string();
            let arguments = arguments.iter().map(|a| if *a == "NODE" { &node } else { *a });
            let mut command = Command::new(std::env::current_exe()?);
            core = Some(Core(
                command.args(arguments).env("RUST_LIB_BACKTRACE", "0").stderr(Stdio::null()).spawn()?,
            ));
            Ok(())
        })?;
        Ok((core.expect("just started"), leases))
    }

    fn noop(&self) -> Leased {
        Leased::new(spec("noop", &self.noop, InstanceMode::Reuse), PAYLOAD)
    }

    /// Calls per second with all credits in use, after a while of warming up; CPU per call.
    fn saturate(&self, core: &Core, leases: &mut Leases, time: Duration) -> Outcome<(f64, f64)> {
        let run = |leases: &mut Leases, time: Duration| {
            let begun = leases.now();
            while leases.now() - begun < time {
                leases.send_block(0, u64::MAX);
                leases.poll(Duration::ZERO);
            }
            leases.now() - begun
        };
        run(leases, time / 4);
        let (ended, cpu) = (leases.ended, core.cpu_ns()?);
        let took = run(leases, time);
        let (calls, cpu) = ((leases.ended - ended) as f64, core.cpu_ns()? - cpu);
        if leases.failed > 0 {
            return Err(format!("{} calls failed", leases.failed).into());
        }
        Ok((calls / took.as_secs_f64(), cpu as f64 / calls / 1000.0))
    }

    fn throughput(&mut self, transport: &str) -> Outcome<()> {
        let (core, mut leases) = self.start(transport, vec![self.noop()])?;
        let (rate, cpu_us) = self.saturate(&core, &mut leases, self.time)?;
        let (bar, aim) = if transport == "tcp" { (500e3, 1e6) } else { (1e6, 2e6) };
        self.report.add(Figure::new(&format!("core-{transport}-rate"), rate, "calls/s").bar(bar, aim));
        let figure = Figure::new(&format!("core-{transport}-cpu-per-call"), cpu_us, "us");
        self.report.add(if transport == "tcp" { figure.bar(1.5, 0.7) } else { figure });
        Ok(())
    }

    /// One call at a time, in units of a bare round trip of the same bytes through the same driver.
    fn latency(&mut self, transport: &str) -> Outcome<()> {
        let median = |leases: &mut Leases, time: Duration| {
            leases.timed = Window::default();
            let begun = leases.now();
            while leases.now() - begun < time {
                leases.send_timed(0, leases.now());
                leases.settle();
            }
            quantile_us(&leases.timed.latency_ns, 0.5)
        };
        let floor_us = round_trip_us(&self.endpoint(transport), self.cpu, self.time)?;
        let (_core, mut leases) = self.start(transport, vec![self.noop()])?;
        median(&mut leases, self.time / 4);
        let us = median(&mut leases, self.time);
        let (bar, aim) = if transport == "tcp" { (2.0, 1.2) } else { (5.0, 2.5) };
        self.report.add(
            Figure::new(&format!("core-{transport}-depth-1-p50"), us, "us").floor("round trip us", floor_us),
        );
        let figure =
            Figure::new(&format!("core-{transport}-depth-1"), us / floor_us, "round trips").bar(bar, aim);
        self.report.add(figure.floor("round trip us", floor_us));
        Ok(())
    }

    /// p99 from the intended start, with calls at even distances; beside it the same through a bare echo, in turn
    /// with it. The core's process is as in production; only the generator may have real-time priority. Each window
    /// has 70 % of what the core managed just before it, since a virtual machine is not as fast in each second.
    fn open_loop(&mut self, transport: &str) -> Outcome<()> {
        let (core, mut leases) = self.start(transport, vec![self.noop()])?;
        let (_echo, mut echo) = self.start_echo(transport, leases.credits())?;
        let priority = Priority::real_time();
        let time = self.time / WINDOWS as u32;
        let fastest = |leases: &mut Leases| {
            Ok::<_, Box<dyn std::error::Error>>(self.saturate(&core, leases, time / 4)?.0)
        };
        fastest(&mut leases)?;
        let [mut windows, mut alone, mut echoes] = [(); 3].map(|()| Windows::new(WINDOWS, LATE));
        let (mut loads, mut waited, mut ran) = (Vec::new(), Duration::ZERO, Duration::ZERO);
        while !windows.is_enough() {
            let load = LOAD * fastest(&mut leases)?;
            leases.settle();
            let (before, begun) = (core.waited()?, leases.now());
            leases.open_loop(0, load, time);
            leases.settle();
            let (off_cpu, took) = (core.waited()? - before, leases.now() - begun);
            (waited, ran) = (waited + off_cpu, ran + took);
            windows.add(&leases.timed);
            if off_cpu < took.mul_f64(OFF_CPU_PART) {
                alone.add(&leases.timed);
            }
            loads.push(load);
            echo.open_loop(0, load, time / 2);
            echo.settle();
            echoes.add(&echo.timed);
            std::thread::sleep(time / REST);
        }
        println!("  {}; the generator ran {}", windows.told(), priority.told());
        let share = 100.0 * waited.as_secs_f64() / ran.as_secs_f64();
        println!("  the core's thread was ready and waited for its CPU for {share:.2} % of the time");
        self.report_open_loop(transport, &windows, &alone, &echoes, &loads);
        Ok(())
    }

    fn report_open_loop(
        &mut self,
        on: &str,
        all: &Windows,
        alone: &Windows,
        echoes: &Windows,
        loads: &[f64],
    ) {
        let p99 = |histogram| quantile_us(histogram, 0.99);
        let name = format!("core-{on}-p99-at-70-percent");
        let (measured, echo_us) = (all.result(), p99(&echoes.result().latency_ns));
        let figure = Figure::new(&name, p99(&measured.latency_ns), "us").bar(200.0, 50.0);
        self.report.add(figure.floor("echo p99 us", echo_us));
        if alone.count.0 > 0 {
            let us = p99(&alone.result().latency_ns);
            let figure = Figure::new(&format!("{name}-core-not-preempted"), us, "us").bar(200.0, 50.0);
            self.report.add(figure.floor("windows", alone.count.0 as f64));
        }
        let load = loads.iter().sum::<f64>() / loads.len() as f64;
        let figure = Figure::new(&format!("{name}-median"), quantile_us(&measured.latency_ns, 0.5), "us");
        self.report.add(figure.floor("load calls/s", load));
        let late = p99(&measured.lateness_ns);
        self.report.add(Figure::new(&format!("{name}-generator-late"), late, "us"));
        self.report.add(Figure::new(&format!("{name}-windows"), all.count.0 as f64, "counted"));
    }

    /// A process that sends back what it is sent, on the core's CPU, waiting as a core does.
    fn start_echo(&self, transport: &str, slots: u64) -> Outcome<(Core, Leases)> {
        let at = match self.endpoint(transport) {
            Endpoint::Shm(path) => Endpoint::Shm(path.with_file_name("echo.shm")),
            other => other,
        };
        let spin_us = Options::default().spin.as_micros().to_string();
        let mut process = None;
        let leases = Leases::echoed(&at, vec![self.noop()], slots, |node| {
            let mut command = Command::new(std::env::current_exe()?);
            command.args(["echo", &self.cpu.to_string(), &node.to_string(), &spin_us]);
            process = Some(Core(command.stderr(Stdio::null()).spawn()?));
            Ok(())
        })?;
        Ok((process.expect("just started"), leases))
    }

    fn fresh(&mut self) -> Outcome<()> {
        let function = Leased::new(spec("fresh", &self.template, InstanceMode::Fresh), PAYLOAD);
        let (core, mut leases) = self.start("shm", vec![function])?;
        let (rate, _) = self.saturate(&core, &mut leases, self.time)?;
        self.report.add(Figure::new("core-shm-fresh-rate", rate, "calls/s").bar(120e3, 180e3));
        Ok(())
    }

    /// No-op calls, 1,000 a second, while long calls use all the CPU there is.
    fn beside_long_calls(&mut self, smoke: bool) -> Outcome<()> {
        let burn = Leased::new(spec("burn", &self.burn, InstanceMode::Reuse), PAYLOAD);
        let (_core, mut leases) = self.start("shm", vec![self.noop(), burn])?;
        leases.open_loop(0, 1000.0, self.time / 4);
        leases.send_block(1, LONG_CALLS);
        let begun = leases.now();
        while leases.now() - begun < Duration::from_millis(if smoke { 10 } else { 500 }) {
            leases.poll(Duration::from_millis(1));
        }
        leases.open_loop(0, 1000.0, 2 * self.time);
        let p99 = quantile_us(&leases.timed.latency_ns, 0.99) / 1000.0;
        if leases.in_flight() < LONG_CALLS / 2 {
            return Err("the long calls ended before the measurement did".into());
        }
        self.report.add(Figure::new("core-p99-beside-50-long-calls", p99, "ms").bar(20.0, 5.0));
        Ok(())
    }

    /// The first call of functions whose machine code is on disk and not mapped.
    fn first_calls(&mut self, count: usize) -> Outcome<()> {
        let template = std::fs::read(self.directory.join(format!("cache/{}.wasm", self.template)))?;
        let mut functions = vec![self.noop()];
        for n in 0..count {
            let compiled =
                artefact::compile(&self.directory.join("cache"), &with_custom_section(&template, n as u8))?;
            functions.push(Leased::new(
                spec(&format!("first-{n}"), &compiled.sha256, InstanceMode::Reuse),
                PAYLOAD,
            ));
        }
        let (_core, mut leases) = self.start("shm", functions)?;
        leases.open_loop(0, 1000.0, self.time / 4);
        leases.timed = Window::default();
        for function in 1..=count {
            leases.send_timed(function, leases.now());
            leases.settle();
        }
        let p50 = quantile_us(&leases.timed.latency_ns, 0.5);
        self.report.add(Figure::new("core-first-call", p50, "us").bar(1000.0, 200.0));
        Ok(())
    }

    fn resident(&mut self) -> Outcome<()> {
        let name = |n| format!("deployed-{n}");
        let deployed = |n| Leased::new(spec(&name(n), &self.noop, InstanceMode::Reuse), 0);
        let (core, mut leases) = self.start("shm", (0..DEPLOYED).map(deployed).collect())?;
        let begun = leases.now();
        while leases.now() - begun < Duration::from_secs(1) {
            leases.poll(Duration::from_millis(10));
        }
        self.report.add(Figure::new("core-idle-resident", core.resident_mib()?, "MiB").bar(64.0, 32.0));
        Ok(())
    }
}

/// Median round trip of a lease's bytes between two spinning processes.
fn round_trip_us(at: &Endpoint, cpu: u32, time: Duration) -> Outcome<f64> {
    let mut driver = Uring::new(Options { spin: Duration::from_secs(1), ..Options::default() })?;
    let listener = driver.listen(at)?;
    let mut command = Command::new(std::env::current_exe()?);
    let _echo = Core(
        command.args(["echo", &cpu.to_string(), &driver.local(listener).to_string(), "1000000"]).spawn()?,
    );
    let mut frame = call::frame::FrameBuf::new();
    call::frame::append(&mut frame, &call::frame::Header::new(call::Kind::Submit), &[0; 64 + PAYLOAD]);
    let mut took = hdrhistogram::Histogram::<u64>::new(3)?;
    let (mut arrivals, begun) = (Arrivals::new(), driver.precise());
    let mut sent = begun;
    while driver.precise() - begun < time + Duration::from_millis(100) {
        driver.reap(driver.precise() + time, &mut arrivals);
        for event in arrivals.iter() {
            match event {
                Event::Accepted { connection, .. } => {
                    sent = driver.precise();
                    driver.send(connection, &frame).map_err(|_| "the echo is gone")?;
                }
                Event::Frame { connection, .. } => {
                    let now = driver.precise();
                    took.record(now.since(sent).as_nanos() as u64)?;
                    sent = now;
                    driver.send(connection, &frame).map_err(|_| "the echo is gone")?;
                }
                Event::Closed { reason, .. } => return Err(format!("the echo is gone: {reason}").into()),
                _ => {}
            }
        }
    }
    Ok(took.value_at_quantile(0.5) as f64 / 1000.0)
}

/// The same module with another hash: a custom section is for no one.
fn with_custom_section(wasm: &[u8], content: u8) -> Vec<u8> {
    let mut out = wasm.to_vec();
    out.extend_from_slice(&[0, 3, 1, b'n', content]);
    out
}
