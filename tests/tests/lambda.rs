//! Functions by AWS's own clients, unmodified, on the real platform: real sandboxes, real kernel, as root.

use serde_json::{Value, json};
use std::process::Command;
use tests::clients::{self, runs_processes, succeeds};
use tests::harness::{Process, Ran, Site, project, until};

/// Failures are told at once.
const ONCE: &str = "[retry]\nattempts = 1\n";
/// One call's arguments and result at most, bytes.
const MOST: usize = 1 << 20;

/// A site with what `millrace up` says to be in force.
fn up(cores: &str) -> (Site, Process) {
    let site = Site::new();
    let up = site.up_whole(&["--cores", cores]);
    (site, up)
}

/// Deploys a function whose bundle is there.
fn deploy(site: &Site, name: &str, command: &[&str], more: &str) {
    let manifest = format!(
        "name = \"{name}\"\nruntime = \"process\"\nbundle = \"bundle\"\ncommand = {}\n{more}",
        json!(command)
    );
    let path = site.file(&format!("{name}/function.toml"), manifest);
    let state = site.json(&["deploy", &path]);
    assert_eq!(state["state"], "ready", "{state}");
}

fn run(site: &Site, function: &str, arguments: &Value) -> Ran {
    site.run(&["call", function, "--data", &arguments.to_string()])
}

/// The outcome of a call, however it ended.
fn outcome(site: &Site, function: &str, arguments: &Value) -> Value {
    site.run(&["call", function, "--data", &arguments.to_string(), "-o", "json"]).json()
}

/// The result of a call that ended well.
fn result(site: &Site, function: &str, arguments: &Value) -> Value {
    let outcome = outcome(site, function, arguments);
    assert_eq!(outcome["status"], "ok", "{outcome}");
    output(&outcome)
}

/// What a call's output says.
fn output(outcome: &Value) -> Value {
    let text = outcome["output"].as_str().expect("text");
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error} in: {outcome}"))
}

fn stderr(outcome: &Value) -> &str {
    outcome["stderr"].as_str().expect("text")
}

/// What the client for this language sees of a call: `keys` are of the context that the function returns.
fn check_context(site: &Site, function: &str, memory: &Value) {
    let outcome = outcome(site, function, &json!({"do": "context", "context": true}));
    let context = output(&outcome);
    assert_eq!(context["id"], outcome["call"], "{context}");
    let arn = format!("arn:aws:lambda:default:000000000000:function:{function}");
    assert_eq!((&context["arn"], &context["name"]), (&json!(arn), &json!(function)), "{context}");
    assert_eq!(&context["memory"], memory, "{context}");
    assert!(context["client"].is_null(), "{context}");
    if let Some(left) = context["left"].as_f64() {
        assert!(0.0 < left && left <= 60_000.0, "{context}");
    }
}

const PYTHON: [&str; 4] = ["/usr/bin/python3", "-m", "awslambdaric", "app.answer"];

#[test]
fn up_and_workers_say_what_is_in_force_for_processes() {
    if !runs_processes() {
        return;
    }
    let (site, up) = up("1");
    let backends = || site.ok(&["workers", "--backends"]);
    for told in [up.output(), backends()] {
        for word in ["in sandboxes of the jailer at", "sandboxes: namespaces", "mapped: no system call"] {
            assert!(told.contains(word), "no `{word}` in:\n{told}");
        }
    }
    // A jailer that dies is started again, and heard of.
    let output = up.output();
    let pid = output.split("event=jailer-started pid=").nth(1).and_then(|rest| rest.lines().next());
    let pid = pid.and_then(|pid| pid.trim().parse().ok()).expect("a jailer");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL)
        .expect("it runs");
    let connected = || up.output().matches("event=jailer-connected").count();
    until("another one", || (connected() == 2).then_some(()));
    until("word of it", || backends().contains("in sandboxes of the jailer at").then_some(()));
}

