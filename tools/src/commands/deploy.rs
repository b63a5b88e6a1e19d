//! `millrace deploy`

use super::arguments::spinner;
use super::function::show;
use crate::deployment::{Package, wait_until_ready};
use crate::exit::{Done, Exit};
use crate::interrupt;
use crate::output::Output;
use crate::settings::{Connection, Environment};
use crate::times::duration;
use std::path::PathBuf;
use std::time::Duration;

const EXAMPLES: &str = "\
Examples:
  millrace deploy                      # the function in this directory
  millrace deploy functions/thumbnail
  millrace deploy cowsay.wasm          # a bare WASI command, named after the file
  millrace deploy hello.wasm --name greet --namespace social

Checks manifest and wasm file here, uploads the file, puts the function in force, and waits until a host has compiled it.";

/// Deploys a function.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Deploy {
    /// A directory with a function.toml, a manifest, or a wasm file
    #[arg(default_value = ".")]
    path: PathBuf,
    /// Deploy under this name instead of the manifest's
    #[arg(long)]
    name: Option<String>,
    /// Deploy in this namespace instead of the manifest's
    #[arg(long)]
    namespace: Option<String>,
    /// Return when the function is in force, before a host has compiled it
    #[arg(long)]
    no_wait: bool,
    /// How long to wait for a host to compile it
    #[arg(long, value_name = "DURATION", default_value = "2m", value_parser = duration)]
    timeout: Duration,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    node: Connection,
}

impl Deploy {
    pub fn run(self, environment: &Environment) -> Done {
        let admin = self.node.admin(environment)?;
        let mut package = Package::read(&self.path)?;
        if let Some(name) = self.name {
            package.spec.name = name;
        }
        if let Some(namespace) = self.namespace {
            package.spec.namespace = namespace;
        }
        interrupt::flag();
        let spinner = spinner();
        spinner.set_message(format!("uploading {} bytes", package.wasm.len()));
        let mut state = package.deploy(&admin)?;
        if !self.no_wait {
            state = wait_until_ready(&admin, &state.spec, self.timeout, |state| {
                spinner.set_message(format!("{}, on {} hosts", state.state, state.hosts));
            })?;
        }
        spinner.finish_and_clear();
        self.output.print(&state, show);
        Ok(Exit::Ok)
    }
}
