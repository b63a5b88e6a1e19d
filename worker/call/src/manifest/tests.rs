//! Of the manifest's keys, and of errors about them.

use super::*;
use crate::function::queue::{Expired, QueueSpec};
use crate::function::{
    BreakerSpec, FlowSpec, LocalitySpec, NetworkSpec, ProcessSpec, QuotaKind, QuotaSpec, RetrySpec,
    SandboxSpec,
};
use crate::outcome::Status;
use proptest::prelude::*;

const WHOLE: &str = r#"
name = "thumbnail"
artefact = "target/thumbnail.wasm"
namespace = "media"
tenant = "photos"
runtime = "wasm"
abi = "wasi"
instance = "fresh"
criticality = "high"
deadline = "2h"
timeout = "1m30s"
memory = "128 MiB"
concurrency = 64
concurrency_per_key = 2
downstreams = ["tao", "cache"]

[retry]
attempts = 5
backoff = "250ms"
backoff_max = "10s"
budget = 10
final = ["exit", "timeout"]

[queue]
backlog = 1000
backlog_bytes = "64MiB"
expires = "3h"
expired = "dead-letter"
retain = "1d"
retain_bytes = "4KiB"
idempotency = "2h"

[quota]
kind = "opportunistic"
cpu = "2.5"
rate = 300
burst = 20
slow_start = true

[flow]
zone = 3
compartments = [1, 4]

[breaker]
failures = 50
calls = 10
open = "1m"

[locality]
group = "feeds"

[limits]
cpu_weight = 200
cpu = "0.5"

[environment]
LEVEL = "debug"

[files]
"/models" = "/srv/models"
"/" = "/srv/images/small"
"#;

const PROCESS: &str = r#"
name = "resize"
runtime = "process"
bundle = "build"
abi = "runtime-api"
command = ["python3", "-m", "awslambdaric"]
handler = "app.handler"
base = "none"

[environment]
LEVEL = "debug"
_x1 = ""

[limits]
cpu_weight = 10000
cpu = "1.5"
pids = 128
files = 1024
tmp = "1MiB"
io = "10MiB"
concurrent = 4
grace = "500ms"
init_timeout = "1m"
idle = "1h"
sandboxes = 2

[network]
allow = ["10.0.0.0/8:443", "udp:[2001:db8::]/32:*"]
listen = ["tcp:127.0.0.1:8080"]
egress = "1MiB"
ingress = "2 MiB"

[sandbox]
tier = "strict"
devices = ["/dev/fuse"]
"#;

fn refused(text: &str) -> String {
    parse("function.toml", text).expect_err(text).to_string()
}

/// A manifest with one line more.
fn with(line: &str) -> String {
    format!("name = \"a\"\nartefact = \"a.wasm\"\n{line}\n")
}

#[test]
fn every_key_is_read() {
    let Manifest { spec, artefact } = parse("function.toml", WHOLE).unwrap();
    assert_eq!(artefact, Some(PathBuf::from("target/thumbnail.wasm")));
    let expected = FunctionSpec {
        name: "thumbnail".into(),
        namespace: "media".into(),
        tenant: "photos".into(),
        runtime: RuntimeKind::Wasm,
        abi: Abi::Wasi,
        instance: InstanceMode::Fresh,
        criticality: 150,
        deadline_ms: 7_200_000,
        timeout_ms: 90_000,
        memory_bytes: 128 << 20,
        concurrency: 64,
        retry: RetrySpec {
            attempts: 5,
            backoff_ms: 250,
            backoff_max_ms: 10_000,
            budget_percent: 10,
            finals: vec![Status::Exit, Status::Timeout],
        },
        queue: QueueSpec {
            backlog: 1000,
            backlog_bytes: 64 << 20,
            expires_ms: 10_800_000,
            expired: Expired::DeadLetter,
            retain_ms: 86_400_000,
            retain_bytes: 4096,
            idempotency_ms: 7_200_000,
        },
        concurrency_per_key: 2,
        downstreams: vec!["tao".into(), "cache".into()],
        quota: QuotaSpec {
            kind: QuotaKind::Opportunistic,
            cpu_millis: 2500,
            calls_per_s: 300,
            burst: 20,
            slow_start: true,
        },
        flow: FlowSpec { zone: 3, compartments: vec![1, 4] },
        breaker: BreakerSpec { failures_percent: 50, calls: 10, open_ms: 60_000 },
        locality: LocalitySpec { group: "feeds".into() },
        limits: LimitSpec { cpu_weight: 200, cpu_millis: 500, ..LimitSpec::default() },
        process: ProcessSpec {
            environment: [("LEVEL", "debug")].map(|(k, v)| (k.into(), v.into())).into(),
            ..ProcessSpec::default()
        },
        files: [("/models", "/srv/models"), ("/", "/srv/images/small")]
            .map(|(k, v)| (k.into(), v.into()))
            .into(),
        ..FunctionSpec::default()
    };
    assert_eq!(spec, expected);
    let tables = TABLES.iter().flat_map(|(_, keys)| keys.iter());
    for key in KEYS.iter().chain(tables) {
        let written = format!("\n{key} = ");
        assert!(WHOLE.contains(&written) || PROCESS.contains(&written), "`{key}` is missing in this test");
    }
}

