//! The shape of the project is a test: who may depend on whom, how long a file or a function may get, and a few
//! words that must not appear. Each law has a canary that shows it can fail.

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use syn::spanned::Spanned;
use syn::visit::Visit;

/// Lines of one function, its signature included: one screen.
const FUNCTION_LINES_MAX: usize = 70;
/// Lines of a file that decides (style: split by decision, not by layer).
const DECIDER_LINES_MAX: usize = 600;
/// Lines of any other file.
const FILE_LINES_MAX: usize = 900;

/// Which of our crates a crate may use. A crate that is not listed may use all of them.
const LAW: &[(&str, &[&str])] = &[
    ("call", &[]),
    ("driver", &["call"]),
    ("sandbox", &["call", "bpf"]),
    ("runtime", &["call", "driver", "sandbox"]),
    ("worker", &["call", "driver", "runtime", "sandbox"]),
    ("durableq", &["call"]),
    ("scheduler", &["call"]),
    ("controllers", &["call"]),
    ("control", &["call", "driver", "durableq", "scheduler", "controllers"]),
    ("bpf", &[]),
    ("millrace-client", &["call"]),
];

/// What a pure decider may use from outside: nothing that does I/O.
const DECIDERS: &[&str] = &["call", "durableq", "scheduler", "controllers"];
const PURE: &[&str] = &["crc32c", "rkyv", "serde", "serde_json", "strsim", "toml", "humantime", "proptest"];

/// Words that bring clocks, threads or chance order into a decider.
const IMPURE_WORDS: &[&str] = &[
    "std::time::Instant",
    "SystemTime",
    "std::thread",
    "HashMap",
    "HashSet",
    "std::fs",
    "std::net",
    "std::io",
];

/// Names that say nothing.
const EMPTY_NAMES: &[&str] = &["Manager", "Handler", "Helper", "Util", "Common"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is in the project").to_path_buf()
}

fn metadata() -> Metadata {
    MetadataCommand::new().manifest_path(root().join("Cargo.toml")).no_deps().exec().expect("cargo metadata")
}

fn sources() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> =
        ["worker", "control", "bpf", "tools", "benches", "tests"].iter().map(|d| root().join(d)).collect();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a source folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                let text = std::fs::read_to_string(&path).expect("a source file");
                found.push((path, text));
            }
        }
    }
    found.sort();
    assert!(found.len() > 30, "the walk found only {} sources", found.len());
    found
}

fn broken_dependencies(edges: &[(String, String)]) -> Vec<String> {
    let mut broken = Vec::new();
    for (from, to) in edges {
        let allowed = LAW.iter().find(|(name, _)| name == from).map(|(_, allowed)| *allowed);
        if allowed.is_some_and(|allowed| !allowed.contains(&to.as_str())) {
            broken.push(format!("{from} must not depend on {to}"));
        }
    }
    broken
}

#[test]
fn the_dependency_law_holds() {
    let metadata = metadata();
    let ours: BTreeSet<String> = metadata.packages.iter().map(|p| p.name.to_string()).collect();
    for (name, _) in LAW {
        assert!(ours.contains(*name), "{name} is in the law and not in the workspace");
    }
    let mut edges = Vec::new();
    for package in &metadata.packages {
        for dependency in package.dependencies.iter().filter(|d| d.kind != DependencyKind::Development) {
            let name = dependency.name.clone();
            if ours.contains(&name) {
                edges.push((package.name.to_string(), name));
            } else if DECIDERS.contains(&package.name.as_str()) {
                assert!(PURE.contains(&name.as_str()), "{} is a decider and uses {name}", package.name);
            }
        }
    }
    assert!(edges.len() > 15, "only {} edges were found", edges.len());
    assert_eq!(broken_dependencies(&edges), Vec::<String>::new());
}

#[test]
#[should_panic(expected = "worker must not depend on control")]
fn canary_a_worker_that_uses_control_is_seen() {
    let broken = broken_dependencies(&[("worker".into(), "control".into())]);
    assert!(broken.is_empty(), "{broken:?}");
}

#[test]
fn versions_stand_in_one_table() {
    for package in metadata().packages {
        let text = std::fs::read_to_string(&package.manifest_path).expect("a manifest");
        for line in text.lines().filter(|l| !l.starts_with('#')) {
            let own = line.contains("version = \"") || line.contains("path = \"..");
            assert!(!own, "{}: `{line}`: say `.workspace = true`", package.manifest_path);
        }
        assert!(text.contains("[lints]\nworkspace = true"), "{}: no lint table", package.manifest_path);
    }
}

