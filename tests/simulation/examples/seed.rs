//! Runs the seeds from the first to the second argument and prints what each came to; `-v` as third prints all.
use simulation::{Options, run};

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize| words.get(at).and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
    let verbose = words.get(2).is_some_and(|word| word == "-v");
    let begin = std::time::Instant::now();
    for seed in number(0)..=number(1).max(number(0)) {
        eprintln!("seed {seed}");
        match run(
            seed,
            &Options {
                verbose,
                bug: if std::env::var("LYING").is_ok() {
                    simulation::Bug::AcknowledgesBeforeSync
                } else {
                    simulation::Bug::None
                },
            },
        ) {
            Ok(report) => println!("{report}"),
            Err(violation) => println!("VIOLATION {violation}"),
        }
    }
    eprintln!("{:?}", begin.elapsed());
}
