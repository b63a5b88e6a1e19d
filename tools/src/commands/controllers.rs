//! `millrace controllers`

use crate::admin::{Admin, Touched};
use crate::exit::{Done, Exit, Failure};
use crate::interrupt;
use crate::settings::{Connection, Environment};
use ::call::admin::{Conclusions, Observation};
use ::call::limits::Limits;
use control::steering::{PERIOD, Steering};
use driver::notes::say;

const EXAMPLES: &str = "\
Examples:
  millrace controllers --data-dir /var/lib/millrace
  millrace controllers --admin http://10.0.0.7:7411

Started by `millrace up`. It looks at a node twice a second and tells it what it concludes: rates for quotas of CPU,
limits for functions whose services push back, and how much opportunistic work may run. The node goes on without it.";

/// Conclusions of one request: far below what the API takes in one.
const PER_REQUEST: usize = 1000;

/// Runs the controllers of a node.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Controllers {
    #[command(flatten)]
    node: Connection,
}

impl Controllers {
    pub fn run(self, environment: &Environment) -> Done {
        interrupt::flag();
        let mut steering = Steering::new(Limits::default());
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
    let observed: Observation = admin.get("/v1/observation")?;
    let concluded = steering.observe(&observed);
    let told = |conclusions: &Conclusions| -> Result<(), Failure> {
        match conclusions.is_empty() {
            true => Ok(()),
            false => admin.put::<Touched>("/v1/conclusions", conclusions).map(|_| ()),
        }
    };
    let incarnation = concluded.incarnation;
    told(&Conclusions { incarnation, opportunistic: concluded.opportunistic, ..Conclusions::default() })?;
    for rates in concluded.rates.chunks(PER_REQUEST) {
        told(&Conclusions { incarnation, rates: rates.to_vec(), ..Conclusions::default() })?;
    }
    for limits in concluded.limits.chunks(PER_REQUEST) {
        told(&Conclusions { incarnation, limits: limits.to_vec(), ..Conclusions::default() })?;
    }
    Ok(())
}