#[test]
fn every_key_of_a_process_function_is_read() {
    let Manifest { spec, artefact } = parse("function.toml", PROCESS).unwrap();
    assert_eq!(artefact, Some(PathBuf::from("build")));
    let expected = FunctionSpec {
        name: "resize".into(),
        runtime: RuntimeKind::Process,
        abi: Abi::RuntimeApi,
        memory_bytes: 128 << 20,
        process: ProcessSpec {
            command: ["python3", "-m", "awslambdaric"].map(String::from).into(),
            handler: "app.handler".into(),
            base: Base::None,
            environment: [("LEVEL", "debug"), ("_x1", "")].map(|(k, v)| (k.into(), v.into())).into(),
        },
        limits: LimitSpec {
            cpu_weight: 10_000,
            cpu_millis: 1500,
            pids: 128,
            files: 1024,
            tmp_bytes: 1 << 20,
            io_bytes_per_s: 10 << 20,
            concurrent: 4,
            grace_ms: 500,
            init_timeout_ms: 60_000,
            idle_ms: 3_600_000,
            sandboxes: 2,
        },
        network: NetworkSpec {
            allow: ["10.0.0.0/8:443", "udp:[2001:db8::]/32:*"].map(|rule| rule.parse().unwrap()).into(),
            listen: vec!["tcp:127.0.0.1/32:8080".parse().unwrap()],
            egress_bytes_per_s: 1 << 20,
            ingress_bytes_per_s: 2 << 20,
        },
        sandbox: SandboxSpec { tier: Tier::Strict, devices: vec!["/dev/fuse".into()] },
        ..FunctionSpec::default()
    };
    assert_eq!(spec, expected);
    assert_eq!(serde_json::from_slice::<FunctionSpec>(&serde_json::to_vec(&spec).unwrap()).unwrap(), spec);
}

#[test]
fn catalogs_of_earlier_builds_are_read() {
    let early = r#"{"name":"a","namespace":"default","tenant":"default","runtime":"wasm","abi":"auto",
        "instance":"reuse","artefact":"","artefact_bytes":0,"criticality":100,"deadline_ms":86400000,
        "timeout_ms":30000,"memory_bytes":67108864,"concurrency":1000,
        "retry":{"attempts":3,"backoff_ms":100,"backoff_max_ms":60000},"version":0}"#;
    let expected = FunctionSpec { name: "a".into(), ..FunctionSpec::default() };
    assert_eq!(serde_json::from_str::<FunctionSpec>(early).unwrap(), expected);
    assert_eq!(expected.validate(), Ok(()));
}

/// The example with this number in the module's documentation.
fn documented(number: usize) -> String {
    let text = include_str!("../manifest.rs");
    let example = text.split("//! ```toml\n").nth(number).unwrap().split("//! ```\n").next().unwrap();
    example.lines().map(|line| line.trim_start_matches("//!").trim_start().to_owned() + "\n").collect()
}

