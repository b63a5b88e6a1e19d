//! `function.toml`: what the owner of a function writes about it.
//!
//! ```toml
//! name = "thumbnail"                # letters, digits, `-`, `_`, `.`
//! artefact = "target/thumbnail.wasm" # relative to this file
//!
//! # The rest may be left out; these are the defaults.
//! namespace = "default"
//! tenant = "default"
//! runtime = "wasm"
//! abi = "auto"                      # or "wasi", "fast"
//! instance = "reuse"                # or "fresh"
//! criticality = "normal"            # or "low", "high", "critical", or a number from 1 to 255
//! deadline = "24h"                  # from a call's start time to when it should be done
//! timeout = "30s"                   # of one execution
//! memory = "64MiB"                  # of one instance
//! concurrency = 1000                # calls executing at once, over all workers
//!
//! [retry]
//! attempts = 3                      # the first one included
//! backoff = "100ms"                 # doubles with each attempt
//! backoff_max = "60s"
//! ```
//!
//! Every error says file, line and column, what is wrong there, and what is allowed.

use crate::function::{Abi, FunctionSpec, InstanceMode, RetrySpec, RuntimeKind, SpecError};
use std::ops::Range;
use std::path::PathBuf;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Bytes of the longest manifest: room for a thousand long lines, and nobody waits for a parser.
pub const MANIFEST_BYTES_MAX: usize = 64 << 10;

/// A manifest, read and checked.
#[derive(Clone, PartialEq, Debug)]
pub struct Manifest {
    /// The function, without hash and size of its artefact, and without a version.
    pub spec: FunctionSpec,
    /// The wasm file, relative to the manifest.
    pub artefact: PathBuf,
}

const KEYS: [&str; 13] = [
    "name",
    "artefact",
    "namespace",
    "tenant",
    "runtime",
    "abi",
    "instance",
    "criticality",
    "deadline",
    "timeout",
    "memory",
    "concurrency",
    "retry",
];
const RETRY_KEYS: [&str; 3] = ["attempts", "backoff", "backoff_max"];

