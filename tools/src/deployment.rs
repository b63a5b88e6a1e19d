//! Deploying: manifest and code in, a function that is ready out. Also for programs that deploy many functions.

use crate::admin::Admin;
use crate::exit::{Exit, Failure};
use crate::interrupt;
use crate::packing;
use call::admin::FunctionState;
use call::function::RuntimeKind;
use call::limits::ARTEFACT_BYTES_MAX;
use call::manifest::{self, Manifest};
use call::{FunctionSpec, SpecError};
use runtime::wasm::artefact::sha256;
use runtime::wasm::inspect::{Inspection, inspect};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use worker::bundle::{self, Contents};

/// Name of the manifest in a function's directory.
pub const MANIFEST: &str = "function.toml";
/// Between two looks at whether a function is ready.
const LOOK: Duration = Duration::from_millis(50);

/// A function that is ready to be deployed: everything that can be checked here has been.
#[derive(Clone, Debug)]
pub struct Package {
    /// What will be deployed.
    pub spec: FunctionSpec,
    /// The wasm file, or the bundle as a tar or tar.gz.
    pub artefact: Vec<u8>,
    /// What it is.
    pub code: Code,
}

/// What an artefact was found to be.
#[derive(Clone, Debug)]
pub enum Code {
    /// A module.
    Wasm(Inspection),
    /// The files of a process function.
    Bundle(Contents),
}

impl Package {
    /// Of a directory with a `function.toml`, of a manifest, or of a bare wasm file (named after the file, everything
    /// else by default).
    ///
    /// # Errors
    /// What is wrong with the manifest (file, line, column) or with the wasm file.
    pub fn read(path: &Path) -> Result<Package, Failure> {
        let path = if path.is_dir() { path.join(MANIFEST) } else { path.to_owned() };
        if path.extension().is_some_and(|extension| extension == "wasm") {
            let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            return Package::read_wasm(FunctionSpec { name: stem.into(), ..FunctionSpec::default() }, &path);
        }
        let name = path.display().to_string();
        let text = read_bounded(&path, "the manifest", manifest::MANIFEST_BYTES_MAX)?;
        let text = String::from_utf8(text).map_err(|error| {
            let what = format!("the manifest is not UTF-8 from byte {} on", error.utf8_error().valid_up_to());
            Failure::input(
                what,
                &name,
                "a manifest is a text; to deploy a wasm file give it the ending .wasm",
            )
        })?;
        let Manifest { spec, artefact } =
            manifest::parse(&name, &text).map_err(|error| manifest_failure(&error))?;
        let beside = |file: PathBuf| path.parent().unwrap_or(Path::new("")).join(file);
        match spec.runtime {
            RuntimeKind::Wasm => Package::read_wasm(spec, &beside(artefact.unwrap_or_default())),
            RuntimeKind::Process => match artefact {
                Some(bundle) => Package::read_bundle(spec, &beside(bundle)),
                None => Package::new(spec, packing::empty(), &name),
            },
        }
    }

    /// Of a process function whose manifest is known and its bundle: a directory, which is packed, or an archive.
    ///
    /// # Errors
    /// A bundle that is missing or that no host would take, or that lacks the program that the command names.
    pub fn read_bundle(spec: FunctionSpec, path: &Path) -> Result<Package, Failure> {
        let artefact = if path.is_dir() {
            packing::pack(path)?
        } else {
            let slim = "leave out tests, caches and debug symbols, or compress it as .tar.gz";
            read_bounded(path, "the bundle", ARTEFACT_BYTES_MAX).map_err(|mut failure| {
                failure.remedy = match failure.exit {
                    Exit::NotFound => "build the function first, or correct `bundle` in its manifest".into(),
                    Exit::BadInput => slim.into(),
                    _ => failure.remedy,
                };
                failure
            })?
        };
        Package::new(spec, artefact, &path.display().to_string())
    }

    /// Of a function whose manifest is known and a wasm file.
    ///
    /// # Errors
    /// A file that is missing, not wasm, or that cannot run here.
    pub fn read_wasm(spec: FunctionSpec, path: &Path) -> Result<Package, Failure> {
        let wasm = read_bounded(path, "the wasm file", ARTEFACT_BYTES_MAX).map_err(|mut failure| {
            if failure.exit == Exit::NotFound {
                failure.remedy =
                    "build the function first (`cargo build --release --target wasm32-wasip1`), or \
                                  correct `artefact` in its manifest"
                        .into();
            }
            failure
        })?;
        Package::new(spec, wasm, &path.display().to_string())
    }

