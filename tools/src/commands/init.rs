//! `millrace init`

use crate::exit::{Done, Exit, Failure};
use crate::output::line;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

const EXAMPLES: &str = "\
Examples:
  millrace init hello
  millrace init resize --template command
  millrace init report --template python
  millrace init services/greet --template fast";

/// Makes the source of a new function.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Init {
    /// The function's name, or a path that ends with it
    #[arg(value_name = "NAME")]
    path: PathBuf,
    /// Which kind of function
    #[arg(long, value_enum, default_value_t)]
    template: Template,
}

/// What a new function looks like.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
enum Template {
    /// Arguments and result in memory: a call costs a quarter of a microsecond
    #[default]
    Fast,
    /// A WASI command: stdin, stdout, exit status; runs anywhere
    Command,
    /// A Python process that serves call after call by AWS Lambda's Runtime API
    Python,
    /// A shell script: a process per call, stdin, stdout, exit status
    Shell,
}

impl Template {
    fn is_wasm(self) -> bool {
        matches!(self, Template::Fast | Template::Command)
    }
}

const MANIFEST: &str = include_str!("../../../worker/runtime/template/function.toml");
const CARGO: &str = include_str!("../../../worker/runtime/template/Cargo.toml");
const BUILD: &str = include_str!("../../../worker/runtime/template/build.rs");
const FAST: &str = include_str!("../../../worker/runtime/template/src/lib.rs");
const FAST_ABI: &str = include_str!("../../../worker/runtime/template/src/millrace.rs");
const COMMAND: &str = include_str!("../../../worker/runtime/template/command/main.rs");
const CONFIG: &str = include_str!("../../../worker/runtime/template/.cargo/config.toml");
const PROCESS: &str = include_str!("../../../worker/runtime/template/process.toml");
const PYTHON: &str = include_str!("../../../worker/runtime/template/python/function.toml");
const PYTHON_APP: &str = include_str!("../../../worker/runtime/template/python/app.py");
const PYTHON_API: &str = include_str!("../../../worker/runtime/template/python/runtime.py");
const SHELL: &str = include_str!("../../../worker/runtime/template/shell/function.toml");
const SHELL_SCRIPT: &str = include_str!("../../../worker/runtime/template/shell/hello.sh");
/// The name in the template's files.
const NAME: &str = "\"hello\"";

impl Init {
    pub fn run(self) -> Done {
        let name = self.path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        check_name(name)?;
        let path = &self.path;
        if fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some()) {
            let what = "the directory is not empty";
            return Err(Failure::new(Exit::Machine, what, path.display().to_string(), "choose another name"));
        }
        for (file, text) in files(name, self.template) {
            write(&path.join(file), &text)?;
        }
        let build = if self.template.is_wasm() {
            "  cargo build --release    # once: rustup target add wasm32-wasip1\n"
        } else {
            ""
        };
        line(&format!(
            "made {0}; deploy and call it:\n  cd {0}\n{build}  millrace deploy\n  millrace call {name} --data you",
            path.display()
        ));
        Ok(Exit::Ok)
    }
}

/// Cargo's rules for a package and ours for a function, both.
fn check_name(name: &str) -> Result<(), Failure> {
    let is_plain = name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'));
    if is_plain && name.len() <= 64 {
        return Ok(());
    }
    let what = format!("`{name}` cannot be the name of a function and a cargo package");
    Err(Failure::new(
        Exit::Usage,
        what,
        "NAME",
        "use a letter, then letters, digits, `-` and `_`, 64 at most",
    ))
}

fn files(name: &str, template: Template) -> Vec<(&'static str, String)> {
    let quoted = format!("\"{name}\"");
    let named = |text: &str| text.replacen(NAME, &quoted, 1);
    match template {
        Template::Fast => vec![
            ("function.toml", with_artefact(&named(MANIFEST), &name.replace('-', "_"))),
            ("Cargo.toml", named(CARGO).replace(", \"rlib\"", "").replace(RLIB, "")),
            (".cargo/config.toml", CONFIG.into()),
            ("build.rs", BUILD.into()),
            ("src/lib.rs", FAST.into()),
            ("src/millrace.rs", FAST_ABI.into()),
        ],
        Template::Command => vec![
            ("function.toml", with_artefact(&named(MANIFEST), name)),
            ("Cargo.toml", without_lib(&named(CARGO))),
            (".cargo/config.toml", CONFIG.into()),
            ("build.rs", BUILD.into()),
            ("src/main.rs", COMMAND.into()),
        ],
        Template::Python => vec![
            ("function.toml", named(PYTHON) + PROCESS),
            ("src/app.py", PYTHON_APP.into()),
            ("src/runtime.py", PYTHON_API.into()),
        ],
        Template::Shell => {
            vec![("function.toml", named(SHELL) + PROCESS), ("src/hello.sh", SHELL_SCRIPT.into())]
        }
    }
}