#[test]
fn keys_left_out_have_the_defaults_that_the_documentation_shows() {
    let short = parse("short", "name = 'thumbnail'\nartefact = 'target/thumbnail.wasm'").unwrap();
    assert_eq!(parse("documentation", &documented(1)).unwrap(), short);
    let short = parse("short", "name = 'resize'\nruntime = 'process'\ncommand = ['./bootstrap']").unwrap();
    let mut process = parse("documentation", &documented(2)).unwrap();
    assert_eq!(process.spec.abi_in_force(), short.spec.abi_in_force());
    process.spec.abi = Abi::Auto;
    assert_eq!(process, short);
    for key in TABLES.iter().flat_map(|(_, keys)| keys.iter()).chain(&KEYS) {
        let written = format!("\n{key} = ");
        let is_there = documented(1).contains(&written) || documented(2).contains(&written);
        assert!(is_there || matches!(*key, "name" | "bundle"), "`{key}` is not documented");
    }
}

#[test]
fn errors_say_where_what_and_what_instead() {
    for (line, expected) in [
        (
            "memroy = \"1MiB\"",
            "function.toml:3:1: unknown key `memroy`. Did you mean `memory`? Known keys: name, ",
        ),
        ("zzz = 1", "function.toml:3:1: unknown key `zzz`. Known keys: name, "),
        ("[retry]\ntries = 2", "function.toml:4:1: unknown key `retry.tries`. Known keys: attempts, backoff"),
        ("retry = 3", "function.toml:3:9: `retry` is an integer, expected a table"),
        (
            "abi = \"wassi\"",
            "function.toml:3:7: `abi` is \"wassi\", must be one of \"auto\", \"wasi\", \"fast\", \"runtime-api\", \"stdio\"; did you mean \"wasi\"?",
        ),
        ("abi = 1", "function.toml:3:7: `abi` is an integer, expected one of \"auto\""),
        ("criticality = 0", "function.toml:3:15: `criticality` is 0, must be between 1 and 255"),
        ("criticality = 256", "function.toml:3:15: `criticality` is 256, must be between 1 and 255"),
        (
            "criticality = 1.5",
            "function.toml:3:15: `criticality` is a float, expected a number from 1 to 255, or",
        ),
        ("criticality = \"hihg\"", "did you mean \"high\"?"),
        ("concurrency = -1", "function.toml:3:15: `concurrency` is -1, must be between"),
        ("concurrency = 99999999999999999999", "function.toml:3:15: `concurrency` is 99999999999999999999"),
        ("deadline = 30", "function.toml:3:12: `deadline` is an integer, expected a duration with its unit"),
        ("deadline = \"30\"", "function.toml:3:12: `deadline` is not a duration with its unit"),
        (
            "deadline = \"8days\"",
            "function.toml:3:12: `deadline` is 691200000 ms, must be between 1 and 604800000 ms",
        ),
        ("timeout = \"1us\"", "function.toml:3:11: `timeout` is finer than a millisecond"),
        (
            "memory = \"64MB\"",
            "function.toml:3:10: `memory` is not a size with its unit (B, KiB, MiB or GiB)",
        ),
        ("memory = \"99999999999GiB\"", "function.toml:3:10: `memory` is not a size"),
        (
            "memory = \"5GiB\"",
            "function.toml:3:10: `memory` is 5368709120 bytes, must be between 65536 and 4294967296 bytes",
        ),
        ("[retry]\nattempts = 0", "function.toml:4:12: `retry.attempts` is 0"),
        ("name = \"b\"", "function.toml:3:1: not valid TOML: duplicate key"),
        ("tenant = \"ä b\"", "function.toml:3:10: `tenant` `ä b` holds 'ä'; use letters"),
        ("x", "function.toml:3:2: not valid TOML"),
        ("[quota]\nkind = \"oportunistic\"", "4:8: `quota.kind` is \"oportunistic\", must be one of"),
        ("[quota]\nslow_start = 1", "4:14: `quota.slow_start` is an integer, expected true or false"),
        ("[flow]\nzone = 8", "4:8: `flow.zone` is 8, must be between 0 and 7"),
        (
            "[flow]\ncompartments = [1, 6]",
            "4:16: `flow.compartments` holds a number that is not between 1 and 5",
        ),
        ("[breaker]\nfailures = 101", "4:12: `breaker.failures` is 101 percent, must be between 0 and 100"),
        ("downstreams = [\"a b\"]", "3:15: `downstreams` `a b` holds ' '; use letters"),
        ("[files]\n\"/a\" = 3", "4:8: `files./a` is an integer, expected the path of a directory"),
        ("[files]\na = \"/srv\"", "4:5: `files.a` is no path that a function can have; write it absolute"),
        ("[files]\n\"/a/../b\" = \"/srv\"", "`files./a/../b` is no path that a function can have"),
        ("[files]\n\"/a\" = \"srv\"", "4:8: `files./a` is \"srv\"; write the absolute path of a directory"),
        ("[files]\n\"/a\" = \"/srv/..\"", "4:8: `files./a` is \"/srv/..\"; write the absolute path"),
        ("[files]\n\"/a\" = \"/\"", "4:8: `files./a` is \"/\"; write the absolute path"),
        ("[environment]\nMILLRACE_X = \"\"", "4:14: `environment.MILLRACE_X` is set by the platform"),
    ] {
        let error = refused(&with(line));
        assert!(error.contains(expected), "{line}:\n  {error}\n  {expected}");
    }
    assert!(refused("artefact = 'a'").contains("function.toml: `name` is missing"));
    assert!(refused("name = 'a'").contains("function.toml: `artefact` is missing"));
    assert!(refused("name = 'a'\nartefact = ''").contains("2:12: `artefact` is empty"));
    assert!(refused(&" ".repeat(MANIFEST_BYTES_MAX + 1)).contains("at most 65536"));
}

