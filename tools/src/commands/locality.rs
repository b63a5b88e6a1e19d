//! `millrace locality`

use crate::exit::Done;
use crate::output::{Output, table};
use crate::settings::{Connection, Environment};
use crate::shards::{Each, Of};
use ::call::admin::LocalityState;

/// Looks at which functions run where.
#[derive(clap::Subcommand, Debug)]
pub enum Locality {
    /// Show locality groups: their functions and their cores
    #[command(after_help = "Examples:\n  millrace locality show\n  millrace locality show -o json\n\n\
        Calls of a group go to its cores first, and elsewhere if none of them has a free slot. Groups that function.toml\n\
        names win: the optimizer keeps their functions together. Group 0 are functions that run on every core, and\n\
        cores that run every function; on few cores that is all (`millrace up --group-cores`).")]
    Show {
        #[command(flatten)]
        output: Output,
        #[command(flatten)]
        node: Connection,
    },
}

impl Locality {
    pub fn run(self, environment: &Environment) -> Done {
        let Locality::Show { output, node } = self;
        let mut each = Each::ask(&node, environment, |admin| admin.get::<LocalityState>("/v1/locality"))?;
        match &each.take()[..] {
            [Of { shard: None, said }] => output.print(said, show),
            shards => output.print(shards, |shards| {
                let part = |of: &Of<LocalityState>| {
                    let shard = of.shard.map_or("-".into(), |shard| shard.to_string());
                    format!("shard {shard}\n{}", show(&of.said).trim_end())
                };
                shards.iter().map(part).collect::<Vec<_>>().join("\n\n")
            }),
        }
        each.end()
    }
}

/// The groups of one node: cores of a shard are in groups of their own.
fn show(state: &LocalityState) -> String {
    let rows = state.groups.iter().map(|group| {
        let source = match group.named.is_empty() {
            true => group.source.clone(),
            false if group.source == "function.toml" => {
                format!("function.toml: {}", group.named.join(", "))
            }
            false => format!("{}; function.toml: {}", group.source, group.named.join(", ")),
        };
        [group.group.to_string(), source, group.functions.join(", "), group.cores.join(", ")]
    });
    let table = table(["group", "source", "functions", "cores"], rows);
    if state.divided {
        table
    } else {
        format!("{table}\nThe cores are not divided into groups: each runs every function.")
    }
}
