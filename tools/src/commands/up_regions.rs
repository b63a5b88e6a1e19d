//! `millrace up --regions N`: a whole platform per region, each in a network namespace of its own.

use super::up::Up;
use crate::children::{Child, ending};
use crate::exit::{Done, Exit, Failure};
use crate::interrupt;
use crate::output::pairs;
use crate::regions::netns::{self, Namespaces, REGIONS_MAX, Wan};
use crate::regions::{Region, Regions};
use crate::settings::{ADMIN_PORT, TCP_PORT};
use crate::times::duration;
use driver::notes::say;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// How long all regions together may take until they serve.
const START_TIME: Duration = Duration::from_secs(180);
/// Between two looks at the children.
const LOOK: Duration = Duration::from_millis(100);
/// What a region gets beyond its own drain before it is killed.
const KILL_AFTER: Duration = Duration::from_secs(15);

/// Regions of one machine.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Regions")]
pub struct RegionsArguments {
    /// Run so many whole platforms, each in a network namespace of its own, which pull each other's calls; as root
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(2..=REGIONS_MAX as i64))]
    pub regions: Option<u16>,
    /// Delay of packets between regions, each way; needs the kernel's netem
    #[arg(long, value_name = "DURATION", value_parser = duration, requires = "regions")]
    pub wan_delay: Option<Duration>,
    /// Percent of packets between regions that are lost; needs the kernel's netem
    #[arg(long, value_name = "PERCENT", value_parser = percent, requires = "regions")]
    pub wan_loss: Option<f64>,
    /// Run no Global Traffic Conductor: regions pull by the matrix they have
    #[arg(long, requires = "regions")]
    pub no_conductor: bool,
}

fn percent(text: &str) -> Result<f64, String> {
    let percent =
        text.trim_end_matches('%').parse::<f64>().ok().filter(|percent| (0.0..=100.0).contains(percent));
    percent.ok_or_else(|| "write a number from 0 to 100".into())
}

/// What runs.
struct World<'a> {
    data_dir: &'a Path,
    executable: PathBuf,
    up: &'a Up,
    namespaces: Namespaces,
    regions: Vec<Region>,
}

/// Starts all regions and keeps them running until Ctrl-C.
///
/// # Errors
/// No privilege, or a region that does not start.
pub fn run(up: &Up, data_dir: &Path, count: u16) -> Done {
    let executable = std::env::current_exe()
        .map_err(|error| Failure::new(Exit::Machine, "cannot find this program", error.to_string(), ""))?;
    std::fs::create_dir_all(data_dir)
        .map_err(|error| Failure::file("make the directory", data_dir, &error))?;
    let data_dir =
        &data_dir.canonicalize().map_err(|error| Failure::file("find the directory", data_dir, &error))?;
    interrupt::flag();
    let names: Vec<String> = (b'a'..).take(count.into()).map(|name| char::from(name).to_string()).collect();
    let wan = Wan {
        delay: up.regions.wan_delay.unwrap_or_default(),
        loss_percent: up.regions.wan_loss.unwrap_or_default(),
    };
    let namespaces = Namespaces::make(&names, wan)?;
    let region = |(at, name): (usize, &String)| Region {
        name: name.clone(),
        data_dir: data_dir.join(name),
        namespace: namespaces.name(at),
        admin: format!("http://{}:{ADMIN_PORT}", namespaces.admin_address(at)),
        endpoint: format!("tcp:{}:{TCP_PORT}", namespaces.wan_address(at)),
    };
    let regions = names.iter().enumerate().map(region).collect();
    World { data_dir, executable, up, namespaces, regions }.run()
}

