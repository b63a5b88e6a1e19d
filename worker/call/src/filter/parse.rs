//! From text to a filter, or to the place where it is wrong.

use super::pattern::Pattern;
use super::{
    BYTES_MAX, DEPTH_MAX, Likeness, Number, Order, Rule, STATES, TERMS_MAX, Text, VALUE_CHARS_MAX, Value,
};
use crate::ids::CallKey;
use crate::outcome::Status;
use std::fmt;
use std::time::{Duration, UNIX_EPOCH};

/// Why a text is no filter.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FilterError {
    /// Which character is wrong, from 1; one behind the last if something is missing at the end.
    pub column: usize,
    /// What is wrong.
    pub what: String,
    /// What to write instead.
    pub remedy: String,
}

impl fmt::Display for FilterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, at character {} of the filter; {}", self.what, self.column, self.remedy)
    }
}

impl std::error::Error for FilterError {}

/// What a word may be.
#[derive(Clone, Copy)]
enum Field {
    Text(Text),
    Number(Number),
}

const FIELDS: [(&str, Field); 15] = [
    ("id", Field::Text(Text::Id)),
    ("function", Field::Text(Text::Function)),
    ("namespace", Field::Text(Text::Namespace)),
    ("tenant", Field::Text(Text::Tenant)),
    ("state", Field::Text(Text::State)),
    ("criticality", Field::Number(Number::Criticality)),
    ("age", Field::Number(Number::Born)),
    ("attempts", Field::Number(Number::Attempts)),
    ("start", Field::Number(Number::Start)),
    ("deadline", Field::Number(Number::Deadline)),
    ("bytes", Field::Number(Number::Bytes)),
    ("key", Field::Number(Number::Key)),
    ("error", Field::Text(Text::Error)),
    ("reason", Field::Text(Text::Reason)),
    ("status", Field::Text(Text::Status)),
];

