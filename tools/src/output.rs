//! Results on stdout: a table for people, stable JSON for programs.

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;
use std::io::{self, IsTerminal, Write};

/// `-o`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// For programs: the admin API's JSON, field for field.
    Json,
}

/// The option, for commands that have results.
#[derive(clap::Args, Clone, Copy, Debug)]
pub struct Output {
    /// How results are printed.
    #[arg(short = 'o', long = "output", value_enum, default_value_t, value_name = "FORMAT")]
    pub format: Format,
}

impl Output {
    /// Whether a program reads.
    pub fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// Prints `value`, as JSON or as what `table` makes of it.
    pub fn print<T: Serialize + ?Sized>(&self, value: &T, table: impl FnOnce(&T) -> String) {
        match self.format {
            Format::Json => line(&serde_json::to_string_pretty(value).expect("plain data")),
            Format::Table => line(&table(value)),
        }
    }
}

/// A line on stdout. A reader that has gone (`| head`) ends the program quietly, as it does every filter.
pub fn line(text: &str) {
    let mut out = io::stdout().lock();
    if writeln!(out, "{}", text.trim_end()).is_err() {
        std::process::exit(0);
    }
}

/// A table without rules: headings, then rows. Says so if there are none.
pub fn table<const N: usize>(headings: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    if io::stdout().is_terminal() {
        table.set_content_arrangement(ContentArrangement::Dynamic);
    }
    table.set_header(headings.map(str::to_uppercase));
    let mut is_empty = true;
    for row in rows {
        is_empty = false;
        table.add_row(row);
    }
    if is_empty {
        return "none".into();
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.trim_fmt()
}

/// Names and values, one a line.
pub fn pairs(rows: impl IntoIterator<Item = (impl Into<String>, impl Into<String>)>) -> String {
    let rows: Vec<(String, String)> = rows.into_iter().map(|(k, v)| (k.into(), v.into())).collect();
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    rows.iter().map(|(name, value)| format!("{name:width$}  {value}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_have_headings_and_no_rules() {
        let text = table(["function", "due"], [["a/b".to_string(), "7".to_string()]]);
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        assert_eq!(lines[0].split_whitespace().collect::<Vec<_>>(), ["FUNCTION", "DUE"]);
        assert_eq!(lines[1].split_whitespace().collect::<Vec<_>>(), ["a/b", "7"]);
        assert_eq!(table(["x"], []), "none");
    }

    #[test]
    fn pairs_are_aligned() {
        assert_eq!(pairs([("a", "1"), ("long", "2")]), "a     1\nlong  2\n");
    }
}
