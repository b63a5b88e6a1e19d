//! `millrace man`

use super::Cli;
use crate::exit::{Done, Exit, Failure};
use clap::CommandFactory;
use std::io::{self, Write};
use std::path::PathBuf;

/// Prints manual pages.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  millrace man | man -l -\n  millrace man /usr/local/share/man/man1")]
pub struct Man {
    /// Write one page per command into this directory, instead of the first one to stdout
    directory: Option<PathBuf>,
}

impl Man {
    pub fn run(self) -> Done {
        match &self.directory {
            Some(directory) => {
                std::fs::create_dir_all(directory)
                    .and_then(|()| clap_mangen::generate_to(Cli::command(), directory))
                    .map_err(|error| Failure::file("write the manual pages", directory, &error))?;
            }
            None => {
                let mut page = Vec::new();
                clap_mangen::Man::new(Cli::command()).render(&mut page).expect("memory takes everything");
                // A pager that is gone has read enough.
                let _ = io::stdout().write_all(&page);
            }
        }
        Ok(Exit::Ok)
    }
}
