//! Does what its event says: `{"fail": TEXT}`, `{"panic": TEXT}`, `{"meet": COUNT, "n": NUMBER}`, `{"context": true}`;
//! anything else comes back as it is.

use lambda_runtime::{Error, LambdaEvent, service_fn};
use serde_json::{Value, json};
use std::time::Duration;

#[tokio::main]
async fn main() -> Result<(), Error> {
    // One call after the other, or AWS_LAMBDA_MAX_CONCURRENCY at once.
    lambda_runtime::run_concurrent(service_fn(answer)).await
}

async fn answer(event: LambdaEvent<Value>) -> Result<Value, Error> {
    let (event, context) = event.into_parts();
    println!("seen {}", event["name"]);
    if let Some(text) = event["fail"].as_str() {
        return Err(text.into());
    }
    if let Some(text) = event["panic"].as_str() {
        panic!("{text}");
    }
    if let Some(count) = event["meet"].as_u64() {
        meet(&event["n"], count as usize).await?;
    }
    if event["context"] == true {
        return Ok(json!({
            "id": context.request_id,
            "arn": context.invoked_function_arn,
            "deadline_ms": context.deadline,
            "trace": context.xray_trace_id,
            "client": context.client_context,
            "name": context.env_config.function_name,
            "memory": context.env_config.memory,
        }));
    }
    Ok(event)
}

/// Returns when so many calls have begun in this sandbox.
async fn meet(number: &Value, count: usize) -> Result<(), Error> {
    std::fs::write(format!("/tmp/meet-{number}"), "")?;
    loop {
        let met = std::fs::read_dir("/tmp")?
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().starts_with("meet-"));
        if met.count() >= count {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
