//! The rivals and floors alone: `cargo run --release -p benches --bin rivals`.

use benches::rivals;
use std::time::Duration;

fn main() -> std::io::Result<()> {
    let span = Duration::from_secs(2);
    println!("disk sync p50 {:.0} us", benches::floors::dsync_us(&std::env::current_dir()?, 2000)?);
    println!("loopback round trip p50 {:.1} us", benches::floors::loopback_us(20_000)?);
    for bytes in [128, 4096] {
        for pairs in benches::versus::PAIRS {
            println!("redis, {bytes} B, {pairs} pairs: {:?}", rivals::redis::run(pairs, bytes, span)?);
            println!("postgres, {bytes} B, {pairs} pairs: {:?}", rivals::postgres::run(pairs, bytes, span)?);
        }
        println!("beanstalkd, {bytes} B: {:?}", rivals::beanstalkd::run(bytes, span)?);
        println!("nats, {bytes} B: {:?}", rivals::nats::run(bytes, span)?);
    }
    Ok(())
}
