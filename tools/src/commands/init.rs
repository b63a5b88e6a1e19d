//! `millrace init`

use crate::exit::{Done, Exit, Failure};
use crate::output::line;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

const EXAMPLES: &str = "\
Examples:
  millrace init hello
  millrace init resize --template command
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
}

const MANIFEST: &str = include_str!("../../../worker/runtime/template/function.toml");
const CARGO: &str = include_str!("../../../worker/runtime/template/Cargo.toml");
const BUILD: &str = include_str!("../../../worker/runtime/template/build.rs");
const FAST: &str = include_str!("../../../worker/runtime/template/src/lib.rs");
const FAST_ABI: &str = include_str!("../../../worker/runtime/template/src/millrace.rs");
const COMMAND: &str = include_str!("../../../worker/runtime/template/command/main.rs");
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
        line(&format!(
            "made {0}; build and deploy it:\n  cd {0}\n  cargo build --release --target wasm32-wasip1    \
             # once: rustup target add wasm32-wasip1\n  millrace deploy\n  millrace call {name} --data you",
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
            ("build.rs", BUILD.into()),
            ("src/lib.rs", FAST.into()),
            ("src/millrace.rs", FAST_ABI.into()),
        ],
        Template::Command => vec![
            ("function.toml", with_artefact(&named(MANIFEST), name)),
            ("Cargo.toml", without_lib(&named(CARGO))),
            ("build.rs", BUILD.into()),
            ("src/main.rs", COMMAND.into()),
        ],
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
    let written: io::Result<()> = fs::create_dir_all(directory).and_then(|()| fs::write(path, text));
    written.map_err(|error| Failure::file("write the new function", path, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn names_that_cargo_refuses_are_refused() {
        for wrong in ["", "7up", "a.b", "a b", "-a", "ä"] {
            assert!(check_name(wrong).is_err(), "{wrong}");
        }
    }
}