/// Names of levels of criticality, and their numbers.
pub const CRITICALITIES: [(&str, u8); 4] = [("low", 50), ("normal", 100), ("high", 150), ("critical", 200)];
const RUNTIMES: [(&str, RuntimeKind); 1] = [("wasm", RuntimeKind::Wasm)];
const ABIS: [(&str, Abi); 3] = [("auto", Abi::Auto), ("wasi", Abi::Wasi), ("fast", Abi::Fast)];
const INSTANCES: [(&str, InstanceMode); 2] = [("reuse", InstanceMode::Reuse), ("fresh", InstanceMode::Fresh)];
const UNITS: [(&str, u64); 4] = [("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];

/// Reads the text of a manifest. `file` is its name for error messages.
pub fn parse(file: &str, text: &str) -> Result<Manifest, SpecError> {
    let source = Source { file, text };
    if text.len() > MANIFEST_BYTES_MAX {
        let message = format!("the manifest has {} bytes, at most {MANIFEST_BYTES_MAX} allowed", text.len());
        return Err(SpecError { place: file.into(), message });
    }
    let table = DeTable::parse(text).map_err(|error| source.syntax(&error))?;
    let mut manifest = Manifest { spec: FunctionSpec::default(), artefact: PathBuf::new() };
    let mut places = Vec::new();
    for (name, value) in in_order(table.get_ref()) {
        let key = Key { source, name: name.get_ref().to_string(), at: value.span(), value: value.get_ref() };
        if !KEYS.contains(&key.name.as_str()) {
            return Err(source.unknown(name.span(), "", name.get_ref(), &KEYS));
        }
        read_key(&mut manifest, &key, &mut places)?;
        places.push((key.name, key.at));
    }
    require(source, &places, "name", "name = \"hello\"")?;
    require(source, &places, "artefact", "artefact = \"hello.wasm\"")?;
    manifest.spec.validate().map_err(|error| source.out_of_range(error, &places))?;
    Ok(manifest)
}

/// Where a key's value stands, for errors that are found later.
type Places = Vec<(String, Range<usize>)>;

fn require(source: Source<'_>, places: &Places, key: &str, example: &str) -> Result<(), SpecError> {
    if places.iter().any(|(name, _)| name == key) {
        return Ok(());
    }
    let message = format!("`{key}` is missing; write for example `{example}`");
    Err(SpecError { place: source.file.into(), message })
}

fn read_key(manifest: &mut Manifest, key: &Key<'_>, places: &mut Places) -> Result<(), SpecError> {
    let spec = &mut manifest.spec;
    match key.name.as_str() {
        "name" => spec.name = key.text("a text, like \"hello\"")?.into(),
        "artefact" => manifest.artefact = key.path()?,
        "namespace" => spec.namespace = key.text("a text, like \"default\"")?.into(),
        "tenant" => spec.tenant = key.text("a text, like \"default\"")?.into(),
        "runtime" => spec.runtime = key.one_of(&RUNTIMES)?,
        "abi" => spec.abi = key.one_of(&ABIS)?,
        "instance" => spec.instance = key.one_of(&INSTANCES)?,
        "criticality" => spec.criticality = key.criticality()?,
        "deadline" => spec.deadline_ms = key.duration_ms()?,
        "timeout" => spec.timeout_ms = key.duration_ms()?,
        "memory" => spec.memory_bytes = key.bytes()?,
        "concurrency" => spec.concurrency = key.number(u64::from(u32::MAX))? as u32,
        "retry" => read_retry(&mut spec.retry, key, places)?,
        other => unreachable!("`{other}` is among the known keys and is not read"),
    }
    Ok(())
}

fn read_retry(retry: &mut RetrySpec, table: &Key<'_>, places: &mut Places) -> Result<(), SpecError> {
    let expected = "a table: `[retry]` on a line of its own";
    let inner = table.value.as_table().ok_or_else(|| table.expected(expected))?;
    for (name, value) in in_order(inner) {
        let full = format!("retry.{}", name.get_ref());
        let key = Key { source: table.source, name: full, at: value.span(), value: value.get_ref() };
        match &**name.get_ref() {
            "attempts" => retry.attempts = key.number(u64::from(u16::MAX))? as u16,
            "backoff" => retry.backoff_ms = key.duration_ms()?,
            "backoff_max" => retry.backoff_max_ms = key.duration_ms()?,
            other => return Err(table.source.unknown(name.span(), "retry.", other, &RETRY_KEYS)),
        }
        places.push((key.name, key.at));
    }
    Ok(())
}

type Pair<'t, 'i> = (&'t Spanned<toml::de::DeString<'i>>, &'t Spanned<DeValue<'i>>);

/// The keys of a table as they stand in the file, so that the first error is the first one a reader meets.
fn in_order<'t, 'i>(table: &'t DeTable<'i>) -> Vec<Pair<'t, 'i>> {
    let mut pairs: Vec<_> = table.iter().collect();
    pairs.sort_by_key(|(name, _)| name.span().start);
    pairs
}

/// A manifest's text, to tell places in it.
#[derive(Clone, Copy)]
struct Source<'a> {
    file: &'a str,
    text: &'a str,
}

impl Source<'_> {
    /// `file:line:column`, both from 1, the column in characters.
    fn place(&self, at: &Range<usize>) -> String {
        let before = &self.text.as_bytes()[..at.start.min(self.text.len())];
        let line_start = before.iter().rposition(|&byte| byte == b'\n').map_or(0, |newline| newline + 1);
        let line = before.iter().filter(|&&byte| byte == b'\n').count() + 1;
        let column = String::from_utf8_lossy(&before[line_start..]).chars().count() + 1;
        format!("{}:{line}:{column}", self.file)
    }

    fn error(&self, at: &Range<usize>, message: String) -> SpecError {
        SpecError { place: self.place(at), message }
    }

    fn syntax(&self, error: &toml::de::Error) -> SpecError {
        let at = error.span().unwrap_or(0..0);
        self.error(&at, format!("not valid TOML: {}", error.message().trim_end().replace('\n', "; ")))
    }

    fn unknown(&self, at: Range<usize>, table: &str, name: &str, known: &[&str]) -> SpecError {
        let shown: String = name.chars().take(64).collect();
        let nearest = nearest(name, known.iter().copied());
        let hint = nearest.map_or(String::new(), |near| format!(" Did you mean `{table}{near}`?"));
        self.error(&at, format!("unknown key `{table}{shown}`.{hint} Known keys: {}", known.join(", ")))
    }

    /// An error of [`FunctionSpec::validate`], at the value that caused it.
    fn out_of_range(&self, error: SpecError, places: &Places) -> SpecError {
        let place = places.iter().find(|(name, _)| *name == error.place);
        let message = format!("`{}` {}", error.place, error.message);
        match place {
            Some((_, at)) => self.error(at, message),
            None => SpecError { place: self.file.into(), message },
        }
    }
}