#[test]
fn awslambdaric_serves_calls() {
    if !runs_processes() {
        return;
    }
    let (site, _up) = up("1");
    clients::python(&site, "py", "python-lambda");
    let more =
        format!("timeout = \"60s\"\n{ONCE}[environment]\nCOLOUR = \"blue\"\n[limits]\nsandboxes = 1\n");
    deploy(&site, "py", &PYTHON, &more);
    assert_eq!(result(&site, "py", &json!({"a": ["grüße", 1.5, null]})), json!({"a": ["grüße", 1.5, null]}));
    check_context(&site, "py", &json!("128"));

    let environment = result(&site, "py", &json!({"do": "environment"}));
    for (name, value) in [
        ("COLOUR", "blue"),
        ("AWS_LAMBDA_FUNCTION_NAME", "py"),
        ("AWS_LAMBDA_RUNTIME_API", "127.0.0.1:9001"),
        ("LAMBDA_TASK_ROOT", "/var/task"),
        ("HOME", "/tmp"),
    ] {
        assert_eq!(environment[name], value, "{environment}");
    }
    assert!(environment.get("MILLRACE_DATA").is_none(), "nothing of the worker's: {environment}");

    let failed = outcome(&site, "py", &json!({"do": "raise", "text": "a reason"}));
    assert_eq!(failed["status"], "error", "{failed}");
    let told = output(&failed);
    assert_eq!((&told["errorType"], &told["errorMessage"]), (&json!("ValueError"), &json!("a reason")));
    assert!(stderr(&failed).contains("seen raise"), "{failed}");

    let ended = outcome(&site, "py", &json!({"do": "exit", "code": 3}));
    assert_eq!((&ended["status"], &ended["usage"]["exit_code"]), (&json!("exit"), &json!(3)), "{ended}");
    let ended = outcome(&site, "py", &json!({"do": "exit", "code": 0}));
    assert_eq!(ended["status"], "killed", "{ended}");
    assert!(stderr(&ended).contains("before it answered"), "{ended}");
    assert_eq!(outcome(&site, "py", &json!({"again": 1}))["usage"]["cold"], true, "a new sandbox");
    check_logs(&site);
}

/// What the calls of the test above printed is found.
fn check_logs(site: &Site) {
    let outcome = outcome(site, "py", &json!({"do": "printed"}));
    let call = outcome["call"].as_str().expect("an id");
    assert_eq!(stderr(&outcome), "seen printed\n");
    until("the log", || {
        let ran = site.run(&["logs", "py", "--call", call]);
        ran.stdout().contains("| seen printed").then_some(())
    });
    let all = site.ok(&["logs", "py"]);
    for line in ["begun", "seen raise", "ValueError: a reason", "seen exit"] {
        assert!(all.contains(line), "no `{line}` in:\n{all}");
    }
}

#[test]
fn awslambdaric_bears_trouble() {
    if !runs_processes() {
        return;
    }
    let (site, _up) = up("1");
    clients::python(&site, "py", "python-lambda");
    deploy(&site, "py", &PYTHON, &format!("timeout = \"2s\"\n{ONCE}[limits]\ngrace = \"100ms\"\n"));
    let late = outcome(&site, "py", &json!({"do": "sleep", "s": 600}));
    assert_eq!((&late["status"], stderr(&late)), (&json!("timeout"), "begun\nseen sleep\n"), "{late}");
    deploy(&site, "py", &PYTHON, &format!("timeout = \"60s\"\n{ONCE}"));

    // As much as a frame has room for, and more, both ways.
    let empty = json!({"do": "length", "text": ""}).to_string().len();
    let exact = |bytes: usize| json!({"do": "length", "text": "x".repeat(bytes - empty)}).to_string();
    assert_eq!(
        site.ok(&["call", "py", "--file", &site.file("max", exact(MOST))]),
        (MOST - empty).to_string()
    );
    let large = site.ok(&["call", "py", "--file", &site.file("large", exact(5 * MOST))]);
    assert_eq!(large, (5 * MOST - empty).to_string());
    for bytes in [MOST, MOST + 1, 5 * MOST] {
        let big = run(&site, "py", &json!({"do": "big", "bytes": bytes}));
        assert_eq!((big.code(), big.bytes().len()), (0, bytes), "{}", big.stderr());
    }
    assert_eq!(result(&site, "py", &json!(1)), 1, "the function goes on");

    // What cannot begin.
    for (handler, kind) in
        [("missing.answer", "Runtime.ImportModuleError"), ("app.missing", "Runtime.HandlerNotFound")]
    {
        deploy(&site, "py", &["/usr/bin/python3", "-m", "awslambdaric", handler], ONCE);
        let failed = outcome(&site, "py", &json!({}));
        assert_eq!(failed["status"], "init", "{failed}");
        assert_eq!(output(&failed)["errorType"], kind, "{failed}");
        assert!(stderr(&failed).contains(handler.split('.').next().expect("a word")), "{failed}");
    }
    deploy(&site, "py", &["/usr/bin/python3", "-m", "nothing"], ONCE);
    let failed = outcome(&site, "py", &json!({}));
    assert_eq!(failed["status"], "init", "{failed}");
    assert!(stderr(&failed).contains("No module named nothing"), "{failed}");
}