/// A process function's manifest with one line more, the fourth.
fn process_with(line: &str) -> String {
    format!("name = \"a\"\nruntime = \"process\"\ncommand = [\"./a\"]\n{line}\n")
}

#[test]
fn errors_about_process_functions_say_where_what_and_what_instead() {
    for (line, expected) in [
        ("[limit]\npids = 3", "4:2: unknown key `limit`. Did you mean `limits`?"),
        ("pids = 3", "4:1: unknown key `pids`. `pids` stands in [limits]."),
        ("[limits]\npid = 3", "5:1: unknown key `limits.pid`. Did you mean `limits.pids`?"),
        (
            "[limits]\nmemory = \"1GiB\"",
            "5:1: unknown key `limits.memory`. `memory` stands before the first [table].",
        ),
        ("[network]\nalow = []", "5:1: unknown key `network.alow`. Did you mean `network.allow`?"),
        ("[sandbox]\nteir = 1", "5:1: unknown key `sandbox.teir`. Did you mean `sandbox.tier`?"),
        ("limits = 3", "4:10: `limits` is an integer, expected a table: `[limits]` on a line of its own"),
        ("abi = \"fast\"", "4:7: `abi` is for wasm functions; a process function has"),
        ("artefact = \"a\"", "4:12: `artefact` is for wasm functions; a process function has `bundle`"),
        ("instance = \"reuse\"", "4:12: `instance` is for wasm functions"),
        (
            "[files]\n\"/a\" = \"/srv\"",
            "4:1: `files` is for wasm functions; a process function sees its bundle",
        ),
        ("bundle = \"\"", "4:10: `bundle` is empty; write a path"),
        ("base = \"hots\"", "`base` is \"hots\", must be one of \"host\", \"none\"; did you mean \"host\"?"),
        ("memory = \"1MiB\"", "4:10: `memory` is 1048576 bytes, must be between 4194304"),
        ("environment = 3", "4:15: `environment` is an integer, expected a table"),
        (
            "[environment]\nPORT = 80",
            "5:8: `environment.PORT` is an integer, expected a text; put numbers into quotes",
        ),
        ("[environment]\n\"A-B\" = \"\"", "5:9: `environment.A-B` is no name of a variable"),
        ("[environment]\n1A = \"\"", "5:6: `environment.1A` is no name of a variable"),
        ("[environment]\n_HANDLER = \"\"", "5:12: `environment._HANDLER` is set by the platform"),
        ("[environment]\nMILLRACE_X = \"\"", "5:14: `environment.MILLRACE_X` is set by the platform"),
        ("[environment]\nA = \"\\u0000\"", "5:5: `environment.A` holds a zero byte"),
        ("handler = \"a\"\nabi = \"stdio\"", "4:11: `handler` is for abi = \"runtime-api\""),
        (
            "abi = \"stdio\"\n[limits]\nconcurrent = 2",
            "6:14: `limits.concurrent` must be 1 with abi = \"stdio\"",
        ),
    ] {
        let error = refused(&process_with(line));
        assert!(error.contains(expected), "{line}:\n  {error}\n  {expected}");
    }
}

