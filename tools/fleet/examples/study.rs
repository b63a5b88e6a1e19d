//! Runs a scenario as `millrace simulate --scenario` does, without building the platform: `cargo run --release -p fleet
//! --example study -- day`. Prints rows, figures, and the time that it took.

use std::time::Instant;

fn main() {
    let mut args = std::env::args().skip(1);
    let name = args.next().expect("name a scenario, then keys as KEY=VALUE");
    let set: Vec<String> = args.collect();
    let text = fleet::study::built_in(&name).expect("a scenario that comes with the program");
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let began = Instant::now();
    let study = fleet::study(text, &set, 7, threads, &mut |_, _| {}).expect("its keys are right");
    println!("{name}: {:.1} s on {threads} threads", began.elapsed().as_secs_f64());
    for row in &study.rows {
        println!("  {:<40} {:>12.3} {} (bar {}, {})", row.name, row.value, row.unit, row.bar, row.verdict);
    }
    for figure in &study.summaries[0].figures {
        let values: String =
            study.summaries.iter().map(|of| format!("{:>14.3}", of.value(&figure.name))).collect();
        println!("{:<34}{values}  {}", figure.name, figure.unit);
    }
}