#[test]
fn sdks_and_the_aws_command_invoke_awslambdaric() {
    if !runs_processes() {
        return;
    }
    let bin = clients::aws();
    let (site, _up) = up("1");
    clients::python(&site, "py", "python-lambda");
    deploy(&site, "py", &PYTHON, &format!("timeout = \"60s\"\n{ONCE}[limits]\nsandboxes = 3\n"));
    let admin = site.up_json()["admin"].as_str().expect("an address").to_owned();
    let script = project().join("tests/data/lambda_process.py");
    print!("{}", succeeds(Command::new(bin.join("python")).arg(script).arg(&admin)));
    // What was only accepted ran, too.
    until("the event", || site.ok(&["logs", "py"]).contains("seen event").then_some(()));
    let usage = site.json(&["usage", "py"]);
    assert!(usage["total"]["cold_starts"].as_u64() >= Some(2), "several sandboxes: {usage}");
    assert_eq!(usage["total"]["executions"], usage["total"]["calls"], "{usage}");

    let file = site.folder().join("answer.json");
    let mut aws = Command::new(bin.join("python"));
    aws.arg(bin.join("aws")).args(["lambda", "invoke", "--endpoint-url", &admin, "--region", "eu-central-1"]);
    aws.args(["--function-name", "py", "--payload", "{\"from\": \"aws\"}", "--log-type", "Tail"]).arg(&file);
    aws.env("AWS_ACCESS_KEY_ID", "any").env("AWS_SECRET_ACCESS_KEY", "any");
    let told: Value = serde_json::from_str(&succeeds(&mut aws)).expect("JSON");
    assert_eq!((&told["StatusCode"], &told["ExecutedVersion"]), (&json!(200), &json!("$LATEST")), "{told}");
    assert!(told["LogResult"].is_string(), "{told}");
    assert_eq!(std::fs::read_to_string(file).expect("its answer"), "{\"from\": \"aws\"}");
}

/// A request as API Gateway tells it, format 2.0.
fn http(method: &str, path: &str, query: &str, body: &str) -> Value {
    json!({
        "version": "2.0", "routeKey": "$default", "rawPath": path, "rawQueryString": query,
        "headers": {"host": "example.org", "x-forwarded-proto": "https", "x-forwarded-port": "443",
                    "content-type": "application/json"},
        "requestContext": {"http": {"method": method, "path": path, "protocol": "HTTP/1.1",
                                    "sourceIp": "192.0.2.1", "userAgent": "test"}},
        "body": body, "isBase64Encoded": false,
    })
}

#[test]
fn httpbin_runs_as_it_is() {
    if !runs_processes() {
        return;
    }
    let (site, _up) = up("1");
    clients::python(&site, "web", "httpbin-lambda");
    let command = ["/usr/bin/python3", "-m", "awslambdaric", "web.answer"];
    deploy(&site, "web", &command, &format!("timeout = \"60s\"\nmemory = \"256MiB\"\n{ONCE}"));
    let ask = |method: &str, path: &str, query: &str, body: &str| {
        let answer = result(&site, "web", &http(method, path, query, body));
        (answer["statusCode"].as_u64().expect("a status"), answer)
    };
    let body = |answer: &Value| -> Value {
        serde_json::from_str(answer["body"].as_str().expect("text")).expect("JSON")
    };
    let (status, answer) = ask("GET", "/get", "a=1&b=%C3%BC", "");
    let told = body(&answer);
    assert_eq!((status, &told["args"]), (200, &json!({"a": "1", "b": "ü"})), "{answer}");
    assert_eq!(told["url"], "https://example.org/get?a=1&b=ü", "{answer}");
    let (status, answer) = ask("POST", "/post", "", "{\"n\": [1, 2]}");
    assert_eq!((status, &body(&answer)["json"]), (200, &json!({"n": [1, 2]})), "{answer}");
    let (status, answer) = ask("GET", "/status/418", "", "");
    assert_eq!((status, &answer["headers"]["content-length"]), (418, &json!("135")), "{answer}");
    let (status, answer) = ask("GET", "/bytes/1024", "seed=7", "");
    assert_eq!((status, &answer["isBase64Encoded"]), (200, &json!(true)), "{answer}");
    let coded = answer["body"].as_str().expect("text");
    assert_eq!((coded.len(), coded.ends_with("==")), (1368, true), "1024 bytes in base64");
    let (status, answer) = ask("PUT", "/anything/here", "q=x", "plain");
    let told = body(&answer);
    assert_eq!((status, &told["method"], &told["data"]), (200, &json!("PUT"), &json!("plain")), "{answer}");
    assert_eq!(ask("GET", "/no/such/path", "", "").0, 404);
    assert_eq!(ask("GET", "/basic-auth/a/b", "", "").0, 401);
    assert_eq!(ask("GET", "/delay/1", "", "").0, 200);
}