/// The known word that is most like `word`, if one is at all.
fn nearest<'k>(word: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    let likeness = |known: &str| strsim::jaro_winkler(&word.to_lowercase(), known);
    let best =
        known.map(|known| (likeness(&known.to_lowercase()), known)).max_by(|a, b| a.0.total_cmp(&b.0))?;
    // Below this, Jaro-Winkler finds likeness between words that share only a letter or two.
    (best.0 >= 0.75).then_some(best.1)
}

/// A key with its value, not interpreted yet.
struct Key<'a> {
    source: Source<'a>,
    name: String,
    at: Range<usize>,
    value: &'a DeValue<'a>,
}

impl Key<'_> {
    fn error(&self, message: String) -> SpecError {
        self.source.error(&self.at, message)
    }

    fn expected(&self, what: &str) -> SpecError {
        self.error(format!("`{}` is {}, expected {what}", self.name, an(self.value.type_str())))
    }

    fn text(&self, expected: &str) -> Result<&str, SpecError> {
        self.value.as_str().ok_or_else(|| self.expected(expected))
    }

    fn path(&self) -> Result<PathBuf, SpecError> {
        match self.text("a path, like \"hello.wasm\"")? {
            "" => Err(self.error("`artefact` is empty; write the path of the wasm file".into())),
            path => Ok(PathBuf::from(path)),
        }
    }

    fn one_of<T: Copy>(&self, words: &[(&str, T)]) -> Result<T, SpecError> {
        let allowed: Vec<String> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
        let allowed = allowed.join(", ");
        let text = self.text(&format!("one of {allowed}"))?;
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return Ok(*value);
        }
        let hint = nearest(text, words.iter().map(|(word, _)| *word));
        let hint = hint.map_or(String::new(), |near| format!("; did you mean \"{near}\"?"));
        let shown: String = text.chars().take(64).collect();
        Err(self.error(format!("`{}` is \"{shown}\", must be one of {allowed}{hint}", self.name)))
    }

    fn criticality(&self) -> Result<u8, SpecError> {
        if self.value.is_integer() {
            return Ok(self.number(u64::from(u8::MAX))? as u8);
        }
        if !self.value.is_str() {
            return Err(
                self.expected("a number from 1 to 255, or \"low\", \"normal\", \"high\" or \"critical\"")
            );
        }
        self.one_of(&CRITICALITIES)
    }

    fn number(&self, most: u64) -> Result<u64, SpecError> {
        let integer = self.value.as_integer().ok_or_else(|| self.expected("a whole number"))?;
        let number =
            u64::from_str_radix(integer.as_str(), integer.radix()).ok().filter(|number| *number <= most);
        number.ok_or_else(|| {
            self.error(format!("`{}` is {}, must be between 1 and {most}", self.name, integer.as_str()))
        })
    }

    fn duration_ms(&self) -> Result<u64, SpecError> {
        let expected = "a duration with its unit, like \"250ms\", \"30s\" or \"1h30m\"";
        let text = self.text(expected)?;
        let wrong = || self.error(format!("`{}` is not {expected}", self.name));
        let duration = humantime::parse_duration(text).map_err(|_| wrong())?;
        if !duration.subsec_nanos().is_multiple_of(1_000_000) {
            return Err(self.error(format!("`{}` is finer than a millisecond", self.name)));
        }
        u64::try_from(duration.as_millis()).map_err(|_| wrong())
    }

    fn bytes(&self) -> Result<u64, SpecError> {
        let expected = "a size with its unit (B, KiB, MiB or GiB), like \"64MiB\"";
        let text = self.text(expected)?;
        let wrong = || self.error(format!("`{}` is not {expected}", self.name));
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit.trim()).ok_or_else(wrong)?;
        number.parse::<u64>().ok().and_then(|number| number.checked_mul(*factor)).ok_or_else(wrong)
    }
}

fn an(kind: &str) -> String {
    let article = if kind.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
    format!("{article} {kind}")
}

