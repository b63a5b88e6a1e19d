//! The options of commands that ask a node and print what it says.

use crate::admin::Admin;
use crate::exit::{Done, Exit, Failure};
use crate::output::Output;
use crate::regions::everywhere::Everywhere;
use crate::settings::{Connection, Environment};
use crate::shards::Each;
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

    /// All shards, or the one node.
    ///
    /// # Errors
    /// Those of [`Each::ask`].
    pub fn each<T>(
        &self,
        environment: &Environment,
        ask: impl Fn(&Admin) -> Result<T, Failure>,
    ) -> Result<Each<T>, Failure> {
        Each::ask(&self.node, environment, ask)
    }

    /// Orders something of all regions or shards, or the one node.
    ///
    /// # Errors
    /// Those of [`Everywhere::order`].
    pub fn everywhere<T>(
        &self,
        environment: &Environment,
        order: impl Fn(&Admin) -> Result<T, Failure>,
    ) -> Result<Everywhere<T>, Failure> {
        Everywhere::order(&self.node, environment, order)
    }

    /// Asks all shards, and prints what their answers come to.
    ///
    /// # Errors
    /// Those of `ask` and `sum`.
    pub fn print_each<T, U: Serialize>(
        &self,
        environment: &Environment,
        ask: impl Fn(&Admin) -> Result<T, Failure>,
        sum: impl Fn(&mut Each<T>) -> Result<U, Failure>,
        table: impl Fn(&U) -> String,
    ) -> Done {
        let mut each = self.each(environment, ask)?;
        self.output.print(&sum(&mut each)?, table);
        each.end()
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
    /// As [`Asked::print_each`], once or until Ctrl-C.
    ///
    /// # Errors
    /// Those of `ask` and `sum`.
    pub fn each<T, U: Serialize>(
        &self,
        environment: &Environment,
        ask: impl Fn(&Admin) -> Result<T, Failure>,
        sum: impl Fn(&mut Each<T>) -> Result<U, Failure>,
        table: impl Fn(&U) -> String,
    ) -> Done {
        self.watch.run(|| self.asked.print_each(environment, &ask, &sum, &table))
    }

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
