//! A function that must be quick, beside functions that take all they can get; and beside the same programs as plain
//! processes, whom nothing limits.

use super::{Bench, Outcome, PAYLOAD};
use crate::Figure;
use crate::generator::{Priority, Windows, quantile_us};
use crate::leases::{Leased, Leases};
use crate::sandboxed::{self, BLANKS, anywhere, quietly};
use call::FunctionSpec;
use call::function::InstanceMode;
use runtime::wasm::artefact;
use std::process::{Child, Command};
use std::time::Duration;

/// The quick ones.
pub(super) const VICTIMS: [&str; 2] = ["process", "wasm"];
/// The names of [`HOGS`].
pub(super) const HOG_NAMES: [&str; 4] = ["cpu", "memory", "fork", "network"];
/// What hogs take, and in how many processes each.
const HOGS: [(&str, &str); 4] = [("cpu", "4"), ("memory", "2"), ("fork", "2"), ("network", "2")];
/// The quick one's calls, each second.
const RATE: f64 = 1000.0;
/// A call that is sent so much too late is left out: the generator, in real-time priority, did not get its CPU then.
const LATE: Duration = Duration::from_micros(250);
/// If more than a hundredth of the calls are sent so much too late, the machine itself stood still, and the window does not
/// count.
const STALL: Duration = Duration::from_millis(1);
/// Windows of each case that are to count.
const WINDOWS: usize = 3;
/// What a hog gets before the quick one is measured.
const HEAD_START: Duration = Duration::from_millis(400);
/// Beyond what is measured, until its call times out.
const SPARE: Duration = Duration::from_millis(500);

/// Returns nothing at once.
const NOOP: &str = r#"(module (memory (export "memory") 1)
    (func (export "millrace_alloc") (param i32) (result i32) (i32.const 1024))
    (func (export "millrace_call") (param i32 i32) (result i64) (i64.const 0)))"#;

/// Who is beside the quick one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Beside {
    Nobody,
    /// A function, with limits; its place in [`HOGS`].
    Function(usize),
    /// A plain process.
    Plain(usize),
}

/// One case, and what was measured.
struct Case {
    beside: Beside,
    windows: Windows,
}

impl Bench {
    pub(super) fn neighbours(&mut self) -> Outcome<()> {
        let mut names = vec!["echo"];
        names.extend(HOGS.map(|(hog, _)| hog));
        let stage = self.stage(BLANKS, &names)?;
        let noop = artefact::compile(&stage.directory.join("cache"), &wat::parse_str(NOOP)?)?.sha256;
        let wasm = FunctionSpec {
            name: "wasm".into(),
            artefact: noop,
            instance: InstanceMode::Reuse,
            version: 1,
            ..FunctionSpec::default()
        };
        let mut functions = vec![Bench::echo(4), Leased::new(wasm, PAYLOAD)];
        functions.extend(HOGS.map(|(hog, processes)| Leased::new(self.hog(hog, processes), 8)));
        let (_core, mut leases) = stage.core(self.core_cpu, functions)?;
        sandboxed::warm(&mut leases, 0, 4)?;
        sandboxed::warm(&mut leases, 1, 1)?;
        for (victim, name) in VICTIMS.into_iter().enumerate() {
            if !self.is_wanted(name) {
                continue;
            }
            let cases = self.victim(&mut leases, victim)?;
            self.told(name, &cases);
        }
        Ok(())
    }

    /// A hog as a function. Its call ends by its time-out.
    fn hog(&self, hog: &str, processes: &str) -> FunctionSpec {
        let mut spec = sandboxed::spec(hog, &["./function", hog, processes], 1);
        spec.timeout_ms = (HEAD_START + self.window() + SPARE).as_millis() as u64;
        spec.limits.grace_ms = 0;
        spec.memory_bytes = 64 << 20;
        spec
    }

    fn window(&self) -> Duration {
        self.time / 2
    }

