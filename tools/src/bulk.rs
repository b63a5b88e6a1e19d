//! Orders about many calls: what is meant is counted first, a person is asked, and the work is shown while it is done.

use crate::admin::{Admin, query};
use crate::asked::Asked;
use crate::exit::{Done, Exit, Failure};
use crate::interrupt;
use crate::settings::Environment;
use crate::shards::Each;
use call::admin::{CallPage, CallState, Ordered};
use call::filter::Filter;
use std::io::{self, BufRead, IsTerminal, Write};
use std::time::{Duration, Instant};

/// Calls that the node looks at between two words about progress: a fraction of a second.
const EXAMINE: u64 = 1 << 18;
/// Calls of one page; the node gives no more.
const PAGE: u32 = 1000;
/// Between two words about progress.
const PROGRESS: Duration = Duration::from_millis(500);
/// And where they go into a file or a pipe.
const PROGRESS_OF_A_LOG: Duration = Duration::from_secs(5);

/// `--where`.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct Where {
    /// Only calls that this filter means: 'function=thumb* and age>1h and error~timeout'
    ///
    /// Fields: id, function, namespace, tenant, state, criticality, age, attempts, start, deadline, bytes, key, error,
    /// reason, status. Comparisons: = != < <= > >=, and ~ for "contains"; `*` and `?` stand for any text and any
    /// character. Join with and, or, not, ( ). Durations are like 90s or 1h30m, sizes like 64KiB, times like
    /// 2026-11-21T08:30:00Z, now, +10m, -1h; quote what has blanks: 'reason="exit: no file"'.
    #[arg(long = "where", value_name = "FILTER", verbatim_doc_comment)]
    pub filter: Option<String>,
}

impl Where {
    /// The filter, looked at before anything is asked of a node.
    ///
    /// # Errors
    /// If it is none.
    pub fn checked(&self) -> Result<Option<&str>, Failure> {
        let Some(text) = self.filter.as_deref() else { return Ok(None) };
        match Filter::parse(text) {
            Ok(_) => Ok(Some(text)),
            Err(error) => {
                let place = format!("--where, character {}", error.column);
                Err(Failure::new(Exit::Usage, error.what, place, error.remedy))
            }
        }
    }

    /// The filter, and what else must hold.
    ///
    /// # Errors
    /// As [`Where::checked`].
    pub fn and(&self, also: &str) -> Result<String, Failure> {
        Ok(self.checked()?.map_or_else(|| also.to_owned(), |filter| format!("{also} and ({filter})")))
    }
}

/// How an order in bulk is given.
#[derive(clap::Args, Clone, Copy, Debug, Default)]
pub struct Consent {
    /// Only say how many calls are meant
    #[arg(long)]
    pub dry_run: bool,
    /// Do it without asking
    #[arg(long, short = 'y')]
    pub yes: bool,
}

/// The options of an order in bulk.
#[derive(clap::Args, Clone, Debug)]
pub struct Bulk {
    /// What it is done to.
    #[command(flatten)]
    pub which: Where,
    /// Whether somebody agreed.
    #[command(flatten)]
    pub consent: Consent,
    /// Where, and how the answer is printed.
    #[command(flatten)]
    pub asked: Asked,
}

/// What is done, and how it is said.
#[derive(Clone, Copy, Debug)]
pub struct Act {
    /// The route: `/v1/dead-letters/redrive`.
    pub path: &'static str,
    /// `redrive`
    pub verb: &'static str,
    /// `redriven`
    pub done: &'static str,
}

/// Does it to all calls that `which` (a part of a query) means, at each shard: counts them, asks, and does it.
///
/// # Errors
/// Those of the API; if nobody can be asked and nobody said yes.
pub fn order(asked: &Asked, environment: &Environment, act: Act, which: &str, consent: Consent) -> Done {
    let output = &asked.output;
    let each = |dry_run| asked.each(environment, |admin| all(admin, act, which, dry_run));
    let tries = each(true)?;
    let tried = sum(&tries);
    note_unknown(tried.unknown);
    if consent.dry_run {
        output.print(&tried, |tried| format!("{} calls would be {}", tried.matched, act.done));
        return tries.end();
    }
    if tried.matched > 0 && !consent.yes && !agreed(act, tried.matched)? {
        eprintln!("millrace: nothing was changed");
        return Ok(Exit::Ok);
    }
    let ends = if tried.matched == 0 { tries } else { each(false)? };
    output.print(&sum(&ends), |done| {
        let left = done.matched - done.count.min(done.matched);
        let left = if left == 0 { String::new() } else { format!(", {left} could not be") };
        format!("{} calls {}{left}", done.count, act.done)
    });
    ends.end()
}

fn sum(each: &Each<Ordered>) -> Ordered {
    each.said.iter().fold(Ordered::default(), |sum, part| Ordered {
        count: sum.count + part.count,
        matched: sum.matched + part.matched,
        examined: sum.examined + part.examined,
        unknown: sum.unknown + part.unknown,
        of: sum.of + part.of,
        next: None,
    })
}

/// The page of all shards: the first of their calls by start time, up to `limit`.
pub fn page(each: &mut Each<CallPage>, limit: u32) -> CallPage {
    let mut pages = std::mem::take(&mut each.said);
    if !each.is_divided {
        return pages.pop().expect("it answered");
    }
    let mut whole = CallPage::default();
    for page in pages {
        whole.calls.extend(page.calls);
        whole.matched += page.matched;
        whole.examined += page.examined;
        whole.unknown += page.unknown;
    }
    first(&mut whole.calls, limit);
    whole
}