/// Longer ones first, so that `<=` is not read as `<`.
const SIGNS: [&str; 7] = ["!=", "<=", ">=", "=", "<", ">", "~"];
/// Sizes; 64KB is 64,000 and 64KiB is 65,536.
const UNITS: [(&str, u64); 7] = [
    ("b", 1),
    ("kb", 1_000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
];
/// Of a wrong word, so much is said again.
const SAID_CHARS_MAX: usize = 40;

type Parsed<T> = Result<T, FilterError>;

pub(super) fn parse(text: &str) -> Parsed<Rule> {
    let mut parser = Parser { text, at: 0, terms: 0, depth: 0 };
    if text.len() > BYTES_MAX {
        let what = format!("the filter has {} bytes, at most {BYTES_MAX} are allowed", text.len());
        return Err(parser.error(0, what, "ask in several steps, or with fewer comparisons"));
    }
    let rule = parser.any()?;
    parser.skip();
    match parser.rest().chars().next() {
        None => Ok(rule),
        Some(')') => {
            Err(parser.error(parser.at, "this `)` closes nothing", "remove it, or open it before with `(`"))
        }
        Some(_) => {
            let what = format!("`{}` is neither `and` nor `or`", said(parser.word()));
            Err(parser.error(
                parser.at,
                what,
                "join comparisons with `and` or `or`; quote values with blanks: 'a b'",
            ))
        }
    }
}

struct Parser<'a> {
    text: &'a str,
    /// In bytes; always at a character.
    at: usize,
    terms: usize,
    depth: usize,
}

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn error(&self, at: usize, what: impl Into<String>, remedy: impl Into<String>) -> FilterError {
        let column = self.text[..at].chars().count() + 1;
        FilterError { column, what: what.into(), remedy: remedy.into() }
    }

    fn skip(&mut self) {
        self.at += self.rest().len() - self.rest().trim_start().len();
    }

    /// What stands here up to a blank, a sign or a parenthesis; something in any case.
    fn word(&self) -> &'a str {
        let ends =
            |c: char| c.is_whitespace() || matches!(c, '(' | ')' | '=' | '!' | '<' | '>' | '~' | '\'' | '"');
        let rest = self.rest();
        let end = rest.find(ends).unwrap_or(rest.len());
        let first = rest.chars().next().map_or(0, char::len_utf8);
        &rest[..end.max(first)]
    }

    /// Goes behind this word, if it stands here.
    fn takes(&mut self, word: &str) -> bool {
        self.skip();
        let found = self.word().eq_ignore_ascii_case(word);
        if found {
            self.at += word.len();
        }
        found
    }

    fn any(&mut self) -> Parsed<Rule> {
        let mut rules = vec![self.all()?];
        while self.takes("or") {
            rules.push(self.all()?);
        }
        Ok(one_or(rules, Rule::Any))
    }

    fn all(&mut self) -> Parsed<Rule> {
        let mut rules = vec![self.one()?];
        while self.takes("and") {
            rules.push(self.one()?);
        }
        Ok(one_or(rules, Rule::All))
    }

    fn one(&mut self) -> Parsed<Rule> {
        self.skip();
        let start = self.at;
        if self.takes("not") {
            self.deeper(start)?;
            let rule = self.one()?;
            self.depth -= 1;
            return Ok(Rule::Not(Box::new(rule)));
        }
        if !self.rest().starts_with('(') {
            return self.comparison();
        }
        self.deeper(start)?;
        self.at += 1;
        let rule = self.any()?;
        self.skip();
        if !self.rest().starts_with(')') {
            return Err(self.error(start, "this `(` is not closed", "write a `)` where it should end"));
        }
        self.at += 1;
        self.depth -= 1;
        Ok(rule)
    }

    fn deeper(&mut self, at: usize) -> Parsed<()> {
        self.depth += 1;
        if self.depth <= DEPTH_MAX {
            return Ok(());
        }
        let what = format!("parentheses and `not`s are nested more than {DEPTH_MAX} deep");
        Err(self.error(at, what, "write it flatter"))
    }

    fn comparison(&mut self) -> Parsed<Rule> {
        let start = self.at;
        let field = self.field()?;
        self.terms += 1;
        if self.terms > TERMS_MAX {
            let what = format!("the filter has more than {TERMS_MAX} comparisons");
            return Err(self.error(start, what, "ask in several steps, or use `*`"));
        }
        self.skip();
        let place = self.at;
        let Some(sign) = SIGNS.into_iter().find(|sign| self.rest().starts_with(sign)) else {
            return Err(self.error(
                place,
                "a comparison is missing",
                "write = != < <= > >= or ~ behind the field",
            ));
        };
        self.at += sign.len();
        self.skip();
        let value_at = self.at;
        let value = self.value()?;
        match field {
            Field::Text(field) => self.text_rule(field, sign, place, value, value_at),
            Field::Number(field) => self.number_rule(field, sign, place, &value, value_at),
        }
    }

    fn field(&mut self) -> Parsed<Field> {
        let word = self.word();
        if let Some((_, field)) = FIELDS.iter().find(|(name, _)| *name == word) {
            self.at += word.len();
            return Ok(*field);
        }
        let names: Vec<&str> = FIELDS.iter().map(|(name, _)| *name).collect();
        let all = format!("fields are {}", names.join(", "));
        if word.is_empty() {
            return Err(self.error(
                self.at,
                "a comparison is missing",
                format!("write one like age>1h; {all}"),
            ));
        }
        let near = names.iter().find(|name| strsim::damerau_levenshtein(name, word) <= 2);
        let meant = near.map_or(String::new(), |name| format!("did you mean `{name}`? "));
        Err(self.error(self.at, format!("there is no field `{}`", said(word)), meant + &all))
    }

    /// A value, its quotes and backslashes taken away.
    fn value(&mut self) -> Parsed<Pattern> {
        let start = self.at;
        let quote = self.rest().chars().next().filter(|c| matches!(c, '\'' | '"'));
        self.at += usize::from(quote.is_some());
        let mut pattern = Pattern::default();
        let mut closed = quote.is_none();
        while let Some(character) = self.rest().chars().next() {
            let ends = character.is_whitespace() || matches!(character, '(' | ')' | '\'' | '"');
            if quote == Some(character) {
                self.at += 1;
                closed = true;
                break;
            }
            if quote.is_none()
                && (ends || (self.at == start && matches!(character, '=' | '<' | '>' | '~' | '!')))
            {
                break;
            }
            self.at += character.len_utf8();
            match (character, self.rest().chars().next()) {
                ('\\', Some(taken)) => {
                    self.at += taken.len_utf8();
                    pattern.push(taken);
                }
                _ => pattern.push_typed(character),
            }
        }
        if !closed {
            return Err(self.error(
                start,
                "this quote is not closed",
                "write the same quote where the value ends",
            ));
        }
        if self.at == start {
            return Err(self.error(
                start,
                "a value is missing",
                "write one behind the comparison; an empty one is ''",
            ));
        }
        if pattern.len() > VALUE_CHARS_MAX {
            let what = format!("the value is longer than {VALUE_CHARS_MAX} characters");
            return Err(self.error(start, what, "shorten it with `*`, or look for a part of it with `~`"));
        }
        Ok(pattern)
    }

    fn text_rule(&self, field: Text, sign: &str, place: usize, value: Pattern, at: usize) -> Parsed<Rule> {
        let likeness = match sign {
            "=" => Likeness::Is,
            "!=" => Likeness::IsNot,
            "~" => Likeness::Contains,
            _ => {
                let what = format!("`{}` is a text and has no order", field.name());
                return Err(self.error(place, what, "compare it with =, != or ~"));
            }
        };
        let words: Vec<&str> = match field {
            Text::State => STATES.to_vec(),
            Text::Status => Status::ALL.iter().map(|status| status.name()).chain([""]).collect(),
            _ => Vec::new(),
        };
        let found = |word: &&str| if sign == "~" { value.is_in(word) } else { value.is(word) };
        if !words.is_empty() && !words.iter().any(found) {
            let what = format!("no {} is {value}", field.name());
            let known: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
            return Err(self.error(at, what, format!("there are {}", known.join(", "))));
        }
        let field = if field == Text::Function && !value.has('/') { Text::Name } else { field };
        Ok(Rule::Text(field, likeness, value))
    }

    fn number_rule(
        &self,
        field: Number,
        sign: &str,
        place: usize,
        value: &Pattern,
        at: usize,
    ) -> Parsed<Rule> {
        let order = match sign {
            "=" => Some(Order::Equal),
            "!=" => Some(Order::NotEqual),
            "<" => Some(Order::Less),
            "<=" => Some(Order::AtMost),
            ">" => Some(Order::More),
            ">=" => Some(Order::AtLeast),
            _ => None,
        };
        let is_key = field == Number::Key;
        let order = order.filter(|order| !is_key || matches!(order, Order::Equal | Order::NotEqual));
        let Some(order) = order else {
            let what = format!("`{}` cannot be compared with {sign}", field.name());
            let remedy = if is_key { "use = or !=" } else { "use =, !=, <, <=, > or >=" };
            return Err(self.error(place, what, remedy));
        };
        let found = value.plain().and_then(|text| number(field, &text));
        let value = found.ok_or_else(|| {
            let what = format!("{value} is no value of `{}`", field.name());
            self.error(at, what, example(field))
        })?;
        Ok(Rule::Number(field, order, value))
    }
}

