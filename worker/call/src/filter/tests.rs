//! The laws of the filter language, against a model that shares nothing with it.

use super::*;
use proptest::prelude::*;
use std::time::Duration;

/// A call, plainly.
#[derive(Clone, Debug, Default)]
struct Plain {
    texts: [String; 9],
    numbers: [Option<u64>; 7],
}

impl Subject for Plain {
    fn text(&self, field: Text) -> Cow<'_, str> {
        Cow::Borrowed(&self.texts[field as usize])
    }

    fn number(&self, field: Number) -> Option<u64> {
        self.numbers[field as usize]
    }
}

const NOW: WallTime = WallTime(1_700_000_000_000_000_000);
const HOUR: u64 = 3_600_000_000_000;

fn thumb() -> Plain {
    let mut call = Plain::default();
    let mut set = |field: Text, text: &str| call.texts[field as usize] = text.into();
    set(Text::Id, "019a9f3c2b7e5d0a4c1f8e6b3d2a1908");
    set(Text::Name, "thumbnail");
    set(Text::Function, "media/thumbnail");
    set(Text::Namespace, "media");
    set(Text::Tenant, "shop");
    set(Text::State, "retrying");
    set(Text::Status, "timeout");
    set(Text::Reason, "timeout: 30 s are over");
    set(Text::Error, "Connection Timeout of [db]\nsecond line");
    call.numbers = [
        Some(100),
        Some(3),
        Some(70_000),
        Some(NOW.0 - 2 * HOUR),
        Some(NOW.0 + HOUR),
        None,
        Some(crate::CallKey::of("alice").0.into()),
    ];
    call
}

fn means(text: &str) -> bool {
    let filter = Filter::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    filter.matches(&thumb(), NOW)
}

#[test]
fn the_example_of_the_language_means_what_it_says() {
    assert!(means("function=thumb* and age>1h and error~timeout"));
    assert!(!means("function=thumb* and age>3h and error~timeout"));
}

#[test]
fn every_field_and_operator_compares() {
    let yes = [
        "id=019a*",
        "id~3C2B",
        "function=thumbnail",
        "function='media/thumb*'",
        "function!=other",
        "namespace=media",
        "tenant~HO",
        "state=retrying",
        "state!=dead",
        "state=r*",
        "status=timeout",
        "reason~'30 s'",
        "error~[db]",
        "error~'time*of'",
        "error=Connection*line",
        "criticality>=100",
        "criticality<101",
        "attempts=3",
        "attempts!=4",
        "attempts > 2",
        "bytes>64KiB",
        "bytes<=70kb",
        "bytes=70000",
        "age>=2h",
        "age<2h1s",
        "age=120m",
        "start>now",
        "start<=+1h",
        "start>-5m",
        "start>2023-11-14T22:13:20Z",
        "deadline!=now",
        "not deadline<now",
        "key=alice",
        "key!=bob",
        "NOT state=dead AND (function=x OR age>1m)",
        "not not state=retrying",
        "function=thumb?ail",
    ];
    for text in yes {
        assert!(means(text), "{text}");
        assert!(!means(&format!("not ({text})")), "not ({text})");
    }
    let no =
        ["function=thumb", "function=media", "deadline<now", "deadline=now", "deadline>now", "error=timeout"];
    for text in no {
        assert!(!means(text), "{text}");
    }
}

#[test]
fn and_binds_more_than_or_and_not_most() {
    assert!(means("state=retrying or state=dead and state=queued"));
    assert!(!means("(state=retrying or state=dead) and state=queued"));
    assert!(!means("not state=retrying or state=dead"));
    assert!(means("not state=dead and state=retrying"));
}