/// What the comment in the template's Cargo.toml says of the part that a new function does not have.
const RLIB: &str = " rlib: so that src/bin/command.rs can use it.";

/// The manifest with the file that cargo will make.
fn with_artefact(manifest: &str, stem: &str) -> String {
    let artefact = format!("artefact = \"target/wasm32-wasip1/release/{stem}.wasm\"");
    let lines = manifest.lines().filter(|line| !line.starts_with("artefact"));
    let mut text = String::new();
    for line in lines {
        text += &format!("{line}\n");
        if line.starts_with("name") {
            text += &format!("{artefact}\n");
        }
    }
    text
}

/// A command is a binary: without the table `[lib]`.
fn without_lib(cargo: &str) -> String {
    let mut is_lib = false;
    let outside = |line: &&str| {
        is_lib = if line.starts_with('[') { *line == "[lib]" } else { is_lib };
        !is_lib
    };
    cargo.lines().filter(outside).map(|line| format!("{line}\n")).collect()
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    let directory = path.parent().expect("every file is in the new directory");
    // What the kernel starts by itself must be executable.
    let mode = if text.starts_with("#!") { 0o755 } else { 0o644 };
    let written: io::Result<()> = fs::create_dir_all(directory)
        .and_then(|()| File::options().write(true).create_new(true).mode(mode).open(path))
        .and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|error| Failure::file("write the new function", path, &error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deployment::{Code, Package};
    use std::io::{BufRead, BufReader, Read};
    use std::net::{TcpListener, TcpStream};
    use std::process::{Child, Command, Stdio};

    fn text(template: Template, file: &str) -> String {
        files("two-words", template).into_iter().find(|(name, _)| *name == file).unwrap().1
    }

    #[test]
    fn a_manifest_names_what_cargo_makes_and_reads_back() {
        for (template, artefact) in
            [(Template::Fast, "two_words.wasm"), (Template::Command, "two-words.wasm")]
        {
            let manifest = call::manifest::parse("function.toml", &text(template, "function.toml")).unwrap();
            assert_eq!(manifest.spec.name, "two-words");
            assert!(manifest.artefact.as_ref().unwrap().ends_with(artefact), "{:?}", manifest.artefact);
            let cargo: toml::Table = text(template, "Cargo.toml").parse().unwrap();
            assert_eq!(cargo["package"]["name"].as_str(), Some("two-words"));
            assert_eq!(cargo.contains_key("lib"), template == Template::Fast);
            assert!(cargo.contains_key("workspace") && cargo.contains_key("profile"));
        }
        assert!(!text(Template::Fast, "Cargo.toml").contains("rlib"));
    }

    /// A new function in a directory of its own, as `init` writes it.
    fn made(template: Template) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        let init = Init { path: directory.path().join("two-words"), template };
        init.run().unwrap();
        directory
    }

    #[test]
    fn a_wasm_template_builds_for_wasm_by_itself() {
        for template in [Template::Fast, Template::Command] {
            let config: toml::Table = text(template, ".cargo/config.toml").parse().unwrap();
            let target = config["build"]["target"].as_str().unwrap().to_owned();
            assert!(text(template, "function.toml").contains(&format!("target/{target}/release/")));
        }
    }

    #[test]
    fn a_process_template_can_be_deployed_as_it_is_and_its_comments_are_true() {
        for template in [Template::Python, Template::Shell] {
            let directory = made(template);
            let package = Package::read(&directory.path().join("two-words")).unwrap();
            assert_eq!(package.spec.name, "two-words");
            let Code::Bundle(contents) = &package.code else { panic!("not a bundle") };
            assert_eq!(contents.items.len(), files("x", template).len() - 1, "{contents:?}");
            // With the marks removed it says the same.
            let all = text(template, "function.toml");
            let all = all.lines().map(|line| {
                let rest = line.strip_prefix("# ").filter(|rest| !rest.starts_with(' '));
                let rest = rest.filter(|rest| rest.contains(" = ") || rest.starts_with('['));
                format!("{}\n", rest.unwrap_or(line))
            });
            let told = call::manifest::parse("all", &all.collect::<String>()).unwrap().spec;
            let mut spec = package.spec.clone();
            (spec.artefact, spec.artefact_bytes) = (String::new(), 0);
            spec.abi = spec.abi_in_force();
            assert_eq!(told, spec);
        }
    }

    #[test]
    fn the_shell_function_says_hello() {
        let directory = made(Template::Shell);
        for (arguments, expected) in [("you", "hello, you"), ("", "hello, world")] {
            let mut child = Command::new(directory.path().join("two-words/src/hello.sh"))
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            child.stdin.take().unwrap().write_all(arguments.as_bytes()).unwrap();
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success());
            assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
        }
    }

    /// One exchange of the Runtime API: the next question's head and body, answered so.
    fn exchange(stream: &mut BufReader<TcpStream>, answer: &str) -> (String, String) {
        let (mut head, mut length) = (String::new(), 0);
        loop {
            let mut line = String::new();
            stream.read_line(&mut line).unwrap();
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            head += &line;
            if line.trim().is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).unwrap();
        stream.get_mut().write_all(answer.as_bytes()).unwrap();
        (head, String::from_utf8(body).unwrap())
    }

    fn python(directory: &Path, handler: &str, listener: &TcpListener) -> Option<Child> {
        let started = Command::new("python3")
            .arg("runtime.py")
            .current_dir(directory.join("two-words/src"))
            .env("_HANDLER", handler)
            .env("AWS_LAMBDA_RUNTIME_API", listener.local_addr().unwrap().to_string())
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stderr(Stdio::piped())
            .spawn();
        match started {
            Ok(child) => Some(child),
            Err(error) => {
                let is_ci = std::env::var_os("CI").is_some() && nix::unistd::geteuid().is_root();
                assert!(!is_ci, "python3 does not start: {error}");
                eprintln!("SKIPPED: the Python template because python3 does not start: {error}");
                None
            }
        }
    }

    #[test]
    fn the_python_function_speaks_the_runtime_api() {
        let directory = made(Template::Python);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let Some(mut child) = python(directory.path(), "app.handle", &listener) else { return };
        let mut stream = BufReader::new(listener.accept().unwrap().0);
        let next = |body: &str| {
            let length = body.len();
            format!(
                "HTTP/1.1 200 OK\r\nLambda-Runtime-Aws-Request-Id: id-1\r\ncontent-length: {length}\r\n\r\n{body}"
            )
        };
        let accepted = "HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n";
        for (arguments, expected) in [("you", "hello, you"), ("", "hello, world")] {
            let (head, _) = exchange(&mut stream, &next(arguments));
            assert!(head.starts_with("GET /2018-06-01/runtime/invocation/next HTTP/1.1"), "{head}");
            let (head, body) = exchange(&mut stream, accepted);
            assert!(head.starts_with("POST /2018-06-01/runtime/invocation/id-1/response "), "{head}");
            assert_eq!(body, expected);
        }
        // It ends when the platform does.
        let (head, _) = exchange(&mut stream, "HTTP/1.1 500 Gone\r\ncontent-length: 4\r\n\r\ngone");
        assert!(head.starts_with("GET"), "{head}");
        assert_eq!(child.wait().unwrap().code(), Some(1));
    }

    #[test]
    fn the_python_function_reports_its_errors() {
        let directory = made(Template::Python);
        let app = directory.path().join("two-words/src/app.py");
        fs::write(&app, "def handle(arguments, call):\n    raise ValueError('no such thing')\n").unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let accepted = "HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n";
        let Some(mut child) = python(directory.path(), "app.handle", &listener) else { return };
        let mut stream = BufReader::new(listener.accept().unwrap().0);
        let next = "HTTP/1.1 200 OK\r\nlambda-runtime-aws-request-id: id-2\r\ncontent-length: 0\r\n\r\n";
        exchange(&mut stream, next);
        let (head, body) = exchange(&mut stream, accepted);
        assert!(head.starts_with("POST /2018-06-01/runtime/invocation/id-2/error "), "{head}");
        assert!(head.contains("Lambda-Runtime-Function-Error-Type: ValueError"), "{head}");
        let body: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(
            (&body["errorMessage"], &body["errorType"]),
            (&"no such thing".into(), &"ValueError".into())
        );
        child.kill().unwrap();
        child.wait().unwrap();

        let mut child = python(directory.path(), "none.handle", &listener).unwrap();
        let mut stream = BufReader::new(listener.accept().unwrap().0);
        let (head, body) = exchange(&mut stream, accepted);
        assert!(head.starts_with("POST /2018-06-01/runtime/init/error "), "{head}");
        assert!(body.contains("ModuleNotFoundError"), "{body}");
        assert_eq!(child.wait().unwrap().code(), Some(1));
    }

    #[test]
    fn names_that_cargo_refuses_are_refused() {
        for wrong in ["", "7up", "a.b", "a b", "-a", "ä"] {
            assert!(check_name(wrong).is_err(), "{wrong}");
        }
    }
}
