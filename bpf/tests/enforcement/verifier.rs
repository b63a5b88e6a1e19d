//! How much work the programs are to the verifier, under version control: `bpf/verifier.toml`. A program that grows in
//! the verifier's eyes comes near its limit of a million, and on another kernel over it.

use crate::harness::{Platform, program};
use bpf::Strangers;
use std::collections::BTreeMap;
use std::io::Write;
use std::os::fd::AsRawFd;

/// How much a count may grow before this test fails, per cent.
const GROWTH_MAX: u64 = 10;
const TABLE: &str = include_str!("../../verifier.toml");
const ADVICE: &str = "if that is as it should be, say `MILLRACE_VERIFIER_UPDATE=1 cargo test -p bpf verifier`, and \
                      commit bpf/verifier.toml";

/// Instructions that the verifier looked at for each program.
type Counts = BTreeMap<String, u64>;

fn counts(platform: &Platform) -> Counts {
    let folder = |of| format!("/sys/fs/bpf/millrace/{}/{of}", platform.name);
    let pins = ["links", "programs"].map(|of| std::fs::read_dir(folder(of)).expect("pins"));
    let count = |link: String| {
        let fd = program(platform, &link);
        let about =
            std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).expect("it is open");
        let found = about.lines().find_map(|line| line.strip_prefix("verified_insns:")).expect("Linux 5.16");
        let name = link.split('-').next().expect("a name").to_string();
        (name, found.trim().parse().expect("a number"))
    };
    pins.into_iter()
        .flatten()
        .flatten()
        .map(|entry| count(entry.file_name().into_string().expect("a name")))
        .collect()
}

/// The counts depend on both.
fn made_with() -> (String, String) {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("it is Linux");
    let kernel: Vec<&str> = release.trim().split('.').take(2).collect();
    (kernel.join("."), env!("BPF_CLANG").to_string())
}

/// What is wrong with these counts, beside those of the table.
fn grown(table: &Counts, counts: &Counts) -> Vec<String> {
    let mut wrong: Vec<String> = counts
        .iter()
        .filter_map(|(name, count)| match table.get(name) {
            None => Some(format!("{name} is not in the table: {count}")),
            Some(known) if *count > known + known * GROWTH_MAX / 100 => {
                Some(format!("{name}: {known}, now {count}"))
            }
            Some(_) => None,
        })
        .collect();
    wrong.extend(
        table.keys().filter(|name| !counts.contains_key(*name)).map(|name| format!("{name} is gone")),
    );
    wrong
}

fn written(kernel: &str, clang: &str, counts: &Counts) -> String {
    let mut out = format!(
        "# Instructions that the verifier looks at for each program; see tests/enforcement/verifier.rs. Compared only \
         where\n# kernel and compiler are these.\nkernel = \"{kernel}\"\nclang = \"{clang}\"\n\n[programs]\n"
    );
    counts.iter().for_each(|(name, count)| out.push_str(&format!("{name} = {count}\n")));
    out
}

#[test]
fn no_program_has_grown_in_the_verifiers_eyes() {
    let Some(platform) = Platform::with(Strangers::Denied, true) else { return };
    let counts = counts(&platform);
    assert_eq!(counts.len(), 14, "{counts:?}");
    let (kernel, clang) = made_with();
    if std::env::var_os("MILLRACE_VERIFIER_UPDATE").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/verifier.toml");
        std::fs::write(path, written(&kernel, &clang, &counts)).expect("it can be written");
        return;
    }
    let table: toml::Table = TABLE.parse().expect("TOML");
    let (known_kernel, known_clang) = (table["kernel"].as_str(), table["clang"].as_str());
    if (known_kernel, known_clang) != (Some(&kernel), Some(&clang)) {
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED the comparison with bpf/verifier.toml because it is of kernel {known_kernel:?} and {known_clang:?}, \
             this is {kernel} and {clang}"
        );
        return;
    }
    let programs = table["programs"].as_table().expect("a table").iter();
    let known =
        programs.map(|(name, count)| (name.clone(), count.as_integer().expect("a number") as u64)).collect();
    assert_eq!(grown(&known, &counts), Vec::<String>::new(), "{ADVICE}");
}

#[test]
fn canary_growth_and_news_are_seen() {
    let counts =
        |all: &[(&str, u64)]| all.iter().map(|(name, count)| (name.to_string(), *count)).collect::<Counts>();
    let table = counts(&[("a", 1000), ("b", 1000), ("c", 10)]);
    assert_eq!(grown(&table, &counts(&[("a", 1100), ("b", 500), ("c", 11)])), Vec::<String>::new());
    let wrong = grown(&table, &counts(&[("a", 1101), ("b", 1000), ("d", 1)]));
    assert_eq!(wrong, ["a: 1000, now 1101", "d is not in the table: 1", "c is gone"]);
}
