//! `--watch`: the same look, again and again.

use crate::exit::{Done, Exit};
use crate::interrupt;
use crate::times::duration;
use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

/// Ctrl-C is heard within this.
const HEAR: Duration = Duration::from_millis(50);

/// The option.
#[derive(clap::Args, Clone, Copy, Debug, Default)]
pub struct Watch {
    /// Look again every 2 s, or as often as is said, until Ctrl-C
    #[arg(long, value_name = "INTERVAL", num_args = 0..=1, require_equals = true, default_missing_value = "2s",
        value_parser = duration)]
    pub watch: Option<Duration>,
}

impl Watch {
    /// Looks once, or until Ctrl-C, which is the good end of it.
    ///
    /// # Errors
    /// Those of `look`.
    pub fn run(self, mut look: impl FnMut() -> Done) -> Done {
        let Some(interval) = self.watch else { return look() };
        interrupt::flag();
        loop {
            if io::stdout().is_terminal() {
                print!("\x1b[H\x1b[2J");
            }
            look()?;
            let until = Instant::now() + interval;
            while Instant::now() < until && !interrupt::is_asked() {
                std::thread::sleep(HEAR.min(interval));
            }
            if interrupt::is_asked() {
                return Ok(Exit::Ok);
            }
        }
    }
}
