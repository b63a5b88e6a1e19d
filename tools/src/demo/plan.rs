//! What the demo runs: every function of the trace becomes a deployed function that does real work on real data,
//! with the trace's trigger, run times and memory.
//!
//! | trigger in the trace | work |
//! |---|---|
//! | queue | compress a piece of text (deflate), or count its words |
//! | orchestration | count words |
//! | timer, event | statistics of a column of the trace |
//! | http | a Markdown page to HTML, by a program from the crates.io registry that nobody here wrote |
//! | storage, and the rarest http functions | a thumbnail of a photograph |
//!
//! Run time: the trace's run times are divided by [`RUN_SCALE`], and a function of the fast ABI repeats its work until
//! that much time has gone by (a round is measured at the start). Pages and photographs take the time they take.
//! Memory: the limit is the trace's maximum; what a call touches is the trace's divided by [`MEMORY_SCALE`], since
//! 9,500 calls a second that each touch 100 MB would measure the memory bus and nothing else.

use crate::trace::{Trace, TraceFunction};
use call::FunctionSpec;

/// How much faster functions run than in the trace: its 610,000 seconds of execution become 30, so that one core is
/// busy for half of the minute and the rest is the platform's.
pub const RUN_SCALE: f64 = 20_000.0;
/// How much less memory a call touches than in the trace.
pub const MEMORY_SCALE: u32 = 256;
/// Thumbnails cost milliseconds each: http functions become thumbnails, rarest first, up to this many calls.
const THUMBNAILS_MAX: u64 = 600;

/// What a function does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Work {
    /// `thumbnail.wasm`, a WASI command.
    Thumbnail,
    /// `pulldown-cmark.wasm`, a WASI command from the registry.
    Markdown,
    /// `wordcount.wasm`, fast ABI.
    WordCount,
    /// `percentiles.wasm`, fast ABI.
    Percentiles,
    /// `deflate.wasm`, fast ABI.
    Deflate,
}

impl Work {
    /// All of them.
    pub const ALL: [Work; 5] =
        [Work::Thumbnail, Work::Markdown, Work::WordCount, Work::Percentiles, Work::Deflate];

    /// The file of its code, without its folder.
    pub fn artefact(self) -> &'static str {
        match self {
            Work::Thumbnail => "thumbnail.wasm",
            Work::Markdown => "pulldown-cmark.wasm",
            Work::WordCount => "wordcount.wasm",
            Work::Percentiles => "percentiles.wasm",
            Work::Deflate => "deflate.wasm",
        }
    }

    /// What it is, for the report.
    pub fn title(self) -> &'static str {
        match self {
            Work::Thumbnail => "thumbnails of photographs",
            Work::Markdown => "Markdown to HTML (pulldown-cmark)",
            Work::WordCount => "word counts",
            Work::Percentiles => "statistics of a column",
            Work::Deflate => "compression",
        }
    }

    /// Whether its arguments begin with rounds and memory to touch.
    pub fn has_rounds(self) -> bool {
        !matches!(self, Work::Thumbnail | Work::Markdown)
    }

    fn of_trigger(trigger: &str, index: usize) -> Work {
        match trigger {
            "queue" if index.is_multiple_of(2) => Work::Deflate,
            "queue" | "orchestration" => Work::WordCount,
            "http" => Work::Markdown,
            "storage" => Work::Thumbnail,
            _ => Work::Percentiles,
        }
    }
}

/// Decides what each function of the trace does, in the trace's order.
pub fn works(trace: &Trace) -> Vec<Work> {
    let functions = &trace.functions;
    let mut works: Vec<Work> =
        functions.iter().enumerate().map(|(n, f)| Work::of_trigger(&f.trigger, n)).collect();
    let mut rare: Vec<usize> = (0..functions.len()).filter(|n| works[*n] == Work::Markdown).collect();
    rare.sort_by_key(|n| (functions[*n].calls, *n));
    let mut budget = THUMBNAILS_MAX;
    // Half of the http functions at most, so that pages and photographs both appear.
    for n in rare.iter().take(rare.len() / 2) {
        if functions[*n].calls <= budget {
            budget -= functions[*n].calls;
            works[*n] = Work::Thumbnail;
        }
    }
    works
}

/// How a function of the trace is deployed; its artefact is set by the deployment.
pub fn spec(traced: &TraceFunction) -> FunctionSpec {
    let short: String = traced.name.chars().take(10).collect();
    FunctionSpec {
        name: format!("{}-{short}", traced.trigger),
        tenant: "azure".into(),
        // Below 16 MiB the guests' own initial memory (8 MiB) would be most of it.
        memory_bytes: (u64::from(traced.memory_kib_max) * 1024).clamp(16 << 20, 1 << 30),
        criticality: if traced.trigger == "http" { 150 } else { 100 },
        timeout_ms: 60_000,
        ..FunctionSpec::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn traced(n: usize, trigger: &str, calls: u64) -> TraceFunction {
        TraceFunction {
            name: format!("{n:064x}"),
            app: "app".into(),
            trigger: trigger.into(),
            calls,
            memory_kib_max: 300 << 10,
        }
    }

    fn trace(functions: Vec<TraceFunction>) -> Trace {
        Trace { functions, arrivals: Vec::new(), span: Duration::from_secs(60) }
    }

    #[test]
    fn thumbnails_stay_within_their_budget_and_leave_pages() {
        let trace = trace((0..10).map(|n| traced(n, "http", 100 * n as u64)).collect());
        let works = works(&trace);
        let pictures = works.iter().zip(&trace.functions).filter(|(w, _)| **w == Work::Thumbnail);
        let calls: u64 = pictures.map(|(_, f)| f.calls).sum();
        assert!(calls > 0 && calls <= THUMBNAILS_MAX, "{calls}");
        assert!(works.contains(&Work::Markdown));
    }

    #[test]
    fn every_trigger_of_the_trace_has_work_and_a_valid_spec() {
        let triggers = ["queue", "timer", "http", "orchestration", "event", "storage"];
        let trace = trace(triggers.iter().enumerate().map(|(n, t)| traced(n, t, 5)).collect());
        assert_eq!(works(&trace)[1], Work::Percentiles);
        for function in &trace.functions {
            let spec = spec(function);
            spec.validate().expect("a valid spec");
            assert_eq!(spec.memory_bytes, 300 << 20);
        }
    }
}