#[cfg(test)]
mod tests {
    use super::*;
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

[retry]
attempts = 5
backoff = "250ms"
backoff_max = "10s"
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
        assert_eq!(artefact, PathBuf::from("target/thumbnail.wasm"));
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
            retry: RetrySpec { attempts: 5, backoff_ms: 250, backoff_max_ms: 10_000 },
            ..FunctionSpec::default()
        };
        assert_eq!(spec, expected);
        for key in KEYS.iter().filter(|key| **key != "retry").chain(&RETRY_KEYS) {
            assert!(WHOLE.contains(&format!("{key} = ")), "`{key}` is missing in this test");
        }
    }

    #[test]
    fn keys_left_out_have_the_defaults_that_the_documentation_shows() {
        let documented: Vec<&str> = include_str!("manifest.rs")
            .lines()
            .skip_while(|line| *line != "//! ```toml")
            .skip(1)
            .take_while(|line| *line != "//! ```")
            .map(|line| line.trim_start_matches("//!").trim_start())
            .collect();
        let documented = parse("documentation", &documented.join("\n")).unwrap();
        let short = parse("short", "name = 'thumbnail'\nartefact = 'target/thumbnail.wasm'").unwrap();
        assert_eq!(documented, short);
    }

    #[test]
    fn errors_say_where_what_and_what_instead() {
        for (line, expected) in [
            (
                "memroy = \"1MiB\"",
                "function.toml:3:1: unknown key `memroy`. Did you mean `memory`? Known keys: name, ",
            ),
            ("zzz = 1", "function.toml:3:1: unknown key `zzz`. Known keys: name, "),
            (
                "[retry]\ntries = 2",
                "function.toml:4:1: unknown key `retry.tries`. Known keys: attempts, backoff",
            ),
            ("retry = 3", "function.toml:3:9: `retry` is an integer, expected a table"),
            (
                "abi = \"wassi\"",
                "function.toml:3:7: `abi` is \"wassi\", must be one of \"auto\", \"wasi\", \"fast\"; did you mean \"wasi\"?",
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
            (
                "concurrency = 99999999999999999999",
                "function.toml:3:15: `concurrency` is 99999999999999999999",
            ),
            (
                "deadline = 30",
                "function.toml:3:12: `deadline` is an integer, expected a duration with its unit",
            ),
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
        ] {
            let error = refused(&with(line));
            assert!(error.contains(expected), "{line}:\n  {error}\n  {expected}");
        }
        assert!(refused("artefact = 'a'").contains("function.toml: `name` is missing"));
        assert!(refused("name = 'a'").contains("function.toml: `artefact` is missing"));
        assert!(refused("name = 'a'\nartefact = ''").contains("2:12: `artefact` is empty"));
        assert!(refused(&" ".repeat(MANIFEST_BYTES_MAX + 1)).contains("at most 65536"));
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

    proptest! {
        #[test]
        fn arbitrary_text_is_read_or_refused(text in any::<String>()) {
            let _ = parse("function.toml", &text);
        }

        #[test]
        fn a_changed_manifest_is_read_or_refused(
            changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<char>()), 1..8),
        ) {
            let mut text: Vec<char> = WHOLE.chars().collect();
            for (at, to) in changes {
                *at.get_mut(&mut text) = to;
            }
            let text: String = text.into_iter().collect();
            match parse("function.toml", &text) {
                Ok(manifest) => prop_assert_eq!(manifest.spec.validate(), Ok(())),
                Err(error) => prop_assert!(error.place.starts_with("function.toml")),
            }
        }

        #[test]
        fn arbitrary_values_are_read_or_refused(
            key in proptest::sample::select(KEYS.to_vec()),
            value in prop_oneof![
                any::<i64>().prop_map(|number| number.to_string()),
                any::<f64>().prop_map(|number| format!("{number:?}")),
                "[0-9]{0,20} ?[a-zA-Z]{0,4}".prop_map(|text| format!("'{text}'")),
                Just("{ attempts = 1 }".to_string()),
                Just("[1, 'a']".to_string()),
            ],
        ) {
            let rest = if key == "name" { "artefact = 'a'" } else { "name = 'a'" };
            let _ = parse("function.toml", &format!("{key} = {value}\n{rest}\n"));
        }
    }
}
