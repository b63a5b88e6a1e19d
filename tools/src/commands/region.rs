//! `millrace region`

use crate::exit::{Done, Exit, Failure};
use crate::output::{Output, table};
use crate::regions::{Region as Place, Regions, netns};
use crate::settings::Environment;
use ::call::admin::RegionState;
use nix::sys::signal::{Signal, kill};
use serde::Serialize;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  millrace region list
  millrace region drain b              # runs nothing itself; the others take what waits
  millrace region resume b
  millrace region fail b               # SIGKILL of all its processes; it stays dead
  millrace region fail b --cut         # lives on, but no other region reaches it
  millrace region heal b               # runs, and is linked, again

For the regions that `millrace up --regions` runs on this machine. Calls that were accepted are in their region's log:
they run when it returns, or elsewhere when their lease has ended.";

/// Looks at regions, drains one, or makes one fail.
#[derive(clap::Subcommand, Debug)]
#[command(after_help = EXAMPLES)]
pub enum Region {
    /// All regions: demand, supply, links
    List {
        #[command(flatten)]
        output: Output,
        #[command(flatten)]
        site: Site,
    },
    /// Run nothing on a region's own cores any more; other regions pull what waits
    Drain(Named),
    /// Run calls on a region's own cores again
    Resume(Named),
    /// Kill a region, or cut it off from the others; for trials
    Fail {
        /// Leave it alive, and cut it off
        #[arg(long)]
        cut: bool,
        #[command(flatten)]
        named: Named,
    },
    /// Start a region that was failed, and link it again
    Heal(Named),
}

/// Where the regions are.
#[derive(clap::Args, Clone, Debug)]
pub struct Site {
    /// Data directory of `millrace up --regions` [default: $MILLRACE_DATA, ./millrace-data]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
}

impl Site {
    /// Its regions.
    ///
    /// # Errors
    /// There are none.
    pub fn regions(&self, environment: &Environment) -> Result<Regions, Failure> {
        Regions::read(&environment.data_dir(self.data_dir.as_deref()))
    }
}

/// One region.
#[derive(clap::Args, Debug)]
pub struct Named {
    /// Its name
    region: String,
    #[command(flatten)]
    site: Site,
}

impl Named {
    fn find(&self, environment: &Environment) -> Result<Place, Failure> {
        self.site.regions(environment)?.named(&self.region).cloned()
    }
}

/// A row of the list.
#[derive(Serialize)]
struct Row {
    #[serde(flatten)]
    place: Place,
    /// `live`, `drained`, `cut`, `failed` or `unreachable`.
    state: &'static str,
    /// What is between the regions.
    wan: String,
    /// As the region says, if it can be asked.
    said: Option<RegionState>,
}

impl Region {
    pub fn run(self, environment: &Environment) -> Done {
        match self {
            Region::List { output, site } => {
                let regions = site.regions(environment)?;
                let rows: Vec<Row> = regions.regions.iter().map(|place| row(place, &regions.wan)).collect();
                output.print(&rows[..], show);
            }
            Region::Drain(named) => order(&named.find(environment)?, "drain")?,
            Region::Resume(named) => order(&named.find(environment)?, "resume")?,
            Region::Fail { cut: true, named } => netns::set_cut(&named.find(environment)?.namespace, true)?,
            Region::Fail { cut: false, named } => end(&named.find(environment)?)?,
            Region::Heal(named) => {
                let place = named.find(environment)?;
                netns::set_cut(&place.namespace, false)?;
                place.set_failed(false)?;
            }
        }
        Ok(Exit::Ok)
    }
}

fn order(place: &Place, what: &str) -> Result<(), Failure> {
    place.admin()?.post::<RegionState>(&format!("/v1/region/{what}")).map(drop)
}

/// All its processes, without a word to any. The mark first: nobody may start it again in between.
fn end(place: &Place) -> Result<(), Failure> {
    place.set_failed(true)?;
    for pid in netns::processes(&place.namespace)? {
        // One that has ended meanwhile is what was wanted.
        let _ = kill(pid, Signal::SIGKILL);
    }
    Ok(())
}

fn row(place: &Place, wan: &str) -> Row {
    let said = place.admin().and_then(|admin| admin.get::<RegionState>("/v1/region")).ok();
    let state = match &said {
        _ if place.is_failed() => "failed",
        None => "unreachable",
        _ if netns::is_cut(&place.namespace) => "cut",
        Some(said) if said.drained => "drained",
        Some(_) => "live",
    };
    Row { place: place.clone(), state, wan: wan.into(), said }
}

fn show(rows: &[Row]) -> String {
    let line = |row: &Row| {
        let said = |of: fn(&RegionState) -> String| row.said.as_ref().map_or("-".to_owned(), of);
        let up = |said: &RegionState| {
            let up = said.links.iter().filter(|link| link.state == "up").count();
            format!("{up}/{}", said.links.len())
        };
        [
            row.place.name.clone(),
            row.state.to_owned(),
            said(|said| said.waiting.to_string()),
            said(|said| format!("{}/{}", said.free, said.slots)),
            said(|said| said.pulled.to_string()),
            said(|said| said.pulled_ended.to_string()),
            said(|said| said.lent.to_string()),
            said(up),
            said(|said| said.matrix.version.to_string()),
        ]
    };
    let wan = rows.first().map_or(String::new(), |row| format!("\nbetween regions: {}", row.wan));
    let headings =
        ["region", "state", "waiting", "free/slots", "pulled", "ended here", "lent", "links", "matrix"];
    table(headings, rows.iter().map(line)) + &wan
}