#[test]
fn errors_in_tables_of_process_functions_say_what_is_allowed() {
    for (line, expected) in [
        ("[limits]\ncpu = \"1.5001\"", "5:7: `limits.cpu` is not a number of cores"),
        ("[limits]\ncpu = -1", "5:7: `limits.cpu` is not a number of cores"),
        ("[limits]\ncpu = 1e3", "5:7: `limits.cpu` is not a number of cores"),
        ("[limits]\ncpu = []", "5:7: `limits.cpu` is an array, expected a number of cores"),
        ("[limits]\ncpu = \"0.009\"", "5:7: `limits.cpu` is 9 thousandths of a core, must be between 0.01"),
        ("[limits]\ncpu = 99999999999999999999", "5:7: `limits.cpu` is not a number"),
        ("[limits]\npids = 0", "5:8: `limits.pids` is 0, must be between 1 and 32768"),
        ("[limits]\ntmp = \"0\"", "5:7: `limits.tmp` is 0 bytes, must be between 4096"),
        ("[limits]\nio = \"1KiB\"", "5:6: `limits.io` is 1024 bytes per second, must be between 4096 and"),
        ("[limits]\ngrace = \"2m\"", "5:9: `limits.grace` is 120000 ms, must be between 0 and 60000 ms"),
        (
            "[network]\nallow = \"10.0.0.0/8:443\"",
            "5:9: `network.allow` is a string, expected a list of rules",
        ),
        (
            "[network]\nallow = [\n  \"10.0.0.0/8:443\",\n  \"example.org:443\"]",
            "7:3: `network.allow[1]` is \"example.org:443\": before the port",
        ),
        ("[network]\nallow = [3]", "5:10: `network.allow[0]` is an integer, expected a rule"),
        ("[sandbox]\ndevices = [\"fuse\"]", "5:11: `sandbox.devices` holds \"fuse\"; write the path"),
        ("[sandbox]\ndevices = [\"/dev/../etc\"]", "`sandbox.devices` holds \"/dev/../etc\""),
        ("[sandbox]\ndevices = [\"/dev/a\", \"/dev/a\"]", "holds \"/dev/a\" twice"),
    ] {
        let error = refused(&process_with(line));
        assert!(error.contains(expected), "{line}:\n  {error}\n  {expected}");
    }
}

#[test]
fn a_command_that_is_none_is_told() {
    let with_command = |command: &str| refused(&format!("name = 'a'\nruntime = 'process'\n{command}"));
    assert!(
        with_command("").contains("`command` is missing; write for example `command = [\"./bootstrap\"]`")
    );
    assert!(with_command("command = []").contains("3:11: `command` is missing or empty"));
    assert!(
        with_command("command = './a'").contains("3:11: `command` is a string, expected a list of texts")
    );
    assert!(with_command("command = ['a', 3]").contains("3:17: `command[1]` is an integer, expected a text"));
    let error = with_command("command = ['/usr/bin/env']\nbase = 'none'");
    assert!(
        error.contains("3:11: `command` is `/usr/bin/env`, which is not there with base = \"none\""),
        "{error}"
    );
}

#[test]
fn keys_of_processes_are_refused_for_wasm() {
    for (line, expected) in [
        ("command = [\"a\"]", "3:11: `command` is for runtime = \"process\""),
        ("bundle = \"a\"", "3:10: `bundle` is for runtime = \"process\"; a wasm function has `artefact`"),
        ("base = \"host\"", "3:8: `base` is for runtime = \"process\""),
        (
            "[network]\negress = \"0\"",
            "3:1: `network` is for runtime = \"process\"; a wasm function has no network",
        ),
        (
            "[limits]\ncpu = \"0.5\"\npids = 64",
            "5:8: `limits.pids` is for runtime = \"process\"; a wasm function has `cpu_weight`",
        ),
        ("abi = \"stdio\"", "3:7: `abi` is for process functions"),
    ] {
        let error = refused(&with(line));
        assert!(error.contains(expected), "{line}:\n  {error}\n  {expected}");
    }
}