struct Functions {
    long: Vec<(String, usize)>,
    seen: usize,
}

impl Functions {
    fn note(&mut self, name: &syn::Ident, lines: usize) {
        self.seen += 1;
        if lines > FUNCTION_LINES_MAX {
            self.long.push((name.to_string(), lines));
        }
    }
}

/// From the signature to the closing brace.
fn lines_of(signature: &syn::Signature, body: &syn::Block) -> usize {
    body.span().end().line - signature.span().start().line + 1
}

impl<'ast> Visit<'ast> for Functions {
    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.note(&item.sig.ident, lines_of(&item.sig, &item.block));
        syn::visit::visit_item_fn(self, item);
    }
    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.note(&item.sig.ident, lines_of(&item.sig, &item.block));
        syn::visit::visit_impl_item_fn(self, item);
    }
}

fn long_functions(text: &str) -> (Vec<(String, usize)>, usize) {
    let file = syn::parse_file(text).expect("a source file parses");
    let mut functions = Functions { long: Vec::new(), seen: 0 };
    functions.visit_file(&file);
    (functions.long, functions.seen)
}

#[test]
fn functions_fit_on_a_screen() {
    let (mut seen, mut wrong) = (0, Vec::new());
    for (path, text) in sources() {
        let (long, count) = long_functions(&text);
        seen += count;
        wrong.extend(
            long.into_iter().map(|(name, lines)| format!("{}: {name} has {lines} lines", path.display())),
        );
    }
    assert!(seen > 300, "only {seen} functions were found");
    assert!(wrong.is_empty(), "longer than {FUNCTION_LINES_MAX} lines:\n{}", wrong.join("\n"));
}

#[test]
#[should_panic(expected = "long has 73 lines")]
fn canary_a_long_function_is_seen() {
    let text = format!("fn long() {{\n{}}}\n", "    let _ = 1;\n".repeat(71));
    let (long, _) = long_functions(&text);
    assert!(long.is_empty(), "{} has {} lines", long[0].0, long[0].1);
}

#[test]
fn files_stay_small() {
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let lines = text.lines().count();
        let decides =
            ["control/durableq", "control/scheduler", "control/controllers", "worker/runtime/src/process"]
                .iter()
                .any(|folder| path.starts_with(root().join(folder)));
        let most = if decides { DECIDER_LINES_MAX } else { FILE_LINES_MAX };
        if lines > most {
            wrong.push(format!("{} has {lines} lines, at most {most}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The text without comments and without its `#[cfg(test)]` tail.
fn production(text: &str) -> String {
    let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or(text);
    code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

fn impure_words(text: &str) -> Vec<&'static str> {
    let code = production(text);
    IMPURE_WORDS.iter().copied().filter(|word| code.contains(word)).collect()
}

#[test]
fn deciders_are_pure() {
    let folders =
        ["worker/call/src", "control/durableq/src", "control/scheduler/src", "control/controllers/src"];
    let mut read = 0;
    for (path, text) in sources() {
        if !folders.iter().any(|folder| path.starts_with(root().join(folder))) {
            continue;
        }
        read += 1;
        let impure = impure_words(&text);
        assert!(impure.is_empty(), "{}: a decider uses {impure:?}", path.display());
    }
    assert!(read > 10, "only {read} decider files were read");
}

#[test]
#[should_panic(expected = "HashMap")]
fn canary_an_impure_decider_is_seen() {
    let impure = impure_words("use std::collections::HashMap;\n");
    assert!(impure.is_empty(), "{impure:?}");
}

#[test]
fn names_say_something() {
    for (path, text) in sources() {
        if path.ends_with("structure.rs") {
            continue;
        }
        for line in production(&text).lines() {
            let declared = ["struct ", "enum ", "trait "].iter().find_map(|word| line.split_once(word));
            let name =
                declared.map(|(_, rest)| rest.split(|c: char| !c.is_alphanumeric()).next().unwrap_or(""));
            let empty = EMPTY_NAMES.iter().any(|word| name.is_some_and(|name| name.ends_with(word)));
            assert!(!empty, "{}: `{}`", path.display(), line.trim());
        }
    }
}
