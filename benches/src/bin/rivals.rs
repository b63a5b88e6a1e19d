//! The rivals and floors alone: `cargo run --release -p benches --bin rivals`.

use std::time::Duration;

fn main() -> std::io::Result<()> {
    let span = Duration::from_secs(3);
    println!("disk sync p50 {:.0} us", benches::floors::dsync_us(&std::env::current_dir()?, 2000)?);
    println!("loopback round trip p50 {:.1} us", benches::floors::loopback_us(20_000)?);
    for pairs in [1, 2, 4] {
        println!("redis, {pairs} pairs: {:?}", benches::rivals::redis::run(pairs, 128, span)?);
    }
    println!("beanstalkd: {:?}", benches::rivals::beanstalkd::run(128, span)?);
    Ok(())
}