#[test]
fn a_small_sandbox_has_a_small_tmp() {
    let limits = |line| parse("f", &process_with(line)).unwrap().spec.limits;
    assert_eq!(limits("memory = \"16MiB\"").tmp_bytes, 16 << 20);
    assert_eq!(limits("memory = \"1GiB\"").tmp_bytes, 64 << 20);
    assert_eq!(limits("memory = \"16MiB\"\n[limits]\ntmp = \"32MiB\"").tmp_bytes, 32 << 20);
    assert_eq!(
        (limits("[limits]\ncpu = 2").cpu_millis, limits("[limits]\ncpu = 0.25").cpu_millis),
        (2000, 250)
    );
}

#[test]
fn the_first_error_in_the_file_is_told() {
    let error = refused("zone = 1\nabi = 2\n");
    assert!(error.contains("1:1: unknown key `zone`"), "{error}");
}

#[test]
fn columns_count_characters() {
    let error = refused("'ä' = 1");
    assert!(error.contains("1:1: unknown key `ä`"), "{error}");
    let error = refused("'ä' = 1 2");
    assert!(error.contains("1:7: "), "{error}");
}

/// With the names of their tables.
fn every_key() -> Vec<String> {
    let inner = |(table, keys): &(&'static str, &'static [&'static str])| {
        let table = table.to_string();
        keys.iter().map(move |key| format!("{table}.{key}")).collect::<Vec<_>>()
    };
    let alone =
        known().into_iter().map(String::from).chain(["environment.A".to_string(), "files.'/a'".to_string()]);
    alone.chain(TABLES.iter().flat_map(inner)).collect()
}

proptest! {
    #[test]
    fn arbitrary_text_is_read_or_refused(text in any::<String>()) {
        let _ = parse("function.toml", &text);
    }

    #[test]
    fn a_changed_manifest_is_read_or_refused(
        whole in proptest::sample::select(vec![WHOLE, PROCESS]),
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<char>()), 1..8),
    ) {
        let mut text: Vec<char> = whole.chars().collect();
        for (at, to) in changes {
            *at.get_mut(&mut text) = to;
        }
        let text: String = text.into_iter().collect();
        match parse("function.toml", &text) {
            Ok(Manifest { spec, .. }) => {
                prop_assert_eq!(spec.validate(), Ok(()));
                let json = serde_json::to_vec(&spec).unwrap();
                prop_assert_eq!(serde_json::from_slice::<FunctionSpec>(&json).unwrap(), spec);
            }
            Err(error) => prop_assert!(error.place.starts_with("function.toml")),
        }
    }

    #[test]
    fn arbitrary_values_are_read_or_refused(
        key in proptest::sample::select(every_key()),
        value in prop_oneof![
            any::<i64>().prop_map(|number| number.to_string()),
            any::<f64>().prop_map(|number| format!("{number:?}")),
            "[0-9]{0,20} ?[a-zA-Z]{0,4}".prop_map(|text| format!("'{text}'")),
            Just("{ attempts = 1 }".to_string()),
            Just("[1, 'a']".to_string()),
            "\\['\\PC{0,20}'(, '[0-9a-f./:\\[\\]]{0,30}')?\\]",
        ],
        runtime in proptest::sample::select(vec!["process", "wasm"]),
    ) {
        let rest = [("name", "'a'"), ("command", "['./a']"), ("artefact", "'a'"), ("runtime", &format!("'{runtime}'"))];
        let foreign = if runtime == "wasm" { "command" } else { "artefact" };
        let rest = rest.iter().filter(|(name, _)| *name != key && *name != foreign);
        let rest: String = rest.map(|(name, value)| format!("{name} = {value}\n")).collect();
        match parse("function.toml", &format!("{rest}{key} = {value}\n")) {
            Ok(manifest) => prop_assert_eq!(manifest.spec.validate(), Ok(())),
            Err(error) => prop_assert!(error.place.starts_with("function.toml")),
        }
    }
}
