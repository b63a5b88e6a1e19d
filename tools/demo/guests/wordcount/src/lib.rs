//! Counts words: the five most frequent ones of a text, as `word count` lines.

use std::collections::BTreeMap;

abi::function!(wordcount);

fn wordcount(arguments: &[u8]) -> Vec<u8> {
    let (rounds, text) = abi::rounds(arguments);
    let text = String::from_utf8_lossy(text);
    let mut counts = BTreeMap::new();
    for _ in 0..rounds {
        counts = count(std::hint::black_box(&text));
    }
    let mut ranked: Vec<(&str, u32)> = counts.into_iter().collect();
    ranked.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
    ranked.iter().take(5).map(|(word, n)| format!("{word} {n}\n")).collect::<String>().into_bytes()
}

fn count(text: &str) -> BTreeMap<&str, u32> {
    let mut counts = BTreeMap::new();
    for word in text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()) {
        *counts.entry(word).or_insert(0) += 1;
    }
    counts
}
