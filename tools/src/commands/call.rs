//! `millrace call`

use super::arguments::{CallTerms, Input, OutcomeView, ended_badly};
use super::submit::{name_function, raw};
use crate::admin::function_name;
use crate::exit::{Done, Exit};
use crate::output::Output;
use crate::settings::{Connection, Environment};
use crate::times::duration;
use ::call::FunctionId;
use millrace_client::Options;
use millrace_client::blocking::Client;
use std::io::{self, Write};
use std::time::Duration;

const EXAMPLES: &str = "\
Examples:
  millrace call hello --data world
  millrace call thumbnail --file photo.jpg > small.jpg
  echo '{\"n\": 7}' | millrace call fibonacci - -o json

The output goes to stdout byte for byte, the function's stderr to stderr. The exit code is 0 if the call ended well and
1 if it failed for good, after the attempts that its manifest allows.";

/// Submits a call and waits for its result.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Call {
    /// NAME or NAMESPACE/NAME
    function: String,
    #[command(flatten)]
    input: Input,
    #[command(flatten)]
    terms: CallTerms,
    /// How long to wait for the result; the call goes on
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = duration)]
    timeout: Duration,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    node: Connection,
}

impl Call {
    pub fn run(self, environment: &Environment) -> Done {
        let (namespace, name) = function_name(&self.function)?;
        let terms = self.terms.terms()?;
        let payload = self.input.payload(&self.node, environment)?;
        let options = Options { name: "millrace call".into(), ..Options::default() };
        let mut client = Client::connect(&self.node.endpoint(environment)?, options)?;
        let call = ::call::body::Submit {
            start_at: terms.start_at,
            deadline: terms.deadline,
            criticality: self.terms.criticality(),
            key: self.terms.key(),
            label: self.terms.label(),
            blob: payload.is_blob,
            ..client.call(FunctionId::of(&namespace, &name), &payload.bytes)
        };
        let outcome =
            client.run(&call, self.timeout).map_err(|error| name_function(error.into(), &self.function))?;
        if self.output.is_json() {
            self.output.print(&OutcomeView::from(&outcome), |_| String::new());
        } else {
            raw(&outcome.output);
            // A stderr that is gone is nobody's loss.
            let _ = io::stderr().write_all(&outcome.stderr);
        }
        if outcome.usage.truncated {
            eprintln!("millrace: output or stderr was cut at its limit: call {}", outcome.call);
        }
        if outcome.status.is_ok() { Ok(Exit::Ok) } else { Err(ended_badly(&outcome)) }
    }
}