#[test]
fn aws_lambda_ric_serves_calls() {
    if !runs_processes() {
        return;
    }
    let (site, _up) = up("1");
    clients::node(&site, "node");
    let command = ["node", "node_modules/aws-lambda-ric/index.mjs"];
    let more = format!("handler = \"app.answer\"\ntimeout = \"60s\"\nmemory = \"256MiB\"\n{ONCE}");
    deploy(&site, "node", &command, &more);
    assert_eq!(result(&site, "node", &json!({"a": "grüße"})), json!({"a": "grüße"}));
    check_context(&site, "node", &json!("256"));
    let failed = outcome(&site, "node", &json!({"raise": "a reason", "name": "n"}));
    assert_eq!(failed["status"], "error", "{failed}");
    let told = output(&failed);
    assert_eq!((&told["errorType"], &told["errorMessage"]), (&json!("RangeError"), &json!("a reason")));
    assert!(stderr(&failed).contains("seen n"), "{failed}");
    let ended = outcome(&site, "node", &json!({"exit": 3}));
    assert_eq!((&ended["status"], &ended["usage"]["exit_code"]), (&json!("exit"), &json!(3)), "{ended}");
    let more = more.replace("app.answer", "missing.answer");
    deploy(&site, "node", &command, &more);
    let failed = outcome(&site, "node", &json!({}));
    assert_eq!(failed["status"], "init", "{failed}");
    assert_eq!(output(&failed)["errorType"], "Runtime.ImportModuleError", "{failed}");
}

#[test]
fn lambda_runtime_serves_calls() {
    if !runs_processes() {
        return;
    }
    let (site, _up) = up("1");
    clients::rust(&site, "rust");
    deploy(&site, "rust", &["./rust-lambda"], &format!("timeout = \"60s\"\n{ONCE}"));
    assert_eq!(result(&site, "rust", &json!({"a": "grüße"})), json!({"a": "grüße"}));
    check_context(&site, "rust", &json!(128));
    let failed = outcome(&site, "rust", &json!({"fail": "a reason", "name": "n"}));
    assert_eq!((&failed["status"], &output(&failed)["errorMessage"]), (&json!("error"), &json!("a reason")));
    assert!(stderr(&failed).contains("seen \"n\""), "{failed}");
    let failed = outcome(&site, "rust", &json!({"panic": "a reason"}));
    assert_eq!(failed["status"], "error", "{failed}");
    assert!(output(&failed)["errorMessage"].as_str().expect("text").contains("a reason"), "{failed}");
    assert!(stderr(&failed).contains("panicked at"), "{failed}");
}

/// Submits a call for each line, waits, and tells how they ended.
fn submit(site: &Site, function: &str, events: impl Iterator<Item = Value>) -> Value {
    let lines: String = events.map(|event| format!("{event}\n")).collect();
    let ran = site.run(&[
        "submit",
        function,
        "--ndjson",
        &site.file("calls.ndjson", lines),
        "--wait",
        "-o",
        "json",
    ]);
    ran.json()
}

#[test]
fn all_clients_serve_several_calls_at_once() {
    if !runs_processes() {
        return;
    }
    let (site, _up) = up("1");
    clients::python(&site, "py", "python-lambda");
    clients::node(&site, "node");
    clients::rust(&site, "rust");
    let functions: [(&str, &[&str]); 3] = [
        ("py", &PYTHON),
        ("node", &["node", "node_modules/aws-lambda-ric/index.mjs"]),
        ("rust", &["./rust-lambda"]),
    ];
    for (name, command) in functions {
        let more = "handler = \"app.answer\"\ntimeout = \"60s\"\nmemory = \"512MiB\"\n";
        let limits = "[limits]\nconcurrent = 4\nsandboxes = 1\npids = 256\n";
        deploy(&site, name, command, &format!("{more}{ONCE}{limits}"));
        assert_eq!(result(&site, name, &json!(7)), 7);
        // Each of four waits until all have begun: one after the other none would end.
        let tally = submit(&site, name, (0..4).map(|n| json!({"do": "meet", "meet": 4, "n": n})));
        assert_eq!(tally["outcomes"], json!({"ok": 4}), "{name}: {tally}");
        let tally = submit(&site, name, (0..60).map(|n| json!({"n": n})));
        assert_eq!(tally["outcomes"], json!({"ok": 60}), "{name}: {tally}");
        let usage = site.json(&["usage", name]);
        assert_eq!(usage["total"]["cold_starts"], 1, "{name}: in one sandbox: {usage}");
        let logs = site.ok(&["logs", name]);
        assert!(!logs.to_lowercase().contains("error"), "{name}:\n{logs}");
    }
}
