//! `millrace completions`

use super::Cli;
use crate::exit::{Done, Exit};
use clap::CommandFactory;
use clap_complete::Shell;
use std::io;

const EXAMPLES: &str = "\
Examples:
  millrace completions bash > /etc/bash_completion.d/millrace
  millrace completions zsh > ~/.zfunc/_millrace
  millrace completions fish > ~/.config/fish/completions/millrace.fish";

/// Prints completions.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Completions {
    /// Which shell
    shell: Shell,
}

impl Completions {
    pub fn run(self) -> Done {
        clap_complete::generate(self.shell, &mut Cli::command(), "millrace", &mut io::stdout());
        Ok(Exit::Ok)
    }
}
