//! Reads comma-separated numbers and gives count, mean and percentiles, as one JSON object.

abi::function!(percentiles);

fn percentiles(arguments: &[u8]) -> Vec<u8> {
    let (rounds, text) = abi::rounds(arguments);
    let text = String::from_utf8_lossy(text);
    let mut reply = String::new();
    for _ in 0..rounds {
        reply = summary(std::hint::black_box(&text));
    }
    reply.into_bytes()
}

fn summary(text: &str) -> String {
    let mut numbers: Vec<f64> =
        text.split([',', '\n']).filter_map(|field| field.trim().parse().ok()).filter(|n: &f64| n.is_finite()).collect();
    if numbers.is_empty() {
        return r#"{"count":0}"#.into();
    }
    numbers.sort_by(f64::total_cmp);
    let at = |share: f64| numbers[((numbers.len() - 1) as f64 * share) as usize];
    let mean = numbers.iter().sum::<f64>() / numbers.len() as f64;
    format!(
        r#"{{"count":{},"mean":{mean:.3},"p50":{},"p90":{},"p99":{}}}"#,
        numbers.len(),
        at(0.5),
        at(0.9),
        at(0.99)
    )
}