impl World<'_> {
    fn run(self) -> Done {
        let mut children = Vec::new();
        for at in 0..self.regions.len() {
            children.push(Child::start("region", self.region(at))?);
        }
        let served = self.until_serving(&mut children).and_then(|()| self.watch(&mut children));
        Regions::remove(self.data_dir);
        // All at once: each waits for its own calls, and none for another's.
        children.iter().for_each(|child| child.signal(nix::sys::signal::Signal::SIGTERM));
        for child in &mut children {
            child.end(self.up.drain() + KILL_AFTER);
        }
        served.map(|()| Exit::Ok)
    }

    fn region(&self, at: usize) -> Command {
        let region = &self.regions[at];
        let mut command = netns::inside(&region.namespace, &self.executable);
        command.args(["up", "--data-dir"]).arg(&region.data_dir);
        command.args(["--listen", region.endpoint.trim_start_matches("tcp:")]);
        command.args(["--admin", region.admin.trim_start_matches("http://")]);
        command.args(["--region", &region.name]);
        for peer in self.regions.iter().filter(|peer| peer.name != region.name) {
            command.arg("--peer").arg(format!("{}={}", peer.name, peer.endpoint));
        }
        command.args(self.up.passed_on());
        command
    }

    fn conductor(&self) -> Command {
        let mut command = Command::new(&self.executable);
        command.args(["gtc", "conduct", "--data-dir"]).arg(self.data_dir);
        command
    }

    fn until_serving(&self, children: &mut [Child]) -> Result<(), Failure> {
        let until = Instant::now() + START_TIME;
        for (region, child) in self.regions.iter().zip(children) {
            while !region.data_dir.join("run/up.json").exists()
                || region.admin()?.get::<serde_json::Value>("/v1/region").is_err()
            {
                if let Some(status) = child.ended() {
                    let what = format!("region {} ended at its start ({})", region.name, ending(status));
                    return Err(Failure::new(Exit::Machine, what, &region.name, "look at its output above"));
                }
                if interrupt::is_asked() {
                    return Err(interrupt::failure("millrace up"));
                }
                if Instant::now() >= until {
                    let what = format!("region {} does not serve yet", region.name);
                    return Err(Failure::new(Exit::TimedOut, what, &region.name, "look at its output above"));
                }
                std::thread::sleep(LOOK);
            }
        }
        Ok(())
    }

    /// Keeps all running until Ctrl-C; a region that was failed on purpose stays dead until it is healed.
    fn watch(&self, children: &mut [Child]) -> Result<(), Failure> {
        let mut conductor = match self.up.regions.no_conductor {
            true => None,
            // After the list of regions, from which it takes them.
            false => {
                self.write(None)?;
                Some(Child::start("conductor", self.conductor())?)
            }
        };
        self.write(conductor.as_ref())?;
        self.announce();
        while !interrupt::is_asked() {
            std::thread::sleep(LOOK);
            for (region, child) in self.regions.iter().zip(&mut *children) {
                if let Some(status) = child.ended() {
                    say(format_args!("millrace up: region {} ended ({})", region.name, ending(status)));
                }
                if !region.is_failed() {
                    child.restart()?;
                }
            }
            if let Some(conductor) = &mut conductor {
                if let Some(status) = conductor.ended() {
                    say(format_args!("millrace up: the conductor died ({}); regions go on", ending(status)));
                }
                if conductor.restart()? {
                    self.write(Some(conductor))?;
                }
            }
        }
        if let Some(mut conductor) = conductor {
            conductor.end(LOOK);
        }
        Ok(())
    }

    fn write(&self, conductor: Option<&Child>) -> Result<(), Failure> {
        let regions = Regions {
            pid: std::process::id(),
            wan: self.namespaces.wan.clone(),
            conductor: conductor.and_then(Child::pid),
            regions: self.regions.clone(),
        };
        regions.write(self.data_dir)
    }

    fn announce(&self) {
        let mut rows = vec![("between regions".to_owned(), self.namespaces.wan.clone())];
        let conductor = if self.up.regions.no_conductor { "none" } else { "runs, off the path" };
        rows.push(("conductor".into(), conductor.into()));
        rows.extend(self.regions.iter().map(|region| {
            let at =
                format!("{} in namespace {}, admin API {}", region.endpoint, region.namespace, region.admin);
            (format!("region {}", region.name), at)
        }));
        let text = format!("millrace is ready: {} regions\n{}\n", self.regions.len(), pairs(rows));
        // Nobody may be reading; the regions serve all the same.
        let _ = std::io::stdout().write_all(text.as_bytes());
    }
}
