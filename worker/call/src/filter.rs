//! The filter language: which calls an operator means.
//!
//! ```text
//! function=thumb* and age>1h and error~timeout
//! not (state=dead or criticality>=200) and bytes>64KiB
//! ```
//!
//! # Grammar
//! ```text
//! filter = both { "or" both }             both = one { "and" one }
//! one    = "not" one | "(" filter ")" | field operator value
//! value  = 'quoted' | "quoted" | plain    (no blanks, parentheses or quotes in a plain one)
//! ```
//! `not` binds most, then `and`, then `or`. Blanks may stand around everything but inside a plain value. A backslash
//! takes the character behind it as it is.
//!
//! # Fields
//! | field | of | operators | values |
//! |---|---|---|---|
//! | `id` | the call's id | `=` `!=` `~` | text |
//! | `function` | its name; `NAMESPACE/NAME` if the value has a slash | `=` `!=` `~` | text |
//! | `namespace`, `tenant` | of its function | `=` `!=` `~` | text |
//! | `state` | where it stands | `=` `!=` `~` | one of [`STATES`] |
//! | `status` | how its last execution ended | `=` `!=` `~` | a status word, `''` for none |
//! | `reason` | why its last execution failed, one line | `=` `!=` `~` | text |
//! | `error` | what that execution wrote to stderr, else its reason | `=` `!=` `~` | text |
//! | `key` | its concurrency key | `=` `!=` | text, `''` for none |
//! | `criticality`, `attempts` | in force; deliveries so far | all but `~` | 7 |
//! | `bytes` | of its arguments, with the frame around them | all but `~` | 512, 64KiB, 1MB |
//! | `age` | since its id was made | all but `~` | 90s, 1h30m, 2d |
//! | `start`, `deadline` | when it may start, when it should be done | all but `~` | 2026-11-21T08:30:00Z, `now`, +10m, -1h |
//!
//! `=` compares the whole text; `*` stands for any run of characters and `?` for one. `~` looks for the value anywhere in
//! the text, whatever the case of its letters. What a call does not have is equal to nothing: only `!=` holds for it.
//!
//! A filter is pure data: [`Filter::parse`] makes it or says where the text is wrong and what to write instead, and
//! [`Filter::matches`] reads no clock. Its size is bounded by [`BYTES_MAX`], [`TERMS_MAX`] and [`DEPTH_MAX`].

mod parse;
mod pattern;
#[cfg(test)]
mod tests;

pub use parse::FilterError;

use crate::time::WallTime;
use pattern::Pattern;
use std::borrow::Cow;
use std::fmt;

/// Bytes of the longest filter: more than anybody types, and what fits into a query of HTTP.
pub const BYTES_MAX: usize = 2048;
/// Comparisons in one filter.
pub const TERMS_MAX: usize = 32;
/// Parentheses and `not`s around one comparison.
pub const DEPTH_MAX: usize = 16;
/// Characters of the longest text value; with [`TERMS_MAX`] it bounds what a call costs.
pub const VALUE_CHARS_MAX: usize = 256;
/// Of a longer text only so many bytes are looked at.
pub const TEXT_BYTES_MAX: usize = 4096;

/// What `state` may be.
pub const STATES: [&str; 7] = ["scheduled", "queued", "buffered", "running", "retrying", "done", "dead"];

/// A field that is text.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Text {
    /// `id`
    Id,
    /// `function` without its namespace.
    Name,
    /// `function` as `NAMESPACE/NAME`.
    Function,
    /// `namespace`
    Namespace,
    /// `tenant`
    Tenant,
    /// `state`
    State,
    /// `status`
    Status,
    /// `reason`
    Reason,
    /// `error`
    Error,
}

/// A field that is a number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Number {
    /// `criticality`
    Criticality,
    /// `attempts`
    Attempts,
    /// `bytes`
    Bytes,
    /// `age`, but told as the time at which the id was made, Unix ns.
    Born,
    /// `start`, Unix ns.
    Start,
    /// `deadline`, Unix ns.
    Deadline,
    /// `key`: the number of a [`crate::CallKey`].
    Key,
}

/// A call that may be meant.
pub trait Subject {
    /// A text of it; empty if it has none.
    fn text(&self, field: Text) -> Cow<'_, str>;
    /// A number of it, if it has one.
    fn number(&self, field: Number) -> Option<u64>;
}

/// How a number is compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Order {
    Equal,
    NotEqual,
    Less,
    AtMost,
    More,
    AtLeast,
}

/// How a text is compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Likeness {
    Is,
    IsNot,
    Contains,
}

/// What a number is compared with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Value {
    Plain(u64),
    /// Nanoseconds before (negative) or behind the time of the question.
    FromNow(i64),
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Rule {
    Text(Text, Likeness, Pattern),
    Number(Number, Order, Value),
    Not(Box<Rule>),
    All(Vec<Rule>),
    Any(Vec<Rule>),
}

/// A filter. See the module.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Filter {
    rule: Rule,
}

