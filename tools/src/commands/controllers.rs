//! `millrace controllers`

use crate::admin::{Admin, Touched};
use crate::exit::{Done, Exit, Failure};
use crate::interrupt;
use crate::settings::{Connection, Environment};
use crate::times::duration;
use ::call::admin::{Conclusions, Observation};
use ::call::limits::Limits;
use control::steering::{PERIOD, Settings, Steering};
use driver::notes::say;
use std::ffi::OsString;
use std::time::Duration;

const EXAMPLES: &str = "\
Examples:
  millrace controllers --data-dir /var/lib/millrace
  millrace controllers --admin http://10.0.0.7:7411

Started by `millrace up`. It looks at a node twice a second and tells it what it concludes: rates for quotas of CPU,
limits for functions whose services push back, how much opportunistic work may run, which cores take which functions'
calls first (`millrace locality show`), which functions to make warm, and how many cores there should be (`millrace
workers`). The node goes on without it.";

/// Conclusions of a kind in one request: far below what the API takes in one.
const PER_REQUEST: usize = 1000;

/// Runs the controllers of a node.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Controllers {
    #[command(flatten)]
    node: Connection,
    #[command(flatten)]
    shaping: SteeringArguments,
}

/// What an operator may choose of controllers; `up` passes it on.
#[derive(clap::Args, Debug, Clone, Copy)]
#[command(next_help_heading = "Controllers")]
pub struct SteeringArguments {
    /// Cores for each locality group, at least: one may be lost, and the best of two needs two
    #[arg(long, value_name = "COUNT", default_value_t = Settings::default().locality.workers_least,
        value_parser = clap::value_parser!(u32).range(1..=256))]
    group_cores: u32,
    /// How long calls that may not wait must fill the cores before more are asked for
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration)]
    scale_up_after: Duration,
    /// How long they must leave the cores idle before fewer are asked for
    #[arg(long, value_name = "DURATION", default_value = "15m", value_parser = duration)]
    scale_down_after: Duration,
    /// Idle times of a function that must be seen before its next call is foreseen
    #[arg(long, value_name = "COUNT", default_value_t = Settings::default().prewarm.seen_least,
        value_parser = clap::value_parser!(u32).range(1..=2000))]
    foresee_after: u32,
    /// A function is let go between two calls only if they are further apart than this
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    release_after: Duration,
}

impl SteeringArguments {
    fn settings(&self) -> Settings {
        let mut settings = Settings::default();
        settings.locality.workers_least = self.group_cores;
        settings.autoscale.up_after = self.scale_up_after;
        settings.autoscale.down_after = self.scale_down_after;
        settings.prewarm.seen_least = self.foresee_after;
        settings.prewarm.released_after = self.release_after;
        settings
    }

    /// These as words of a command line.
    pub fn command_line(&self) -> Vec<OsString> {
        let ms = |duration: Duration| format!("{}ms", duration.as_millis());
        [
            ("--group-cores", self.group_cores.to_string()),
            ("--scale-up-after", ms(self.scale_up_after)),
            ("--scale-down-after", ms(self.scale_down_after)),
            ("--foresee-after", self.foresee_after.to_string()),
            ("--release-after", ms(self.release_after)),
        ]
        .into_iter()
        .flat_map(|(name, value)| [name.into(), value.into()])
        .collect()
    }
}

impl Controllers {
    pub fn run(self, environment: &Environment) -> Done {
        interrupt::flag();
        let mut steering = Steering::new(Limits::default(), self.shaping.settings());
        let mut is_lost = false;
        while !interrupt::is_asked() {
            let turn = self.node.admin(environment).and_then(|admin| turn(&admin, &mut steering));
            match turn {
                Ok(()) => {
                    if std::mem::take(&mut is_lost) {
                        say("millrace controllers: the node is there again");
                    }
                }
                // A node that is away is told once, and so is one that has just started anew.
                Err(failure) if !is_lost => {
                    is_lost = true;
                    say(format_args!("millrace controllers: {failure}; trying on"));
                }
                Err(_) => {}
            }
            std::thread::sleep(PERIOD);
        }
        Ok(Exit::Ok)
    }
}

fn turn(admin: &Admin, steering: &mut Steering) -> Result<(), Failure> {
    let path = format!("/v1/observation?after_ns={}", steering.after_ns());
    let observed: Observation = admin.get(&path)?;
    let mut concluded = steering.observe(&observed);
    let incarnation = concluded.incarnation;
    while !concluded.is_empty() {
        let rest = rest(&mut concluded);
        admin.put::<Touched>("/v1/conclusions", &concluded)?;
        concluded = Conclusions { incarnation, ..rest };
    }
    Ok(())
}

/// Cuts off what one request does not take.
fn rest(of: &mut Conclusions) -> Conclusions {
    fn beyond<T>(list: &mut Vec<T>) -> Vec<T> {
        list.split_off(list.len().min(PER_REQUEST))
    }
    Conclusions {
        cores: beyond(&mut of.cores),
        rates: beyond(&mut of.rates),
        limits: beyond(&mut of.limits),
        groups: beyond(&mut of.groups),
        warm: beyond(&mut of.warm),
        release: beyond(&mut of.release),
        ..Conclusions::default()
    }
}
