//! Places and values in a manifest, and errors about them.

use super::{CRITICALITIES, KEYS, Places, TABLES};
use crate::Status;
use crate::function::check::FINALS;
use crate::function::{Rule, SpecError};
use std::ops::Range;
use std::path::PathBuf;
use toml::de::{DeTable, DeValue};

const UNITS: [(&str, u64); 4] = [("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];

/// A manifest's text, to tell places in it.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    pub file: &'a str,
    pub text: &'a str,
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

    pub fn error(&self, at: &Range<usize>, message: String) -> SpecError {
        SpecError { place: self.place(at), message }
    }

    pub fn syntax(&self, error: &toml::de::Error) -> SpecError {
        let at = error.span().unwrap_or(0..0);
        self.error(&at, format!("not valid TOML: {}", error.message().trim_end().replace('\n', "; ")))
    }

    pub fn unknown(&self, at: Range<usize>, table: &str, name: &str, known: &[&str]) -> SpecError {
        let shown: String = name.chars().take(64).collect();
        let hint = match (elsewhere(name), nearest(name, known.iter().copied())) {
            (Some(place), _) => format!(" {place}"),
            (None, Some(near)) => format!(" Did you mean `{table}{near}`?"),
            (None, None) => String::new(),
        };
        self.error(&at, format!("unknown key `{table}{shown}`.{hint} Known keys: {}", known.join(", ")))
    }

    /// An error of [`FunctionSpec::validate`], at the value that caused it.
    pub fn out_of_range(&self, error: SpecError, places: &Places) -> SpecError {
        let at = |key: &str| places.iter().find(|(name, _)| name == key);
        // Of a table as a whole, if the key is not there.
        let place = at(&error.place).or_else(|| at(error.place.split('.').next().unwrap_or_default()));
        let message = format!("`{}` {}", error.place, error.message);
        match place {
            Some((_, at)) => self.error(at, message),
            None => SpecError { place: self.file.into(), message },
        }
    }
}

/// Where a key stands that is right in another place: TOML takes what follows a table's head for the table's.
fn elsewhere(name: &str) -> Option<String> {
    if KEYS.contains(&name) {
        return Some(format!("`{name}` stands before the first [table]."));
    }
    let (table, _) = TABLES.iter().find(|(_, keys)| keys.contains(&name))?;
    Some(format!("`{name}` stands in [{table}]."))
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
pub(super) struct Key<'a> {
    pub source: Source<'a>,
    /// With the name of its table.
    pub name: String,
    pub at: Range<usize>,
    pub value: &'a DeValue<'a>,
}

impl Key<'_> {
    fn error(&self, message: String) -> SpecError {
        self.source.error(&self.at, message)
    }

    fn expected(&self, what: &str) -> SpecError {
        self.error(format!("`{}` is {}, expected {what}", self.name, an(self.value.type_str())))
    }

    pub fn table(&self) -> Result<&DeTable<'_>, SpecError> {
        self.value
            .as_table()
            .ok_or_else(|| self.expected(&format!("a table: `[{}]` on a line of its own", self.name)))
    }

    pub fn text(&self, expected: &str) -> Result<&str, SpecError> {
        self.value.as_str().ok_or_else(|| self.expected(expected))
    }

    /// The elements of a list, each a key of its own for errors.
    fn list(&self, expected: &str) -> Result<Vec<Key<'_>>, SpecError> {
        let list = self.value.as_array().ok_or_else(|| self.expected(expected))?;
        let keys = list.iter().enumerate().map(|(at, value)| Key {
            source: self.source,
            name: format!("{}[{at}]", self.name),
            at: value.span(),
            value: value.get_ref(),
        });
        Ok(keys.collect())
    }

    pub fn texts(&self, expected: &str) -> Result<Vec<String>, SpecError> {
        let list = self.list(expected)?;
        list.iter().map(|element| Ok(element.text("a text")?.to_owned())).collect()
    }

    pub fn statuses(&self) -> Result<Vec<Status>, SpecError> {
        let words = FINALS.map(|status| (status.name(), status));
        let list = self.list("a list of ends, like [\"exit\", \"timeout\"]")?;
        list.iter().map(|element| element.one_of(&words)).collect()
    }

    pub fn small_numbers(&self, expected: &str) -> Result<Vec<u8>, SpecError> {
        let list = self.list(expected)?;
        list.iter().map(|element| Ok(element.number(u64::from(u8::MAX))? as u8)).collect()
    }

    pub fn truth(&self) -> Result<bool, SpecError> {
        self.value.as_bool().ok_or_else(|| self.expected("true or false"))
    }

    pub fn rules(&self) -> Result<Vec<Rule>, SpecError> {
        let list = self.list("a list of rules, like [\"10.0.0.0/8:443\"]")?;
        let rule = |element: &Key<'_>| {
            let text = element.text("a rule, like \"10.0.0.0/8:443\"")?;
            text.parse().map_err(|error: SpecError| {
                element.error(format!("`{}` is {}: {}", element.name, error.place, error.message))
            })
        };
        list.iter().map(rule).collect()
    }

    pub fn path(&self, example: &str) -> Result<PathBuf, SpecError> {
        match self.text(&format!("a path, like \"{example}\""))? {
            "" => Err(self.error(format!("`{}` is empty; write a path, like \"{example}\"", self.name))),
            path => Ok(PathBuf::from(path)),
        }
    }

    pub fn one_of<T: Copy>(&self, words: &[(&str, T)]) -> Result<T, SpecError> {
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

    pub fn criticality(&self) -> Result<u8, SpecError> {
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

    pub fn number(&self, most: u64) -> Result<u64, SpecError> {
        let integer = self.value.as_integer().ok_or_else(|| self.expected("a whole number"))?;
        let number =
            u64::from_str_radix(integer.as_str(), integer.radix()).ok().filter(|number| *number <= most);
        number.ok_or_else(|| {
            self.error(format!("`{}` is {}, must be between 1 and {most}", self.name, integer.as_str()))
        })
    }

    pub fn number_u32(&self) -> Result<u32, SpecError> {
        Ok(self.number(u64::from(u32::MAX))? as u32)
    }

    /// A number with up to three digits behind the point, as text or bare.
    pub fn thousandths(&self) -> Result<u32, SpecError> {
        let expected = "a number of cores, like \"1.5\" or 2; \"0\" for no limit";
        let text = match self.value {
            DeValue::String(text) => text,
            DeValue::Integer(integer) if integer.radix() == 10 => integer.as_str(),
            DeValue::Float(float) => float.as_str(),
            _ => return Err(self.expected(expected)),
        };
        let wrong = || {
            self.error(format!(
                "`{}` is not {expected}, with three digits behind the point at most",
                self.name
            ))
        };
        let (whole, rest) = text.split_once('.').unwrap_or((text, "0"));
        let is_number = |digits: &str| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        if !is_number(whole) || !is_number(rest) || rest.len() > 3 {
            return Err(wrong());
        }
        let whole: u32 = whole.parse().map_err(|_| wrong())?;
        let rest: u32 = format!("{rest:0<3}").parse().map_err(|_| wrong())?;
        whole.checked_mul(1000).and_then(|whole| whole.checked_add(rest)).ok_or_else(wrong)
    }

    pub fn duration_ms(&self) -> Result<u64, SpecError> {
        let expected = "a duration with its unit, like \"250ms\", \"30s\" or \"1h30m\"";
        let text = self.text(expected)?;
        let wrong = || self.error(format!("`{}` is not {expected}", self.name));
        let duration = humantime::parse_duration(text).map_err(|_| wrong())?;
        if !duration.subsec_nanos().is_multiple_of(1_000_000) {
            return Err(self.error(format!("`{}` is finer than a millisecond", self.name)));
        }
        u64::try_from(duration.as_millis()).map_err(|_| wrong())
    }

    pub fn bytes(&self) -> Result<u64, SpecError> {
        let expected = "a size with its unit (B, KiB, MiB or GiB), like \"64MiB\"";
        let text = self.text(expected)?;
        if text == "0" {
            return Ok(0);
        }
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
