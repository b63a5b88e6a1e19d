//! The options of commands that ask a node and print what it says.

use crate::admin::Admin;
use crate::exit::{Done, Exit, Failure};
use crate::output::Output;
use crate::settings::{Connection, Environment};
use crate::watch::Watch;
use serde::Serialize;

/// Which node is asked, and how its answer is printed.
#[derive(clap::Args, Clone, Debug)]
pub struct Asked {
    /// How.
    #[command(flatten)]
    pub output: Output,
    #[command(flatten)]
    node: Connection,
}

impl Asked {
    /// The node's admin API.
    ///
    /// # Errors
    /// If the data directory names no node.
    pub fn admin(&self, environment: &Environment) -> Result<Admin, Failure> {
        self.node.admin(environment)
    }

    /// Asks, and prints the answer.
    ///
    /// # Errors
    /// Those of `ask`.
    pub fn print<T: Serialize>(
        &self,
        environment: &Environment,
        ask: impl FnOnce(&Admin) -> Result<T, Failure>,
        table: impl FnOnce(&T) -> String,
    ) -> Done {
        self.output.print(&ask(&self.admin(environment)?)?, table);
        Ok(Exit::Ok)
    }
}

/// A look that may be repeated.
#[derive(clap::Args, Clone, Debug)]
pub struct Look {
    #[command(flatten)]
    watch: Watch,
    #[command(flatten)]
    asked: Asked,
}

impl Look {
    /// Asks and prints the answer, once or until Ctrl-C.
    ///
    /// # Errors
    /// Those of `ask`.
    pub fn run<T: Serialize>(
        &self,
        environment: &Environment,
        ask: impl Fn(&Admin) -> Result<T, Failure>,
        table: impl Fn(&T) -> String,
    ) -> Done {
        let admin = self.asked.admin(environment)?;
        self.watch.run(|| {
            self.asked.output.print(&ask(&admin)?, &table);
            Ok(Exit::Ok)
        })
    }
}
