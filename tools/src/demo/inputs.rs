//! The real data that the demo's functions work on, and the arguments of each call.

use super::plan::{MEMORY_SCALE, Work};
use crate::exit::Failure;
use crate::trace::Arrival;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

/// Bytes of text a call of the fast ABI gets: a page, the size of a typical queue message.
const PIECE_BYTES: usize = 1024;

/// Photographs, pages and pieces of text.
pub struct Inputs {
    photographs: Vec<Vec<u8>>,
    pages: Vec<Vec<u8>>,
    prose: Vec<u8>,
    numbers: Vec<u8>,
    /// Microseconds of one round, by kind of work.
    round_us: BTreeMap<Work, f64>,
}

impl Inputs {
    /// Reads them from the project's folder: photographs and trace from `tests/data`, pages and prose from its texts.
    pub fn read(project: &Path) -> Result<Inputs, Failure> {
        let file = |name: &str| {
            let path = project.join(name);
            std::fs::read(&path).map_err(|error| Failure::file("read the demo's input", &path, &error))
        };
        let photographs = ["china.jpg", "flower.jpg", "rocket.jpg", "chelsea.png"];
        let photographs = photographs.iter().map(|name| file(&format!("tests/data/photos/{name}")));
        let readme = file("README.md")?;
        // Pages of about 2 KB, cut at paragraphs: what a service renders for a request.
        let text = String::from_utf8_lossy(&readme).into_owned();
        let mut pages = vec![String::new()];
        for paragraph in text.split_inclusive("\n\n") {
            if pages.last().is_some_and(|page| page.len() + paragraph.len() > 2048) {
                pages.push(String::new());
            }
            pages.last_mut().expect("one at least").push_str(paragraph);
        }
        Ok(Inputs {
            photographs: photographs.collect::<Result<_, _>>()?,
            pages: pages.into_iter().map(String::into_bytes).collect(),
            prose: file("LICENSE")?,
            numbers: file("tests/data/azure2019-250/durations.csv")?,
            round_us: BTreeMap::new(),
        })
    }

    /// Notes what one round of a kind of work takes, as measured on this machine.
    pub fn set_round_us(&mut self, work: Work, round_us: f64) {
        self.round_us.insert(work, round_us.max(0.1));
    }

    /// Arguments with a given number of rounds, for measuring one.
    pub fn rounds(&self, work: Work, rounds: u32, out: &mut Vec<u8>) {
        self.piece(work, rounds, 0, 0, out);
    }

    /// The arguments of a call of the trace: the same for the same call.
    pub fn arguments(&self, work: Work, arrival: &Arrival, out: &mut Vec<u8>) {
        let pick = arrival.at_us as usize / 7 + arrival.function as usize;
        match work {
            Work::Thumbnail => out.extend_from_slice(&self.photographs[pick % self.photographs.len()]),
            Work::Markdown => out.extend_from_slice(&self.pages[pick % self.pages.len()]),
            _ => {
                let round_us = self.round_us.get(&work).copied().unwrap_or(10.0);
                let rounds = (f64::from(arrival.run_us) / round_us).round().max(1.0) as u32;
                self.piece(work, rounds, arrival.memory_kib / MEMORY_SCALE, pick, out);
            }
        }
    }

    fn piece(&self, work: Work, rounds: u32, touch_kib: u32, pick: usize, out: &mut Vec<u8>) {
        let text = if work == Work::Percentiles { &self.numbers } else { &self.prose };
        let start = (pick * 97) % (text.len() - PIECE_BYTES);
        writeln!(out, "{rounds} {touch_kib}").expect("a vector takes it");
        out.extend_from_slice(&text[start..start + PIECE_BYTES]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_follow_the_trace_and_repeat() {
        let project = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let mut inputs = Inputs::read(project).unwrap();
        inputs.set_round_us(Work::WordCount, 20.0);
        let arrival = Arrival { at_us: 12_345, function: 7, run_us: 400, memory_kib: 25_600 };
        let (mut first, mut second) = (Vec::new(), Vec::new());
        inputs.arguments(Work::WordCount, &arrival, &mut first);
        inputs.arguments(Work::WordCount, &arrival, &mut second);
        assert!(first.starts_with(b"20 100\n"), "{:?}", String::from_utf8_lossy(&first[..20]));
        assert_eq!((first.len(), &first), (b"20 100\n".len() + PIECE_BYTES, &second));
        let mut photo = Vec::new();
        inputs.arguments(Work::Thumbnail, &arrival, &mut photo);
        assert!(photo.len() > 50_000);
    }
}