    /// Of a function whose manifest and artefact are known; errors call the artefact by `name`.
    ///
    /// # Errors
    /// Values out of range; what is neither wasm nor a bundle, or cannot run here.
    pub fn new(mut spec: FunctionSpec, artefact: Vec<u8>, name: &str) -> Result<Package, Failure> {
        spec.validate().map_err(|error| manifest_failure(&error))?;
        let code = match spec.runtime {
            RuntimeKind::Wasm => inspect(&artefact, spec.abi, spec.memory_bytes)
                .map(Code::Wasm)
                .map_err(|error| refused("file", &error.to_string(), name))?,
            RuntimeKind::Process => bundle::inspect(&artefact)
                .and_then(|contents| contents.check_command(&spec.process).map(|()| Code::Bundle(contents)))
                .map_err(|error| refused("bundle", &error.to_string(), name))?,
        };
        spec.artefact = sha256(&artefact);
        spec.artefact_bytes = artefact.len() as u64;
        Ok(Package { spec, artefact, code })
    }

    /// Uploads the artefact and puts the function in force; it may not be ready yet.
    ///
    /// # Errors
    /// As the API says.
    pub fn deploy(&self, admin: &Admin) -> Result<FunctionState, Failure> {
        let kind = match self.code {
            Code::Wasm(_) => "application/wasm",
            Code::Bundle(_) => "application/octet-stream",
        };
        let _stored: serde_json::Value =
            admin.put_artefact(&format!("/v1/artefacts/{}", self.spec.artefact), kind, &self.artefact)?;
        admin.put(&route(&self.spec), &self.spec)
    }
}

/// An artefact that is no good; the error says what, then, behind a semicolon, what to do.
fn refused(what: &str, error: &str, name: &str) -> Failure {
    let (why, remedy) = error.split_once("; ").unwrap_or((error, "see tools/README.md for what runs here"));
    Failure::input(format!("the {what} {why}"), name, remedy)
}

/// Waits until a host has compiled or unpacked this version of the function.
///
/// # Errors
/// It cannot be made ready; nobody has in `time`; Ctrl-C.
pub fn wait_until_ready(
    admin: &Admin,
    spec: &FunctionSpec,
    time: Duration,
    mut progress: impl FnMut(&FunctionState),
) -> Result<FunctionState, Failure> {
    let until = Instant::now() + time;
    let place = format!("{}/{}", spec.namespace, spec.name);
    loop {
        let state: FunctionState = admin.get(&route(spec))?;
        progress(&state);
        match state.state.as_str() {
            _ if state.spec.version != spec.version => {
                let what = format!("version {} was replaced by version {}", spec.version, state.spec.version);
                return Err(Failure::new(Exit::Refused, what, place, "somebody else deployed it meanwhile"));
            }
            "ready" => return Ok(state),
            "failed" => {
                let what = format!("the function cannot be made ready: {}", state.reason);
                return Err(Failure::input(what, place, "correct it and deploy again; its calls wait"));
            }
            _ => {}
        }
        if interrupt::is_asked() {
            return Err(Failure::new(
                Exit::Interrupted,
                "interrupted",
                place,
                "it is deployed and will be made ready",
            ));
        }
        if Instant::now() >= until {
            let remedy = "is a worker running? See `millrace workers`; the function stays deployed";
            return Err(Failure::new(Exit::TimedOut, "no host has the function ready yet", place, remedy));
        }
        std::thread::sleep(LOOK);
    }
}

fn route(spec: &FunctionSpec) -> String {
    format!("/v1/functions/{}/{}", spec.namespace, spec.name)
}

/// A manifest's error already says place, what, and what is allowed.
fn manifest_failure(error: &SpecError) -> Failure {
    let (what, remedy) = error
        .message
        .split_once("; ")
        .unwrap_or((&error.message, "`millrace init` writes a function.toml that describes every key"));
    Failure::input(what, error.place.clone(), remedy)
}