impl Filter {
    /// Reads a filter.
    ///
    /// # Errors
    /// The first place that is wrong, and what to write there.
    pub fn parse(text: &str) -> Result<Filter, FilterError> {
        parse::parse(text).map(|rule| Filter { rule })
    }

    /// Whether a call is meant, at this time.
    pub fn matches(&self, subject: &impl Subject, now: WallTime) -> bool {
        self.rule.holds(subject, now)
    }
}

impl Rule {
    /// Recursive: as deep as [`DEPTH_MAX`] allows.
    fn holds(&self, subject: &impl Subject, now: WallTime) -> bool {
        match self {
            Rule::Text(field, likeness, pattern) => {
                let text = subject.text(*field);
                let text = cut(&text);
                match likeness {
                    Likeness::Is => pattern.is(text),
                    Likeness::IsNot => !pattern.is(text),
                    Likeness::Contains => pattern.is_in(text),
                }
            }
            Rule::Number(field, order, value) => {
                let found = subject.number(*field);
                let found = if *field == Number::Born { found.map(|at| age(at, now)) } else { found };
                let wanted = match value {
                    Value::Plain(value) => *value,
                    Value::FromNow(away) => now.0.saturating_add_signed(*away),
                };
                found.map_or(*order == Order::NotEqual, |found| order.holds(found, wanted))
            }
            Rule::Not(rule) => !rule.holds(subject, now),
            Rule::All(rules) => rules.iter().all(|rule| rule.holds(subject, now)),
            Rule::Any(rules) => rules.iter().any(|rule| rule.holds(subject, now)),
        }
    }
}

impl Order {
    fn holds(self, found: u64, wanted: u64) -> bool {
        match self {
            Order::Equal => found == wanted,
            Order::NotEqual => found != wanted,
            Order::Less => found < wanted,
            Order::AtMost => found <= wanted,
            Order::More => found > wanted,
            Order::AtLeast => found >= wanted,
        }
    }
}

/// An id of the future has no age yet.
fn age(born: u64, now: WallTime) -> u64 {
    now.0.saturating_sub(born)
}

/// What is looked at of a text.
fn cut(text: &str) -> &str {
    let mut end = text.len().min(TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

impl Text {
    fn name(self) -> &'static str {
        match self {
            Text::Id => "id",
            Text::Name | Text::Function => "function",
            Text::Namespace => "namespace",
            Text::Tenant => "tenant",
            Text::State => "state",
            Text::Status => "status",
            Text::Reason => "reason",
            Text::Error => "error",
        }
    }
}

impl Number {
    fn name(self) -> &'static str {
        match self {
            Number::Criticality => "criticality",
            Number::Attempts => "attempts",
            Number::Bytes => "bytes",
            Number::Born => "age",
            Number::Start => "start",
            Number::Deadline => "deadline",
            Number::Key => "key",
        }
    }
}

/// A text that [`Filter::parse`] makes the same filter of.
impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.rule.fmt(f)
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rule::Text(field, likeness, pattern) => {
                let sign = match likeness {
                    Likeness::Is => "=",
                    Likeness::IsNot => "!=",
                    Likeness::Contains => "~",
                };
                write!(f, "{}{sign}{pattern}", field.name())
            }
            Rule::Number(field, order, value) => {
                write!(f, "{}{}", field.name(), order.sign())?;
                match (field, value) {
                    (Number::Born, Value::Plain(value)) => write!(f, "{value}ns"),
                    (Number::Start | Number::Deadline, Value::Plain(value)) => write!(f, "@{value}"),
                    (Number::Key, Value::Plain(value)) => write!(f, "#{value:08x}"),
                    (_, Value::Plain(value)) => write!(f, "{value}"),
                    (_, Value::FromNow(away)) if *away < 0 => write!(f, "-{}ns", away.unsigned_abs()),
                    (_, Value::FromNow(away)) => write!(f, "+{away}ns"),
                }
            }
            Rule::Not(rule) => match **rule {
                Rule::All(_) | Rule::Any(_) => write!(f, "not ({rule})"),
                _ => write!(f, "not {rule}"),
            },
            Rule::All(rules) => joined(f, rules, " and "),
            Rule::Any(rules) => joined(f, rules, " or "),
        }
    }
}

fn joined(f: &mut fmt::Formatter<'_>, rules: &[Rule], word: &str) -> fmt::Result {
    for (n, rule) in rules.iter().enumerate() {
        let before = if n == 0 { "" } else { word };
        match rule {
            Rule::All(_) | Rule::Any(_) => write!(f, "{before}({rule})")?,
            _ => write!(f, "{before}{rule}")?,
        }
    }
    Ok(())
}

impl Order {
    fn sign(self) -> &'static str {
        match self {
            Order::Equal => "=",
            Order::NotEqual => "!=",
            Order::Less => "<",
            Order::AtMost => "<=",
            Order::More => ">",
            Order::AtLeast => ">=",
        }
    }
}
