//! The Lambda Invoke path with the SDK that people use: boto3, from PyPI, in an environment of its own.

use std::process::Command;
use tests::clients::{self, succeeds};
use tests::harness::{COMMAND, ECHO, LOOP, Site, TRAP, project};

#[test]
fn boto3_invokes_functions_as_they_are() {
    let python = clients::aws().join("python");
    let site = Site::new();
    let _up = site.up_whole(&["--cores", "1"]);
    site.deploy("echo", ECHO, "");
    site.deploy("command", COMMAND, "");
    site.deploy("trap", TRAP, "[retry]\nattempts = 5\nbackoff = \"1ms\"");
    site.deploy("loop", LOOP, "timeout = \"200ms\"\n[retry]\nattempts = 5\nbackoff = \"1ms\"");
    let manifest =
        site.file("echo/other.toml", "name = \"echo\"\nnamespace = \"other\"\nartefact = \"f.wasm\"\n");
    site.ok(&["deploy", &manifest]);
    let admin = site.up_json()["admin"].as_str().expect("an address").to_owned();
    let script = project().join("tests/data/lambda_api.py");
    print!("{}", succeeds(Command::new(python).arg(script).arg(admin)));
    // Who waits hears of the first failure, whatever the function's own rules are.
    let usage = site.json(&["usage", "trap", "loop"]);
    for row in usage["rows"].as_array().expect("rows") {
        assert_eq!((&row["calls"], &row["executions"]), (&1.into(), &1.into()), "{row}");
    }
    assert_eq!(usage["rows"].as_array().map(Vec::len), Some(2), "{usage}");
}