fn read_bounded(path: &Path, what: &str, most: usize) -> Result<Vec<u8>, Failure> {
    let failed = |error: io::Error| Failure::file(&format!("read {what}"), path, &error);
    let mut bytes = Vec::new();
    File::open(path).map_err(failed)?.take(most as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() <= most {
        return Ok(bytes);
    }
    let what = format!("{what} has more than {most} bytes");
    Err(Failure::input(what, path.display().to_string(), "make it smaller: strip it, or check the path"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Exports both halves of the fast ABI.
    const FAST: &str = r#"(module (memory (export "memory") 1)
        (func (export "millrace_alloc") (param i32) (result i32) i32.const 0)
        (func (export "millrace_call") (param i32 i32) (result i64) i64.const 0))"#;

    fn told(manifest: &str, wasm: Option<&[u8]>) -> Failure {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join(MANIFEST), manifest).unwrap();
        if let Some(wasm) = wasm {
            std::fs::write(directory.path().join("f.wasm"), wasm).unwrap();
        }
        Package::read(directory.path()).unwrap_err()
    }

    const MINIMAL: &str = "name = \"f\"\nartefact = \"f.wasm\"\n";

    #[test]
    fn bad_packages_are_told_with_place_and_remedy() {
        let failure = told("name = \"f\"\nartefact = \"f.wasm\"\ntimeot = \"1s\"\n", None);
        assert!(
            failure.place.contains("function.toml:3:1") && failure.to_string().contains("timeout"),
            "{failure}"
        );
        let failure = told(MINIMAL, None);
        assert!(failure.exit == Exit::NotFound && failure.remedy.contains("cargo build"), "{failure}");
        let failure = told(MINIMAL, Some(b"\x7fELF..."));
        assert!(failure.what.contains("not a wasm file") && failure.place.ends_with("f.wasm"), "{failure}");
        let failure = Package::read(Path::new("/nonexistent")).unwrap_err();
        assert!(failure.exit == Exit::NotFound && failure.place == "/nonexistent", "{failure}");
    }

    #[test]
    fn unknown_imports_are_named() {
        let wasm = wat(
            r#"(module (import "env" "magic" (func)) (func (export "_start")) (memory (export "memory") 1))"#,
        );
        let failure = told(MINIMAL, Some(&wasm));
        assert!(failure.exit == Exit::BadInput && failure.what.contains("env.magic"), "{failure}");
    }

    #[test]
    fn a_bare_wasm_file_is_named_after_itself() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("hello.wasm");
        std::fs::write(&path, wat(FAST)).unwrap();
        let package = Package::read(&path).unwrap();
        assert_eq!((package.spec.name.as_str(), package.spec.artefact.len()), ("hello", 64));
        assert_eq!(package.spec.artefact_bytes, package.artefact.len() as u64);
    }

    const PROCESS: &str = "name = \"f\"\nruntime = \"process\"\n";

    #[test]
    fn a_directory_or_an_archive_is_the_bundle_of_a_process_function() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        std::fs::create_dir(at("code")).unwrap();
        std::fs::write(at("code/run"), "#!/bin/sh\n").unwrap();
        let manifest = |bundle: &str| {
            std::fs::write(at(MANIFEST), format!("{PROCESS}command = [\"./run\"]\n{bundle}\n")).unwrap();
            Package::read(directory.path())
        };
        let failure = manifest("bundle = \"code\"").unwrap_err();
        assert!(
            failure.what.contains("`run` is not executable") && failure.remedy.contains("chmod"),
            "{failure}"
        );
        std::fs::set_permissions(at("code/run"), std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .unwrap();
        let package = manifest("bundle = \"code\"").unwrap();
        assert!(matches!(&package.code, Code::Bundle(contents) if contents.items.len() == 1));
        assert_eq!(package.spec.artefact, sha256(&package.artefact));

        std::fs::write(at("code.tar"), &package.artefact).unwrap();
        assert_eq!(manifest("bundle = \"code.tar\"").unwrap().spec, package.spec);

        let failure = manifest("bundle = \"gone\"").unwrap_err();
        assert!(failure.exit == Exit::NotFound && failure.remedy.contains("correct `bundle`"), "{failure}");
        let failure = manifest("").unwrap_err();
        assert!(failure.what.contains("`run` is not in it"), "{failure}");
        std::fs::write(at("zip"), b"PK\x03\x04".repeat(200)).unwrap();
        let failure = manifest("bundle = \"zip\"").unwrap_err();
        assert!(failure.what.contains("not a sound tar") && failure.place.ends_with("zip"), "{failure}");
        std::fs::File::create(at("large")).unwrap().set_len(65 << 20).unwrap();
        let failure = manifest("bundle = \"large\"").unwrap_err();
        assert!(
            failure.what.contains("more than 67108864 bytes") && failure.remedy.contains(".tar.gz"),
            "{failure}"
        );
    }

    #[test]
    fn a_program_of_the_host_needs_no_bundle() {
        let directory = tempfile::tempdir().unwrap();
        let text = format!("{PROCESS}command = [\"cat\"]\nabi = \"stdio\"\n");
        std::fs::write(directory.path().join(MANIFEST), text).unwrap();
        let package = Package::read(directory.path()).unwrap();
        assert!(matches!(&package.code, Code::Bundle(contents) if contents.items.is_empty()));
    }

    fn wat(text: &str) -> Vec<u8> {
        wat::parse_str(text).unwrap()
    }
}