#[test]
fn a_backslash_takes_what_is_behind_it() {
    let mut call = thumb();
    call.texts[Text::Reason as usize] = "a*b 'c'".into();
    let means = |text: &str| Filter::parse(text).unwrap().matches(&call, NOW);
    assert!(means(r"reason='a\*b \'c\''") && means(r"reason=a\*b\ \'c\'") && means(r#"reason="a*b 'c'""#));
    assert!(!means(r"reason='a\?b*'"));
}

#[test]
fn what_is_wrong_is_told_with_place_and_remedy() {
    let wrong = [
        ("", 1, "a comparison is missing", "age>1h"),
        ("  ", 3, "a comparison is missing", "fields are id, function"),
        ("functoin=a", 1, "no field `functoin`", "did you mean `function`?"),
        ("age>1h and", 11, "a comparison is missing", "like age>1h"),
        ("age 1h", 5, "a comparison is missing", "= != <"),
        ("age>", 5, "a value is missing", "''"),
        ("age>1x", 5, "'1x' is no value of `age`", "90s"),
        ("age>99999999999y", 5, "no value of `age`", "90s"),
        ("age~1h", 4, "`age` cannot be compared with ~", "<="),
        ("key<a", 4, "`key` cannot be compared", "= or !="),
        ("tenant<a", 7, "has no order", "=, != or ~"),
        ("bytes>10 XB", 10, "`XB` is neither", "join"),
        ("bytes>10XB", 7, "'10XB' is no value", "64KiB"),
        ("bytes>99999999999999999999", 7, "is no value", "a size"),
        ("attempts>-1", 10, "'-1' is no value", "a number"),
        ("start>tomorrow", 7, "'tomorrow' is no value", "-1h (ago)"),
        ("state=asleep", 7, "no state is 'asleep'", "scheduled, queued"),
        ("status~xyz", 8, "no status is 'xyz'", "timeout"),
        ("(age>1h", 1, "is not closed", "`)`"),
        ("age>1h)", 7, "closes nothing", "remove"),
        ("error='abc", 7, "quote is not closed", "same quote"),
        ("age>1h tenant=x", 8, "`tenant` is neither", "`and`"),
        ("ä=1", 1, "no field `ä`", "fields are"),
        ("tenant=ä xx=1", 10, "`xx` is neither", "join"),
    ];
    for (text, column, what, remedy) in wrong {
        let error = Filter::parse(text).expect_err(text);
        assert_eq!(error.column, column, "{text}: {error}");
        assert!(error.what.contains(what), "{text}: {error}");
        assert!(error.remedy.contains(remedy), "{text}: {error}");
    }
}

#[test]
fn a_filter_is_bounded() {
    let refused = |text: String| Filter::parse(&text).expect_err("too much").what;
    assert!(refused("age>1h".repeat(BYTES_MAX)).contains("bytes, at most"));
    assert!(refused(vec!["age>1h"; TERMS_MAX + 1].join(" or ")).contains("more than 32 comparisons"));
    assert!(refused("(".repeat(DEPTH_MAX + 1)).contains("nested more than 16"));
    assert!(refused("not ".repeat(DEPTH_MAX + 1)).contains("nested more than 16"));
    assert!(refused(format!("error~{}", "x".repeat(VALUE_CHARS_MAX + 1))).contains("longer than 256"));
    let most = vec!["not age>1h"; TERMS_MAX].join(" or ");
    assert!(Filter::parse(&most).is_ok(), "depth is of what stands around, not beside");
    // The longest pattern over the longest text, at its worst, ends.
    let mut call = thumb();
    call.texts[Text::Error as usize] = "a".repeat(100_000);
    let worst = Filter::parse(&format!("error~'{}b'", "a*".repeat(100))).unwrap();
    assert!(!worst.matches(&call, NOW));
}

/// A pattern that is matched by trying everything.
fn slow(pattern: &[(bool, char)], text: &[char]) -> bool {
    match pattern.split_first() {
        None => text.is_empty(),
        Some(((true, '*'), rest)) => (0..=text.len()).any(|taken| slow(rest, &text[taken..])),
        Some(((true, _), rest)) => !text.is_empty() && slow(rest, &text[1..]),
        Some(((false, wanted), rest)) => text.first() == Some(wanted) && slow(rest, &text[1..]),
    }
}

/// What a test says in words and means by a closure of its own.
#[derive(Clone, Debug)]
enum Model {
    Attempts(&'static str, u64),
    Age(&'static str, u64),
    Tenant(bool, String),
    Error(String),
    Not(Box<Model>),
    And(Box<Model>, Box<Model>),
    Or(Box<Model>, Box<Model>),
}

fn compare(sign: &str, found: u64, wanted: u64) -> bool {
    match sign {
        "=" => found == wanted,
        "!=" => found != wanted,
        "<" => found < wanted,
        "<=" => found <= wanted,
        ">" => found > wanted,
        _ => found >= wanted,
    }
}

impl Model {
    fn text(&self) -> String {
        match self {
            Model::Attempts(sign, value) => format!("attempts{sign}{value}"),
            Model::Age(sign, value) => format!("age {sign} {value}m"),
            Model::Tenant(same, text) => format!("tenant{}'{text}'", if *same { "=" } else { "!=" }),
            Model::Error(text) => format!("error~\"{text}\""),
            Model::Not(one) => format!("not ({})", one.text()),
            Model::And(a, b) => format!("({}) and ({})", a.text(), b.text()),
            Model::Or(a, b) => format!("({}) or ({})", a.text(), b.text()),
        }
    }

    fn holds(&self, call: &Plain) -> bool {
        match self {
            Model::Attempts(sign, value) => {
                call.number(Number::Attempts).map_or(*sign == "!=", |found| compare(sign, found, *value))
            }
            Model::Age(sign, value) => {
                let born = call.number(Number::Born);
                born.map_or(*sign == "!=", |born| compare(sign, NOW.0 - born, value * HOUR / 60))
            }
            Model::Tenant(same, text) => (call.texts[Text::Tenant as usize] == *text) == *same,
            Model::Error(text) => {
                let found = call.texts[Text::Error as usize].to_ascii_lowercase();
                found.contains(&text.to_ascii_lowercase())
            }
            Model::Not(one) => !one.holds(call),
            Model::And(a, b) => a.holds(call) && b.holds(call),
            Model::Or(a, b) => a.holds(call) || b.holds(call),
        }
    }
}

fn model() -> impl Strategy<Value = Model> {
    let sign = || prop::sample::select(vec!["=", "!=", "<", "<=", ">", ">="]);
    let leaf = prop_oneof![
        (sign(), 0u64..5).prop_map(|(sign, value)| Model::Attempts(sign, value)),
        (sign(), 0u64..5).prop_map(|(sign, value)| Model::Age(sign, value)),
        (any::<bool>(), "[ab]{0,2}").prop_map(|(same, text)| Model::Tenant(same, text)),
        "[aB]{1,2}".prop_map(Model::Error),
    ];
    leaf.prop_recursive(4, 12, 2, |inner| {
        prop_oneof![
            inner.clone().prop_map(|one| Model::Not(Box::new(one))),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| Model::And(Box::new(a), Box::new(b))),
            (inner.clone(), inner).prop_map(|(a, b)| Model::Or(Box::new(a), Box::new(b))),
        ]
    })
}

fn call() -> impl Strategy<Value = Plain> {
    let number = || prop::option::of(0u64..5);
    ("[ab]{0,2}", "[abAB]{0,4}", number(), number()).prop_map(|(tenant, error, attempts, minutes)| {
        let mut call = thumb();
        call.texts[Text::Tenant as usize] = tenant;
        call.texts[Text::Error as usize] = error;
        call.numbers[Number::Attempts as usize] = attempts;
        call.numbers[Number::Born as usize] = minutes.map(|m| NOW.0 - m * HOUR / 60);
        call
    })
}

/// The law that [`Filter::matches`] is held to; a planted bug shows that it can be broken.
fn agrees(model: &Model, call: &Plain, matches: impl Fn(&Filter) -> bool) -> Result<(), TestCaseError> {
    let text = model.text();
    let filter = Filter::parse(&text).map_err(|error| TestCaseError::fail(format!("{text}: {error}")))?;
    prop_assert_eq!(matches(&filter), model.holds(call), "{} of {:?}", text, call);
    Ok(())
}

#[test]
#[should_panic(expected = "assertion failed")]
fn canary_a_filter_that_takes_missing_numbers_for_zero_is_seen() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let planted = |call: &Plain| {
        let mut call = call.clone();
        call.numbers[Number::Attempts as usize].get_or_insert(0);
        call
    };
    let result = runner.run(&(model(), call()), |(model, call)| {
        agrees(&model, &call, |filter| filter.matches(&planted(&call), NOW))
    });
    result.expect("assertion failed");
}

proptest! {
    /// A filter means what a model of it means.
    #[test]
    fn a_filter_agrees_with_its_model(model in model(), call in call()) {
        agrees(&model, &call, |filter| filter.matches(&call, NOW))?;
    }

    /// What a filter prints is the same filter.
    #[test]
    fn a_filter_is_read_back(model in model()) {
        let filter = Filter::parse(&model.text()).unwrap();
        let printed = filter.to_string();
        let again = Filter::parse(&printed).map_err(|error| TestCaseError::fail(format!("{printed}: {error}")))?;
        prop_assert_eq!(again, filter);
    }

    /// Any text is a filter, or an error at a place inside it with a remedy.
    #[test]
    fn any_text_is_a_filter_or_an_error(text in r"(?s).{0,60}") {
        check(&text)?;
    }

    /// And so is any text that looks like one.
    #[test]
    fn words_of_the_language_in_any_order(words in prop::collection::vec(word(), 0..14), gap in "[ ]?") {
        check(&words.join(&gap))?;
    }

    /// A pattern matches what it would match if everything were tried.
    #[test]
    fn patterns_match_as_if_everything_were_tried(pattern in r"[ab*?\\]{0,7}", text in "[ab*]{0,8}") {
        let mut pieces = Vec::new();
        let mut made = Pattern::default();
        let mut characters = pattern.chars();
        while let Some(character) = characters.next() {
            match (character, characters.clone().next()) {
                ('\\', Some(next)) => {
                    characters.next();
                    pieces.push((false, next));
                    made.push(next);
                }
                _ => {
                    pieces.push((matches!(character, '*' | '?'), character));
                    made.push_typed(character);
                }
            }
        }
        let characters: Vec<char> = text.chars().collect();
        prop_assert_eq!(made.is(&text), slow(&pieces, &characters));
        pieces.insert(0, (true, '*'));
        pieces.push((true, '*'));
        prop_assert_eq!(made.is_in(&text), slow(&pieces, &characters));
    }
}

fn word() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "age",
        ">",
        "1h",
        "and",
        "or",
        "not",
        "(",
        ")",
        "=",
        "~",
        "!=",
        "function",
        "thumb*",
        "'a b'",
        "\"",
        "'",
        "\\",
        "state",
        "dead",
        "key",
        "start",
        "+1m",
        "-",
        "bytes",
        "64KiB",
        "<=",
        "ß",
        "#0000000f",
        "@7",
    ])
}

fn check(text: &str) -> Result<(), TestCaseError> {
    match Filter::parse(text) {
        Ok(filter) => {
            prop_assert_eq!(
                &Filter::parse(&filter.to_string()).map_err(|e| TestCaseError::fail(e.to_string()))?,
                &filter
            );
            filter.matches(&thumb(), NOW);
            filter.matches(&Plain::default(), NOW + Duration::from_secs(1));
        }
        Err(error) => {
            prop_assert!((1..=text.chars().count() + 1).contains(&error.column), "{}: {}", text, error);
            prop_assert!(!error.what.is_empty() && !error.remedy.is_empty());
        }
    }
    Ok(())
}
