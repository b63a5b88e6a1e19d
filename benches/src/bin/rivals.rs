//! The rivals and floors alone, all or those of these names: `cargo run --release -p benches --bin rivals -- [NAME]...`.

use benches::rivals;
use std::time::Duration;

fn main() -> std::io::Result<()> {
    let span = Duration::from_secs(2);
    println!("disk sync p50 {:.0} us", benches::floors::dsync_us(&std::env::current_dir()?, 2000)?);
    println!("loopback round trip p50 {:.1} us", benches::floors::loopback_us(20_000)?);
    let names: Vec<String> = std::env::args().skip(1).collect();
    let wanted = |name: &str| names.is_empty() || names.iter().any(|other| other == name);
    for bytes in [128, 4096] {
        for pairs in benches::versus::PAIRS {
            if wanted("redis") {
                println!("redis, {bytes} B, {pairs} pairs: {:?}", rivals::redis::run(pairs, bytes, span)?);
            }
            if wanted("postgres") {
                println!(
                    "postgres, {bytes} B, {pairs} pairs: {:?}",
                    rivals::postgres::run(pairs, bytes, span)?
                );
            }
        }
        if wanted("beanstalkd") {
            println!("beanstalkd, {bytes} B: {:?}", rivals::beanstalkd::run(bytes, span)?);
        }
        if wanted("nats") {
            println!("nats, {bytes} B: {:?}", rivals::nats::run(bytes, span)?);
        }
    }
    Ok(())
}
