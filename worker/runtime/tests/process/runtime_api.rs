//! Calls by the Runtime API, well-behaved and not.

use crate::stage::{Stage, spec, with};
use call::body::attribute;
use call::function::Abi;
use call::{Attribute, Status};
use std::time::Duration;

const API: Abi = Abi::RuntimeApi;

#[test]
fn a_call_is_answered_by_a_warm_process() {
    let mut stage = Stage::new();
    let f = stage.publish(&spec(API));
    let first = stage.call(f, "echo one");
    assert_eq!((first.status, first.output.as_str(), first.usage.cold), (Status::Ok, "one", true));
    assert!(first.usage.init_ns > 0);
    let second = stage.call(f, "echo two");
    assert_eq!((second.status, second.output.as_str(), second.usage.cold), (Status::Ok, "two", false));
    assert_eq!((second.usage.init_ns, stage.jailer.made()), (0, 1));
}

#[test]
fn a_call_is_told_with_its_headers_and_environment() {
    let mut stage = Stage::new();
    let f = stage.publish(&with(spec(API), "OWN", "mine"));
    let known = [
        Attribute { key: attribute::TRACE_ID, value: "Root=1-a-b" },
        Attribute { key: attribute::CLIENT_CONTEXT, value: "{\"a\":1}" },
    ];
    let call = stage.begin_with(0, f, "head", &known);
    let head = stage.end(0).output;
    for line in [
        format!("Lambda-Runtime-Aws-Request-Id: {call}"),
        "Lambda-Runtime-Trace-Id: Root=1-a-b".into(),
        "Lambda-Runtime-Client-Context: {\"a\":1}".into(),
        "Lambda-Runtime-Invoked-Function-Arn: arn:aws:lambda:default:000000000000:function:f".into(),
        "Content-Type: application/json".into(),
    ] {
        assert!(head.contains(&format!("{line}\r\n")), "{line} in {head}");
    }
    let deadline = head.split("Deadline-Ms: ").nth(1).unwrap().split('\r').next().unwrap();
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis() as i64;
    let left = deadline.parse::<i64>().unwrap() - now;
    assert!((20_000..=30_000).contains(&left), "{left} ms of 30 s are left");
    for (name, value) in [
        ("OWN", "mine"),
        ("AWS_LAMBDA_FUNCTION_NAME", "f"),
        ("AWS_LAMBDA_FUNCTION_VERSION", "1"),
        ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "64"),
        ("AWS_LAMBDA_MAX_CONCURRENCY", ""),
    ] {
        assert_eq!(stage.call(f, &format!("env {name}")).output, value, "{name}");
    }
}

#[test]
fn an_error_that_the_function_reports_is_the_calls() {
    let mut stage = Stage::new();
    let f = stage.publish(&spec(API));
    let told = stage.call(f, "error Runtime.Boom {\"errorMessage\":\"no\"}");
    assert_eq!((told.status, told.output.as_str()), (Status::Error, "{\"errorMessage\":\"no\"}"));
    assert!(told.log.contains("Runtime.Boom"), "{}", told.log);
    let told = stage.call(f, "error Millrace.BackPressure {\"errorMessage\":\"tao\"}");
    assert_eq!((told.status, told.log.lines().last()), (Status::BackPressure, Some("back-pressure: tao")));
    assert_eq!(stage.call(f, "echo on").output, "on");
    assert_eq!(stage.jailer.made(), 1, "an error harms no sandbox");
}

#[test]
fn what_a_function_writes_is_the_log_of_its_call() {
    let mut stage = Stage::new();
    let f = stage.publish(&spec(API));
    for word in ["one", "two", "three"] {
        let told = stage.call(f, &format!("log {word}"));
        let mut lines: Vec<&str> = told.log.lines().collect();
        lines.sort_unstable();
        assert_eq!((told.output.as_str(), &lines[..]), ("logged", &[word, word][..]));
    }
    let long = "x".repeat(40_000);
    let told = stage.call(f, &format!("log {long}"));
    assert!(told.status == Status::Ok && told.usage.truncated && told.log.len() == 16 << 10);
}

#[test]
fn results_of_all_sizes_and_forms_are_taken() {
    let mut stage = Stage::new();
    let f = stage.publish(&spec(API));
    for bytes in [0, 1, 100_000, 1 << 20] {
        let told = stage.call(f, &format!("big {bytes}"));
        assert_eq!((told.status, told.output.len()), (Status::Ok, bytes));
    }
    assert_eq!(stage.call(f, "chunked in small pieces").output, "in small pieces");
    let large = "y".repeat(1 << 20);
    let told = stage.call(f, &format!("echo {}", &large[5..]));
    assert_eq!((told.status, told.output.len()), (Status::Ok, (1 << 20) - 5));
}

