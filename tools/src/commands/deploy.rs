//! `millrace deploy`

use super::arguments::spinner;
use super::function::show;
use crate::deployment::{Code, Package, wait_until_ready};
use crate::exit::{Done, Exit, Failure};
use crate::interrupt;
use crate::output::{Output, table};
use crate::settings::{Connection, Environment, Reached};
use crate::times::duration;
use ::call::FunctionSpec;
use serde::Serialize;
use std::path::PathBuf;
use std::time::Duration;
use worker::bundle::Item;

const EXAMPLES: &str = "\
Examples:
  millrace deploy                      # the function in this directory
  millrace deploy functions/thumbnail
  millrace deploy cowsay.wasm          # a bare WASI command, named after the file
  millrace deploy hello.wasm --name greet --namespace social
  millrace deploy --dry-run            # check everything and show what would be uploaded

Checks manifest and wasm file or bundle here, uploads it, puts the function in force, and waits until a host has compiled
or unpacked it.";

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
    /// Check everything and show what would be deployed; ask no node
    #[arg(long)]
    dry_run: bool,
    /// Return when the function is in force, before a host has compiled or unpacked it
    #[arg(long)]
    no_wait: bool,
    /// How long to wait for a host to compile or unpack it
    #[arg(long, value_name = "DURATION", default_value = "2m", value_parser = duration)]
    timeout: Duration,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    node: Connection,
}

impl Deploy {
    pub fn run(self, environment: &Environment) -> Done {
        let mut package = Package::read(&self.path)?;
        if let Some(name) = &self.name {
            package.spec.name = name.clone();
        }
        if let Some(namespace) = &self.namespace {
            package.spec.namespace = namespace.clone();
        }
        if self.dry_run {
            self.output.print(&Plan::of(&package), Plan::show);
            return Ok(Exit::Ok);
        }
        let (kind, places) = self.node.everyone(environment)?;
        if !places.is_empty() {
            return self.deploy_everywhere(&package, kind, places);
        }
        let admin = self.node.admin(environment)?;
        interrupt::flag();
        let spinner = spinner();
        spinner.set_message(format!("uploading {} bytes", package.artefact.len()));
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

impl Deploy {
    /// To all regions or shards: a call may run in each. Those that have it keep it when another cannot be reached.
    fn deploy_everywhere(&self, package: &Package, kind: &str, places: Vec<(String, Reached)>) -> Done {
        interrupt::flag();
        let all = places.len();
        let (mut states, mut missed) = (Vec::new(), Vec::new());
        for (name, admin) in places {
            let deployed = admin.and_then(|admin| {
                let state = package.deploy(&admin)?;
                match self.no_wait {
                    true => Ok(state),
                    false => wait_until_ready(&admin, &state.spec, self.timeout, |_| {}),
                }
            });
            match deployed {
                Ok(state) => states.push(state),
                Err(failure) if failure.exit == Exit::Connect => missed.push((name, failure)),
                Err(failure) => return Err(failure),
            }
        }
        if let Some(state) = states.first() {
            self.output.print(state, show);
        }
        let Some((_, first)) = missed.first() else { return Ok(Exit::Ok) };
        let names: Vec<&str> = missed.iter().map(|(name, _)| name.as_str()).collect();
        let what = format!("{} of {all} {kind}s have it: {}", states.len(), first.what);
        let remedy = format!("calls run in the other {kind}s; deploy again when these are back");
        Err(Failure::new(Exit::Connect, what, format!("{kind} {}", names.join(", ")), remedy))
    }
}

/// What `--dry-run` shows.
#[derive(Serialize)]
struct Plan<'a> {
    spec: &'a FunctionSpec,
    /// The bundle's, or none.
    files: Vec<Planned<'a>>,
}

/// One entry of a bundle.
#[derive(Serialize)]
struct Planned<'a> {
    path: &'a str,
    mode: &'static str,
    bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    link: Option<&'a str>,
}

impl<'a> Plan<'a> {
    fn of(package: &'a Package) -> Plan<'a> {
        let files = match &package.code {
            Code::Wasm(_) => Vec::new(),
            Code::Bundle(contents) => {
                contents.items.iter().map(|(path, item)| Planned::of(path, item)).collect()
            }
        };
        Plan { spec: &package.spec, files }
    }

    fn show(&self) -> String {
        let spec = self.spec;
        let mut text = format!(
            "{}/{} would be deployed as {} ({} bytes)\n",
            spec.namespace, spec.name, spec.artefact, spec.artefact_bytes
        );
        if !self.files.is_empty() {
            let row = |file: &Planned<'_>| {
                let path = file.link.map_or(file.path.to_owned(), |link| format!("{} -> {link}", file.path));
                [file.mode.to_owned(), file.bytes.to_string(), path]
            };
            text += &table(["mode", "bytes", "path"], self.files.iter().map(row));
        }
        text
    }
}

impl<'a> Planned<'a> {
    fn of(path: &'a str, item: &'a Item) -> Planned<'a> {
        let planned = Planned { path, mode: "0755", bytes: 0, link: None };
        match item {
            Item::Directory => planned,
            Item::File { executable: true, bytes, .. } => Planned { bytes: *bytes, ..planned },
            Item::File { bytes, .. } => Planned { mode: "0644", bytes: *bytes, ..planned },
            Item::Link(target) => Planned { mode: "link", link: Some(target), ..planned },
        }
    }
}
