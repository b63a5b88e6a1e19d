//! Many calls from one file: NDJSON (each line is one call's arguments) or CSV (each record becomes a JSON object).

use crate::exit::Failure;
use crate::interrupt;
use call::limits::ARGUMENTS_BYTES_MAX;
use serde::de::IgnoredAny;
use std::io::{self, BufRead, BufReader, Read};

/// How much of a line is read before it is refused: the largest arguments, and what tells that there is more.
const LINE_BYTES_MAX: u64 = ARGUMENTS_BYTES_MAX as u64 + 2;

/// One call's arguments and the line they begin on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Row {
    /// From 1, as editors count.
    pub line: u64,
    /// What the function will read.
    pub payload: Vec<u8>,
}

/// A source of rows; a wrong one is an error with file, line and column, and ends it.
pub type Rows = Box<dyn Iterator<Item = Result<Row, Failure>>>;

/// Each line that is not blank is a JSON value, passed to the function as it stands.
///
/// `name` is what errors call the source. Reads no more than one line ahead.
pub fn ndjson(source: impl Read + 'static, name: &str) -> Rows {
    let mut reader = BufReader::new(source);
    let (name, mut line) = (name.to_owned(), 0);
    let mut is_broken = false;
    Box::new(std::iter::from_fn(move || {
        while !is_broken {
            line += 1;
            match ndjson_line(&mut reader, &name, line) {
                Ok(None) => return None,
                Ok(Some(payload)) if payload.is_empty() => {}
                Ok(Some(payload)) => return Some(Ok(Row { line, payload })),
                Err(failure) => {
                    is_broken = true;
                    return Some(Err(failure));
                }
            }
        }
        None
    }))
}

/// The next line without its white space, checked; empty if blank, `None` at the end.
fn ndjson_line(reader: &mut impl BufRead, name: &str, line: u64) -> Result<Option<Vec<u8>>, Failure> {
    let mut text = Vec::new();
    let read = reader.take(LINE_BYTES_MAX).read_until(b'\n', &mut text);
    match read.map_err(|error| read_failure(name, line, &error))? {
        0 => return Ok(None),
        bytes if bytes as u64 == LINE_BYTES_MAX && text.last() != Some(&b'\n') => {
            return Err(too_large(name, line));
        }
        _ => {}
    }
    let indent = text.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
    let payload = text.trim_ascii();
    if payload.is_empty() {
        return Ok(Some(Vec::new()));
    }
    match serde_json::from_slice::<IgnoredAny>(payload) {
        Ok(_) => Ok(Some(payload.to_vec())),
        Err(error) => {
            let what = format!("not JSON: {}", bare(&error));
            Err(Failure::input(what, at(name, line, error.column() + indent), "correct the line"))
        }
    }
}

fn read_failure(name: &str, line: u64, error: &io::Error) -> Failure {
    if interrupt::is_asked() {
        return interrupt::failure(at(name, line, 1));
    }
    Failure::input(format!("cannot read on: {error}"), at(name, line, 1), "check the file and its disk")
}

/// The message without serde_json's own "at line 1 column 7".
fn bare(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.split(" at line ").next().unwrap_or(&text).to_owned()
}

/// Each record becomes an object with the header's names as keys and text as values, or, with `column`, the bytes of
/// that field alone.
///
/// # Errors
/// If there is no header, or no such column.
pub fn csv(source: impl Read + 'static, name: &str, column: Option<&str>) -> Result<Rows, Failure> {
    let mut reader = csv::ReaderBuilder::new().from_reader(source);
    let header = reader.headers().map_err(|error| csv_failure(name, &error))?.clone();
    if header.is_empty() {
        return Err(Failure::input(
            "there is no header",
            at(name, 1, 1),
            "name the columns in the first line",
        ));
    }
    let only = match column {
        None => None,
        Some(wanted) => Some(header.iter().position(|c| c == wanted).ok_or_else(|| {
            let known = header.iter().collect::<Vec<_>>().join(", ");
            Failure::input(
                format!("there is no column `{wanted}`"),
                at(name, 1, 1),
                format!("there are: {known}"),
            )
        })?),
    };
    let name = name.to_owned();
    let rows = reader.into_records().map(move |record| {
        let record = record.map_err(|error| csv_failure(&name, &error))?;
        let line = record.position().map_or(0, csv::Position::line);
        let payload = match only {
            Some(index) => record[index].as_bytes().to_vec(),
            None => object(&header, &record),
        };
        if payload.len() > ARGUMENTS_BYTES_MAX {
            Err(too_large(&name, line))
        } else {
            Ok(Row { line, payload })
        }
    });
    let mut is_broken = false;
    Ok(Box::new(rows.take_while(move |row| !std::mem::replace(&mut is_broken, row.is_err()))))
}

