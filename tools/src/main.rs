//! Parses the command line, does the work, prints what went wrong.

use clap::Parser;
use driver::topology::TUNABLES;
use millrace::commands::Cli;
use millrace::pages::take_large_pages;
use millrace::settings::{DATA_VARIABLE, Environment};
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = Cli::parse();
    if cli.command.has_large_tables() {
        take_large_pages(std::env::args_os(), std::env::var_os(TUNABLES));
    }
    let environment = Environment { data_dir: std::env::var_os(DATA_VARIABLE).map(Into::into) };
    match cli.command.run(&environment) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            eprintln!("{failure}");
            failure.exit.into()
        }
    }
}
