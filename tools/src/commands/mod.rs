//! The commands, one a file: arguments, and what they do.

mod arguments;
mod up;
mod up_regions;
mod up_shards;
mod control;
mod worker;
mod core;
mod jailer;
mod init;
mod deploy;
mod function;
mod submit;
mod call;
mod calls;
mod queue;
mod dlq;
mod blobs;
mod logs;
mod log;
mod backup;
mod restore;
mod usage;
mod quota;
mod downstream;
mod locality;
mod explain;
mod controllers;
mod workers;
mod region;
mod shard;
mod gtc;
mod status;
mod doctor;
mod load;
mod replay;
mod demo;
mod simulate;
mod completions;
mod man;

use crate::exit::{Done, Exit};
use crate::settings::Environment;
use clap::{Parser, Subcommand};

/// The command line.
#[derive(Parser, Debug)]
#[command(
    name = "millrace",
    version,
    about = "Runs delay-tolerant function calls: a durable queue, a scheduler, and workers that own their CPUs.",
    long_about = None,
    after_help = Exit::table(),
    arg_required_else_help = true,
    max_term_width = 110
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What `millrace` can do.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Start a node and a worker on this host, and keep them running
    Up(up::Up),
    /// Run a control node: the durable queue, the scheduler, the admin API
    Control(control::Control),
    /// Run the worker of this host: one process per core, and a supervisor
    Worker(worker::Worker),
    /// Run one core of a worker; started by `worker`
    #[command(hide = true)]
    Core(core::Core),
    /// Make the sandboxes of process functions; started by `worker`
    #[command(hide = true)]
    Jailer(jailer::Jailer),
    /// Make the source of a new function
    Init(init::Init),
    /// Deploy a function
    Deploy(deploy::Deploy),
    /// Look at functions, or delete one
    #[command(subcommand)]
    Function(function::Function),
    /// Submit calls: one, or one for each line of a file
    Submit(submit::Submit),
    /// Submit a call and wait for its result
    Call(call::Call),
    /// Look at calls, cancel them, or run them again
    #[command(subcommand)]
    Calls(calls::Calls),
    /// Look at queues, hold them, or wait until one is empty
    #[command(subcommand)]
    Queue(queue::Queue),
    /// Look at dead letters, run them again, or forget them
    #[command(subcommand)]
    Dlq(dlq::Dlq),
    /// Store large arguments, or remove those that no call names
    #[command(subcommand)]
    Blobs(blobs::Blobs),
    /// Show what calls of a function wrote to stdout and stderr
    Logs(logs::Logs),
    /// Look into the durable queue's log, offline
    #[command(subcommand)]
    Log(log::Log),
    /// Copy the data directory of a node that serves
    Backup(backup::Backup),
    /// Make a data directory of a backup, or check one
    Restore(restore::Restore),
    /// Show what functions and tenants used: CPU, memory, network, calls
    Usage(usage::Usage),
    /// Look at quotas and what holds functions back, or set quotas and weights
    #[command(subcommand)]
    Quota(quota::Quota),
    /// Look at services behind functions and their back-pressure, or set thresholds
    #[command(subcommand)]
    Downstream(downstream::Downstream),
    /// Look at which functions run where
    #[command(subcommand)]
    Locality(locality::Locality),
    /// Say why a call is still waiting: which rule, since when, what would free it
    Explain(explain::Explain),
    /// Run the controllers of a node; started by `up`
    Controllers(controllers::Controllers),
    /// List worker cores
    Workers(workers::Workers),
    /// Look at the regions of this machine, drain one, or make one fail
    #[command(subcommand)]
    Region(region::Region),
    /// Look at the shards of a node, add some, or take one away
    #[command(subcommand)]
    Shard(shard::Shard),
    /// Show or set who pulls how much from whom: the Global Traffic Conductor
    #[command(subcommand)]
    Gtc(gtc::GtcCommand),
    /// Show the node's counters, latencies and backends
    Status(status::Status),
    /// Check what this machine offers: kernel features, limits, privileges
    Doctor(doctor::Doctor),
    /// Send calls at a rate and measure latencies, free of coordinated omission
    Load(load::Load),
    /// Replay a trace of a real platform
    Replay(replay::Replay),
    /// Replay eight real hours in a minute, with two kills, and report
    Demo(demo::Demo),
    /// Run the whole platform in simulation, from one seed
    Simulate(simulate::Simulate),
    /// Print the completions of a shell
    Completions(completions::Completions),
    /// Print the manual pages, or write them to a directory
    Man(man::Man),
}

impl Command {
    /// Whether it is one of those that look into hundreds of MiB all the time.
    pub fn has_large_tables(&self) -> bool {
        matches!(self, Command::Control(_))
    }

    /// Does it.
    ///
    /// # Errors
    /// What, where, and what to do.
    pub fn run(self, environment: &Environment) -> Done {
        match self {
            Command::Up(command) => command.run(environment),
            Command::Control(command) => command.run(environment),
            Command::Worker(command) => command.run(environment),
            Command::Core(command) => command.run(environment),
            Command::Jailer(command) => command.run(environment),
            Command::Init(command) => command.run(),
            Command::Deploy(command) => command.run(environment),
            Command::Function(command) => command.run(environment),
            Command::Submit(command) => command.run(environment),
            Command::Call(command) => command.run(environment),
            Command::Calls(command) => command.run(environment),
            Command::Queue(command) => command.run(environment),
            Command::Dlq(command) => command.run(environment),
            Command::Blobs(command) => command.run(environment),
            Command::Logs(command) => command.run(environment),
            Command::Log(command) => command.run(environment),
            Command::Backup(command) => command.run(environment),
            Command::Restore(command) => command.run(),
            Command::Usage(command) => command.run(environment),
            Command::Quota(command) => command.run(environment),
            Command::Downstream(command) => command.run(environment),
            Command::Locality(command) => command.run(environment),
            Command::Explain(command) => command.run(environment),
            Command::Controllers(command) => command.run(environment),
            Command::Workers(command) => command.run(environment),
            Command::Region(command) => command.run(environment),
            Command::Shard(command) => command.run(environment),
            Command::Gtc(command) => command.run(environment),
            Command::Status(command) => command.run(environment),
            Command::Doctor(command) => command.run(environment),
            Command::Load(command) => command.run(environment),
            Command::Replay(command) => command.run(environment),
            Command::Demo(command) => command.run(),
            Command::Simulate(command) => command.run(),
            Command::Completions(command) => command.run(),
            Command::Man(command) => command.run(),
        }
    }
}