/// The record as a JSON object, in the order of the columns.
fn object(header: &csv::StringRecord, record: &csv::StringRecord) -> Vec<u8> {
    let text = |text: &str| serde_json::Value::from(text).to_string();
    let fields: Vec<String> =
        header.iter().zip(record).map(|(k, v)| format!("{}:{}", text(k), text(v))).collect();
    format!("{{{}}}", fields.join(",")).into_bytes()
}

/// What is wrong with a CSV file, and on which line.
pub fn csv_failure(name: &str, error: &csv::Error) -> Failure {
    let line = |position: &Option<csv::Position>| position.as_ref().map_or(1, csv::Position::line);
    match error.kind() {
        csv::ErrorKind::UnequalLengths { pos, expected_len, len } => Failure::input(
            format!("the record has {len} fields, the header {expected_len}"),
            at(name, line(pos), 1),
            "quote fields that hold commas, and give every record all fields",
        ),
        csv::ErrorKind::Utf8 { pos, err } => Failure::input(
            format!("field {} is not UTF-8", err.field() + 1),
            at(name, line(pos), err.valid_up_to() + 1),
            "convert the file to UTF-8",
        ),
        csv::ErrorKind::Io(_) if interrupt::is_asked() => interrupt::failure(name),
        _ => Failure::input(format!("cannot read it: {error}"), name, "check the file"),
    }
}

fn too_large(name: &str, line: u64) -> Failure {
    let what = format!("the arguments are larger than {ARGUMENTS_BYTES_MAX} bytes");
    Failure::input(what, at(name, line, 1), "store large arguments elsewhere and pass a reference")
}

/// `file:line:column`, as compilers write it.
pub fn at(name: &str, line: u64, column: usize) -> String {
    format!("{name}:{line}:{column}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &'static str) -> Vec<Result<Row, Failure>> {
        ndjson(text.as_bytes(), "calls.ndjson").collect()
    }

    #[test]
    fn lines_pass_as_they_stand() {
        let rows = read("{\"a\": 1}\n\n  [2]  \r\n\"three\"");
        let rows: Vec<Row> = rows.into_iter().map(Result::unwrap).collect();
        let seen: Vec<(u64, &[u8])> = rows.iter().map(|row| (row.line, &row.payload[..])).collect();
        assert_eq!(seen, [(1, &b"{\"a\": 1}"[..]), (3, b"[2]"), (4, b"\"three\"")]);
    }

    #[test]
    fn the_seventh_line_is_named_with_its_column_and_ends_the_batch() {
        let rows = read("1\n2\n3\n4\n5\n6\n  {\"a\": nope}\n8\n");
        assert_eq!(rows.len(), 7, "nothing after the wrong line");
        assert!(rows[..6].iter().all(Result::is_ok));
        let text = rows[6].clone().unwrap_err().to_string();
        assert!(text.contains("calls.ndjson:7:10") && text.contains("not JSON"), "{text}");
        assert!(!text.contains("line 1"), "{text}");
    }

    #[test]
    fn a_line_without_end_is_not_read_into_memory() {
        let endless = std::io::repeat(b' ').take(3 << 30);
        let rows: Vec<_> = ndjson(endless, "-").collect();
        assert!(rows[0].clone().unwrap_err().to_string().contains("larger than 1048576 bytes: -:1:1"));
    }

    #[test]
    fn records_become_objects() {
        let rows: Vec<_> = csv("name,n\n\"a, b\",1\nc,2\n".as_bytes(), "x.csv", None).unwrap().collect();
        assert_eq!(
            rows[0].clone().unwrap(),
            Row { line: 2, payload: br#"{"name":"a, b","n":"1"}"#.to_vec() }
        );
        let rows: Vec<_> = csv("name,n\na,1\n".as_bytes(), "x.csv", Some("n")).unwrap().collect();
        assert_eq!(rows[0].clone().unwrap().payload, b"1");
    }

    #[test]
    fn what_is_wrong_with_csv_is_told_with_the_line() {
        let rows: Vec<_> = csv("a,b\n1,2\n1,2,3\n1,2\n".as_bytes(), "x.csv", None).unwrap().collect();
        assert_eq!(rows.len(), 2, "nothing after the wrong record");
        let text = rows[1].clone().unwrap_err().to_string();
        assert!(text.contains("3 fields, the header 2: x.csv:3:1"), "{text}");
        let error = csv("a,b\n".as_bytes(), "x.csv", Some("c")).err().unwrap().to_string();
        assert!(error.contains("no column `c`") && error.contains("there are: a, b"), "{error}");
        let error = csv("".as_bytes(), "x.csv", None).err().unwrap().to_string();
        assert!(error.contains("there is no header: x.csv:1:1"), "{error}");
    }
}
