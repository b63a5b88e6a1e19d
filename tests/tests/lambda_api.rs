//! The Lambda Invoke path with the SDK that people use: boto3, from PyPI, in an environment of its own.

use std::path::{Path, PathBuf};
use std::process::Command;
use tests::harness::{COMMAND, ECHO, LOOP, Site, TRAP, millrace, project};

/// What is installed, all versions pinned.
const PACKAGES: [&str; 7] = [
    "boto3==1.40.0",
    "botocore==1.40.0",
    "jmespath==1.0.1",
    "python-dateutil==2.9.0.post0",
    "s3transfer==0.13.1",
    "six==1.17.0",
    "urllib3==2.5.0",
];

fn succeeds(command: &mut Command) {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}; `make setup` installs python3-venv as root"));
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{out}{err}", output.status);
    print!("{out}");
}

/// A Python with boto3, made once for all runs of the tests of this target folder.
fn python() -> PathBuf {
    let target = millrace().parent().and_then(Path::parent).expect("target/PROFILE").join("tmp");
    std::fs::create_dir_all(&target).expect("a folder");
    let place = target.join("boto3-1.40.0");
    if !place.is_dir() {
        let fresh = tempfile::Builder::new().prefix("boto3-").tempdir_in(&target).expect("a folder").keep();
        succeeds(Command::new("python3").args(["-m", "venv"]).arg(&fresh));
        let mut pip = Command::new(fresh.join("bin/python"));
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]);
        succeeds(pip.args(PACKAGES));
        if std::fs::rename(&fresh, &place).is_err() {
            // Another run was first.
            let _ = std::fs::remove_dir_all(&fresh);
        }
    }
    place.join("bin/python")
}

#[test]
fn boto3_invokes_functions_as_they_are() {
    let python = python();
    let site = Site::new();
    let _up = site.up(&["--cores", "1"]);
    site.deploy("echo", ECHO, "");
    site.deploy("command", COMMAND, "");
    site.deploy("trap", TRAP, "[retry]\nattempts = 5\nbackoff = \"1ms\"");
    site.deploy("loop", LOOP, "timeout = \"200ms\"\n[retry]\nattempts = 5\nbackoff = \"1ms\"");
    let manifest =
        site.file("echo/other.toml", "name = \"echo\"\nnamespace = \"other\"\nartefact = \"f.wasm\"\n");
    site.ok(&["deploy", &manifest]);
    let admin = site.up_json()["admin"].as_str().expect("an address").to_owned();
    let script = project().join("tests/data/lambda_api.py");
    succeeds(Command::new(python).arg(script).arg(admin));
    // Who waits hears of the first failure, whatever the function's own rules are.
    let usage = site.json(&["usage", "trap", "loop"]);
    for row in usage["rows"].as_array().expect("rows") {
        assert_eq!((&row["calls"], &row["executions"]), (&1.into(), &1.into()), "{row}");
    }
    assert_eq!(usage["rows"].as_array().map(Vec::len), Some(2), "{usage}");
}
