//! A program for WASI reads what its function was granted, and nothing else, through the command line.

use serde_json::json;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;
use tests::harness::{Site, project};

/// A manifest of the guest with a grant.
fn manifest(name: &str, directory: &str) -> String {
    format!(
        "name = \"{name}\"\nartefact = \"files.wasm\"\n[environment]\nLEVEL = \"debug\"\n[files]\n\"/models\" = \"{directory}\"\n"
    )
}

#[test]
fn a_wasi_program_reads_its_granted_files_and_nothing_else() {
    let site = Site::new();
    let models = site.file("models/small", "a small model");
    let (folder, models) = (site.folder(), std::path::Path::new(&models).parent().expect("a folder"));
    let built = Command::new("rustc")
        .args(["--edition=2024", "--target=wasm32-wasip1", "-O", "-o"])
        .args([folder.join("files.wasm"), project().join("worker/runtime/tests/guests/files.rs")])
        .status();
    assert!(built.expect("rustc runs").success(), "is the target there? `rustup target add wasm32-wasip1`");
    site.file("secret", "the secret");
    symlink("../secret", models.join("link-out")).expect("a link");
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).expect("it is ours");
    let allowed = models.to_str().expect("a plain path");
    let _up = site.up(&["--cores", "1", "--allow-files", allowed]);

    let deployed = site.json(&["deploy", &site.file("granted.toml", manifest("reader", allowed))]);
    assert_eq!(deployed["spec"]["files"], json!({ "/models": allowed }));
    let questions = "read /models/small\nlist /models\nread /models/../secret\nread /models/link-out\n\
                     read /etc/passwd\ncreate /models/new\nvariable LEVEL";
    let told = site.ok(&["call", "reader", "--data", questions]);
    let expected =
        ["a small model", "link-out@ small", "error 63", "error 63", "error 44", "error 69", "debug"];
    assert_eq!(told.lines().collect::<Vec<_>>(), expected);
    // Files of this host, not of a copy.
    site.file("models/small", "a new one");
    assert_eq!(site.ok(&["call", "reader", "--data", "read /models/small"]), "a new one\n");
    assert!(site.ok(&["function", "show", "reader"]).contains(&format!("/models = {allowed}")));

    let refused = site.run(&["deploy", &site.file("refused.toml", manifest("greedy", "/etc"))]);
    refused.fails(6, &["asks for /etc", "does not allow", allowed]);
}