    /// All cases in turn, until each has enough windows.
    fn victim(&self, leases: &mut Leases, victim: usize) -> Outcome<Vec<Case>> {
        let functions = (0..HOGS.len()).map(Beside::Function);
        let all = [Beside::Nobody].into_iter().chain(functions).chain((0..HOGS.len()).map(Beside::Plain));
        let is_wanted = |beside: &Beside| match beside {
            Beside::Function(hog) => self.is_wanted(HOGS[*hog].0),
            Beside::Plain(hog) => self.is_wanted(HOGS[*hog].0) && !self.limited_only,
            Beside::Nobody => true,
        };
        let (wanted, late) = if self.smoke { (1, Duration::from_secs(3600)) } else { (WINDOWS, STALL) };
        leases.leaves_out = (!self.smoke).then_some(LATE);
        let mut cases: Vec<Case> = all
            .filter(is_wanted)
            .map(|beside| Case { beside, windows: Windows::new(wanted, late) })
            .collect();
        while !cases.iter().all(|case| case.windows.is_enough()) {
            for case in cases.iter_mut().filter(|case| !case.windows.is_enough()) {
                let mut plain = self.begin(leases, case.beside)?;
                let (from, failed) = (leases.now(), leases.failed);
                while leases.now() - from < HEAD_START {
                    leases.poll(Duration::from_millis(1));
                }
                let priority = Priority::real_time();
                leases.open_loop(victim, RATE, self.window());
                drop(priority);
                if let Some(plain) = &mut plain {
                    plain.kill()?;
                    plain.wait()?;
                }
                // Beside a plain process nothing is promised.
                if leases.failed > failed && plain.is_none() {
                    return Err(format!("calls failed: {}", leases.failure).into());
                }
                leases.settle();
                case.windows.add(&leases.timed);
            }
        }
        Ok(cases)
    }

    /// Has the hog begin.
    fn begin(&self, leases: &mut Leases, beside: Beside) -> Outcome<Option<Child>> {
        match beside {
            Beside::Nobody => Ok(None),
            Beside::Function(hog) => {
                leases.send_block(2 + hog, 1);
                Ok(None)
            }
            Beside::Plain(hog) => {
                let (hog, processes) = HOGS[hog];
                let mut command = Command::new(&self.function);
                Ok(Some(anywhere(quietly(command.args([hog, processes]))).spawn()?))
            }
        }
    }

    fn told(&mut self, victim: &str, cases: &[Case]) {
        let quantile = |case: &Case, at| quantile_us(&case.windows.result().latency_ns, at);
        let alone = quantile(&cases[0], 0.99);
        for case in cases {
            let name = match case.beside {
                Beside::Nobody => "alone".into(),
                Beside::Function(hog) => format!("beside {}, limited", HOGS[hog].0),
                Beside::Plain(hog) => format!("beside {}, a plain process", HOGS[hog].0),
            };
            let result = case.windows.result();
            println!(
                "  {victim} {name}: p50 {:.0}, p99 {:.0}, p99.9 {:.0} us; generator late by p99 {:.0} us, {:.1} % left out, {}",
                quantile(case, 0.5),
                quantile(case, 0.99),
                quantile(case, 0.999),
                quantile_us(&result.lateness_ns, 0.99),
                100.0 * result.late_part(LATE),
                case.windows.told()
            );
        }
        self.report.add(Figure::new(&format!("neighbour-{victim}-alone-p99"), alone, "us"));
        let of = |wanted: Beside| cases.iter().find(|case| case.beside == wanted);
        for (hog, (name, _)) in HOGS.into_iter().enumerate() {
            let Some(limited) = of(Beside::Function(hog)) else { continue };
            let with = quantile(limited, 0.99) / alone;
            let figure = Figure::new(&format!("neighbour-{victim}-beside-{name}"), with, "x").bar(1.5, 1.2);
            let figure = figure.floor("alone us", alone);
            self.report.add(match of(Beside::Plain(hog)) {
                Some(plain) => figure.rival("no limits x", quantile(plain, 0.99) / alone),
                None => figure,
            });
        }
    }
}