#[test]
fn a_result_that_is_too_long_is_none() {
    let mut stage = Stage::new();
    let f = stage.publish(&spec(API));
    for bytes in [(1 << 20) + 1, 6 << 20] {
        let told = stage.call(f, &format!("big {bytes}"));
        assert_eq!((told.status, told.output.len()), (Status::BadReply, 0));
        assert!(told.log.contains("longer than one may be"), "{}", told.log);
    }
    assert_eq!(stage.call(f, "echo on").output, "on");
    assert_eq!(stage.jailer.made(), 1);
}

#[test]
fn half_a_result_is_none() {
    let mut stage = Stage::new();
    let f = stage.publish(&spec(API));
    let told = stage.call(f, "half");
    assert_eq!(told.status, Status::BadReply);
    assert!(told.log.contains("half a result"), "{}", told.log);
    assert_eq!(stage.call(f, "echo on").output, "on");
}

#[test]
fn a_second_next_ends_the_call_and_a_second_answer_is_refused() {
    let mut stage = Stage::new();
    let f = stage.publish(&spec(API));
    let told = stage.call(f, "next");
    assert_eq!(told.status, Status::Error);
    assert!(told.log.contains("without having answered"), "{}", told.log);
    assert_eq!(stage.call(f, "twice").output, "first");
    assert_eq!(stage.call(f, "echo on").output, "on");
}

#[test]
fn a_function_that_floods_its_log_or_the_api_holds_up_nobody() {
    let mut stage = Stage::new();
    let mut hostile = spec(API);
    (hostile.name, hostile.limits.grace_ms) = ("hostile".into(), 0);
    let (f, victim) = (stage.publish(&hostile), stage.publish(&spec(API)));
    stage.begin(1, f, "flood");
    stage.pass(Duration::from_millis(200));
    for number in 0..100 {
        assert_eq!(stage.call(victim, &format!("echo {number}")).output, number.to_string());
    }
    let told = stage.time_out(1);
    assert!(told.status == Status::Timeout && told.log.len() == 16 << 10 && told.usage.truncated);
    let told = stage.call(f, "trouble");
    assert_eq!(told.status, Status::BadReply);
    assert!(told.log.contains("more than 1000 requests"), "{}", told.log);
    stage.until("both are gone", |stage| stage.runtime.sandboxes().2 == 1);
}

#[test]
fn no_function_answers_for_another_one() {
    let mut stage = Stage::new();
    let victim = stage.publish(&spec(API));
    let mut other = spec(API);
    other.name = "thief".into();
    let thief = stage.publish(&other);
    let call = stage.begin(0, victim, "sleep 200 mine");
    stage.begin(1, thief, &format!("steal {call}"));
    assert_eq!(stage.end(1).output, "400");
    assert_eq!(stage.end(0).output, "mine");
}

#[test]
fn one_sandbox_serves_as_many_calls_at_once_as_it_may() {
    let mut stage = Stage::new();
    let mut many = spec(API);
    many.limits.concurrent = 4;
    many.limits.sandboxes = 1;
    let f = stage.publish(&many);
    assert_eq!(stage.call(f, "env AWS_LAMBDA_MAX_CONCURRENCY").output, "4");
    for slot in 0..8 {
        stage.begin(slot, f, &format!("sleep 100 {slot}"));
    }
    for slot in 0..8 {
        assert_eq!(stage.end(slot).output, slot.to_string());
    }
    assert_eq!(stage.jailer.made(), 1);
}

#[test]
fn calls_that_wait_get_more_sandboxes() {
    let mut stage = Stage::new();
    let f = stage.publish(&spec(API));
    for slot in 0..6 {
        stage.begin(slot, f, "sleep 300 done");
    }
    stage.until("several sandboxes work", |stage| stage.runtime.sandboxes().1 >= 3);
    for slot in 0..6 {
        assert_eq!(stage.end(slot).output, "done");
    }
    stage.pass(Duration::from_millis(20));
    assert!(stage.jailer.made() <= 6);
}

#[test]
fn a_warm_process_serves_many_calls_one_after_the_other() {
    let mut stage = Stage::new();
    let f = stage.publish(&spec(API));
    for number in 0..2000 {
        if number == 1000 {
            stage.allocations = 0;
        }
        let told = stage.call(f, &format!("echo {number}"));
        assert_eq!(told.output, number.to_string());
    }
    assert_eq!((stage.jailer.made(), stage.allocations), (1, 0), "for a warm call no memory is asked for");
}