fn one_or(mut rules: Vec<Rule>, of: impl FnOnce(Vec<Rule>) -> Rule) -> Rule {
    if rules.len() == 1 { rules.remove(0) } else { of(rules) }
}

/// A word of a user, shortened.
fn said(word: &str) -> String {
    let mut said: String = word.chars().take(SAID_CHARS_MAX).collect();
    if said.len() < word.len() {
        said.push('…');
    }
    said
}

fn example(field: Number) -> &'static str {
    match field {
        Number::Criticality | Number::Attempts => "write a number, like 3",
        Number::Bytes => "write a size: 512, 64KiB (65,536) or 1MB (1,000,000)",
        Number::Born => "write a duration with its units: 90s, 1h30m, 2d",
        Number::Start | Number::Deadline => {
            "write a time: 2026-11-21T08:30:00Z, `now`, +10m (from now), -1h (ago)"
        }
        Number::Key => "write the key's text without `*` and `?`, or # and its 8 hexadecimal digits",
    }
}

fn number(field: Number, text: &str) -> Option<Value> {
    match field {
        Number::Criticality | Number::Attempts => digits(text).map(Value::Plain),
        Number::Bytes => size(text).map(Value::Plain),
        Number::Born => duration(text).map(Value::Plain),
        Number::Start | Number::Deadline => time(text),
        Number::Key => Some(Value::Plain(key(text)?)),
    }
}

fn digits(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

fn size(text: &str) -> Option<u64> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit = unit.trim_start().to_ascii_lowercase();
    let times = if unit.is_empty() { 1 } else { UNITS.iter().find(|(name, _)| *name == unit)?.1 };
    digits(number)?.checked_mul(times)
}

fn duration(text: &str) -> Option<u64> {
    let of: Duration = if text == "0" { Duration::ZERO } else { humantime::parse_duration(text).ok()? };
    u64::try_from(of.as_nanos()).ok()
}

/// Zero means "not given" in a frame, so no time is zero.
fn time(text: &str) -> Option<Value> {
    let away = |text: &str| duration(text).and_then(|ns| i64::try_from(ns).ok());
    if text == "now" {
        return Some(Value::FromNow(0));
    }
    if let Some(ahead) = text.strip_prefix('+') {
        return away(ahead).map(Value::FromNow);
    }
    if let Some(ago) = text.strip_prefix('-') {
        return away(ago).map(|ns| Value::FromNow(-ns));
    }
    if let Some(unix) = text.strip_prefix('@') {
        return digits(unix).map(Value::Plain);
    }
    let at = humantime::parse_rfc3339_weak(text).ok()?.duration_since(UNIX_EPOCH).ok()?;
    u64::try_from(at.as_nanos()).ok().map(Value::Plain)
}

fn key(text: &str) -> Option<u64> {
    match text.strip_prefix('#') {
        Some(hex) if hex.len() == 8 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
            u64::from_str_radix(hex, 16).ok()
        }
        _ => Some(CallKey::of(text).0.into()),
    }
}