/// The list of all shards: the first of their calls by start time, up to `limit`.
pub fn list(each: &mut Each<Vec<CallState>>, limit: u32) -> Vec<CallState> {
    let mut calls = each.said.drain(..).flatten().collect();
    if each.is_divided {
        first(&mut calls, limit);
    }
    calls
}

/// Leaves the first calls by start time.
fn first(calls: &mut Vec<CallState>, limit: u32) {
    calls.sort_by(|a, b| (a.start_at, &a.call).cmp(&(b.start_at, &b.call)));
    calls.truncate(limit as usize);
}

/// Whether whoever sits there agrees.
fn agreed(act: Act, calls: u64) -> Result<bool, Failure> {
    if !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
        let what = format!("{calls} calls would be {}, and nobody is there to be asked", act.done);
        return Err(Failure::new(Exit::Usage, what, act.verb, "look with --dry-run, then say --yes"));
    }
    eprint!("{} {calls} calls? [y/N] ", act.verb);
    let _ = io::stderr().flush();
    let mut line = String::new();
    let read = io::stdin().lock().read_line(&mut line);
    Ok(read.is_ok() && matches!(line.trim(), "y" | "Y" | "yes"))
}

/// Goes over all calls, step by step.
fn all(admin: &Admin, act: Act, which: &str, dry_run: bool) -> Result<Ordered, Failure> {
    interrupt::flag();
    let mut progress = Progress::new();
    let mut sum = Ordered { next: Some(0), ..Ordered::default() };
    while let Some(from) = sum.next {
        let path = format!("{}?{which}&dry_run={dry_run}&from={from}&examine={EXAMINE}", act.path);
        let part: Ordered = admin.post(&path)?;
        sum = Ordered {
            count: sum.count + part.count,
            matched: sum.matched + part.matched,
            examined: sum.examined + part.examined,
            unknown: sum.unknown + part.unknown,
            ..part
        };
        let (verb, count) = if dry_run { ("meant", sum.matched) } else { (act.done, sum.count) };
        progress
            .say(|| format!("{count} {verb}, {} of about {} looked at", sum.next.unwrap_or(sum.of), sum.of));
        if interrupt::is_asked() && sum.next.is_some() {
            drop(progress);
            let done = if dry_run { 0 } else { sum.count };
            let what = format!("interrupted when {done} calls were {}", act.done);
            return Err(Failure::new(
                Exit::Interrupted,
                what,
                act.verb,
                "the same command goes on with the rest",
            ));
        }
    }
    Ok(sum)
}

/// Looks for calls, page by page, up to `limit`.
///
/// # Errors
/// Those of the API.
pub fn find(admin: &Admin, filter: &str, limit: u32) -> Result<CallPage, Failure> {
    let mut whole = CallPage::default();
    let mut after = String::new();
    loop {
        let left = limit - whole.calls.len() as u32;
        let path = format!("/v1/calls?where={}&limit={}{after}", query(filter), left.min(PAGE));
        let page: CallPage = admin.get(&path)?;
        whole.calls.extend(page.calls);
        whole = CallPage { calls: whole.calls, ..CallPage { calls: Vec::new(), ..page } };
        match &whole.next {
            Some(next) if (whole.calls.len() as u32) < limit => after = format!("&after={}", query(next)),
            _ => break,
        }
    }
    note_unknown(whole.unknown);
    let shown = whole.calls.len() as u64;
    if shown < whole.matched && whole.next.is_some() {
        eprintln!("millrace: {shown} of {} calls are shown; --limit shows more", whole.matched);
    }
    Ok(whole)
}

/// What was left out is said.
fn note_unknown(calls: u64) {
    if calls > 0 {
        eprintln!(
            "millrace: {calls} calls could not be judged: their records could not be read; see the node's output"
        );
    }
}

/// Says how far a long work is: by a line on a terminal, wiped at its end; seldom, by lines, where none reads along.
#[derive(Debug)]
pub struct Progress {
    said_at: Instant,
    is_shown: bool,
    is_terminal: bool,
}

impl Progress {
    /// Says nothing yet.
    pub fn new() -> Progress {
        Progress { said_at: Instant::now(), is_shown: false, is_terminal: io::stderr().is_terminal() }
    }

    /// Says it, if the last word is some time ago.
    pub fn say(&mut self, line: impl FnOnce() -> String) {
        let pause = if self.is_terminal { PROGRESS } else { PROGRESS_OF_A_LOG };
        if self.said_at.elapsed() < pause {
            return;
        }
        self.said_at = Instant::now();
        if self.is_terminal {
            eprint!("\r\x1b[K{}", line());
            self.is_shown = true;
        } else {
            eprintln!("millrace: {}", line());
        }
    }
}

impl Default for Progress {
    fn default() -> Progress {
        Progress::new()
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.is_shown {
            eprint!("\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_looked_at_before_a_node_is_asked() {
        let typed = |text: &str| Where { filter: Some(text.into()) };
        let failure = typed("age>1h adn state=dead").checked().unwrap_err();
        assert_eq!((failure.exit, failure.place.as_str()), (Exit::Usage, "--where, character 8"));
        assert_eq!(typed("age>1h or age<1s").and("state=dead").unwrap(), "state=dead and (age>1h or age<1s)");
        assert_eq!(Where::default().and("state=dead").unwrap(), "state=dead");
    }
}
