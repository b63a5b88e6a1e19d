//! `millrace explain`

use super::calls::time;
use crate::exit::{Done, Exit};
use crate::output::{Output, pairs};
use crate::settings::{Connection, Environment};
use ::call::CallId;
use ::call::admin::Why;

const EXAMPLES: &str = "\
Examples:
  millrace explain 019a9f3c2b7e5d0a4c1f8e6b3d2a1908
  millrace explain 019a9f3c2b7e5d0a4c1f8e6b3d2a1908 -o json

Of several rules that hold a call the one that lets go last is told.";

/// Says why a call is still waiting.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Explain {
    /// 32 hexadecimal digits, as `submit` prints them
    call: CallId,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    node: Connection,
}

impl Explain {
    pub fn run(self, environment: &Environment) -> Done {
        let why: Why = self.node.admin(environment)?.get(&format!("/v1/calls/{}/why", self.call))?;
        self.output.print(&why, |why| {
            pairs([
                ("call", why.call.clone()),
                ("function", why.function.clone()),
                ("state", why.state.clone()),
                ("rule", why.rule.clone()),
                ("since", time(why.since)),
                ("until", why.until.map_or("an event".into(), time)),
                ("freed when", why.frees.clone()),
            ])
        });
        Ok(Exit::Ok)
    }
}
