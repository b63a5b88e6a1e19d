//! A published process function: what its sandboxes are made of, and how a call of it is told.

use super::api::{Invocation, invocation};
use super::pool::Bounds;
use crate::seam::Begin;
use call::body::attribute;
use call::function::Abi;
use call::{FunctionSpec, WallTime};
use sandbox::protocol::{self, Limits, Network, Spec};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Bytes of all variables of one call by stdio: they travel in one message to the jailer.
const CALL_VARIABLES_BYTES_MAX: usize = 16 << 10;
/// And how many of them.
const CALL_VARIABLES_MAX: usize = 128;

/// See the module.
pub(super) struct Function {
    arn: String,
    /// What its sandboxes are made of.
    pub spec: Box<Spec>,
    pub bounds: Bounds,
    /// From SIGTERM to SIGKILL, ms.
    pub grace_ms: u64,
    timeout: Duration,
    /// What it last posted to `init/error`.
    pub init_error: Vec<u8>,
}

impl Function {
    /// As published. Its bundle is in `bundles`, named by its hash.
    pub fn new(spec: &FunctionSpec, bundles: &Path) -> Function {
        let limits = &spec.limits;
        Function {
            arn: format!("arn:aws:lambda:{}:000000000000:function:{}", spec.namespace, spec.name),
            spec: Box::new(sandbox_spec(spec, bundles)),
            bounds: Bounds {
                concurrent: limits.concurrent.max(1),
                sandboxes: limits.sandboxes.max(1),
                idle: Duration::from_millis(limits.idle_ms),
                init: Duration::from_millis(limits.init_timeout_ms),
            },
            grace_ms: limits.grace_ms,
            timeout: Duration::from_millis(spec.timeout_ms),
            init_error: Vec::new(),
        }
    }

    /// How calls reach it.
    pub fn abi(&self) -> protocol::Abi {
        self.spec.abi
    }

    /// Whether sandboxes of `other` serve it as well.
    pub fn is_like(&self, other: &Function) -> bool {
        self.spec == other.spec && self.bounds.concurrent == other.bounds.concurrent
    }

    /// Appends a call as the Runtime API tells it.
    pub fn tell(&self, out: &mut Vec<u8>, begin: &Begin<'_>, wall: WallTime) {
        let (mut trace, mut client_context) = (None, None);
        for each in begin.attributes {
            match &*each.key {
                attribute::TRACE_ID => trace = Some(&*each.value),
                attribute::CLIENT_CONTEXT => client_context = Some(&*each.value),
                _ => {}
            }
        }
        let told = Invocation {
            call: begin.call,
            deadline_unix_ms: (wall + self.timeout).0 / 1_000_000,
            arn: &self.arn,
            trace,
            client_context,
            content_type: None,
            body: begin.payload,
        };
        invocation(out, &told);
    }

    /// The variables of one call by stdio, as a WASI command has them. What is beyond the bound is left out; whether
    /// something was.
    pub fn variables(&self, into: &mut Vec<(String, String)>, begin: &Begin<'_>) -> bool {
        into.push(("MILLRACE_CALL".into(), begin.call.to_string()));
        into.push(("MILLRACE_ATTEMPT".into(), begin.attempt.to_string()));
        let mut bytes = 0;
        for each in begin.attributes {
            let upper = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
            let key: String = "MILLRACE_ATTR_".chars().chain(each.key.chars().map(upper)).collect();
            // A zero byte would end the string early.
            let value = each.value.replace('\0', " ");
            // JSON writes a control character as six.
            bytes += key.len()
                + value.chars().map(|c| if c.is_control() { 6 } else { c.len_utf8() + 1 }).sum::<usize>();
            if bytes > CALL_VARIABLES_BYTES_MAX || into.len() == CALL_VARIABLES_MAX {
                return true;
            }
            into.push((key, value));
        }
        false
    }
}

fn sandbox_spec(spec: &FunctionSpec, bundles: &Path) -> Spec {
    let limits = &spec.limits;
    let rules = |rules: &[call::function::Rule]| rules.iter().map(ToString::to_string).collect();
    Spec {
        function: spec.name.clone(),
        tenant: spec.tenant.clone(),
        bundle: bundles.join(&spec.artefact),
        abi: match spec.abi_in_force() {
            Abi::Stdio => protocol::Abi::Stdio,
            _ => protocol::Abi::RuntimeApi,
        },
        base: spec.process.base,
        tier: spec.sandbox.tier,
        command: spec.process.command.clone(),
        environment: environment(spec),
        limits: Limits {
            memory_bytes: spec.memory_bytes,
            memory_high_bytes: 0,
            cpu_weight: limits.cpu_weight,
            cpu_milli: limits.cpu_millis,
            cpus: Vec::new(),
            pids: limits.pids,
            files: limits.files,
            tmp_bytes: limits.tmp_bytes,
            io_bytes: limits.io_bytes_per_s,
        },
        network: spec.network.is_granted().then(|| Network {
            allow: rules(&spec.network.allow),
            listen: rules(&spec.network.listen),
            egress_bytes: spec.network.egress_bytes_per_s,
            ingress_bytes: spec.network.ingress_bytes_per_s,
        }),
        devices: spec.sandbox.devices.iter().map(PathBuf::from).collect(),
    }
}

/// What a function finds in its environment: what Lambda sets where it has a meaning here, then its own.
fn environment(spec: &FunctionSpec) -> Vec<(String, String)> {
    let group = format!("/millrace/{}/{}", spec.namespace, spec.name);
    let mut set: Vec<(String, String)> = Vec::new();
    let mut add = |name: &str, value: String| set.push((name.into(), value));
    add("MILLRACE_FUNCTION", spec.name.clone());
    if spec.abi_in_force() != Abi::Stdio {
        add("_HANDLER", spec.process.handler.clone());
        add("AWS_EXECUTION_ENV", "Millrace".into());
        add("AWS_LAMBDA_FUNCTION_NAME", spec.name.clone());
        add("AWS_LAMBDA_FUNCTION_VERSION", spec.version.to_string());
        add("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", (spec.memory_bytes >> 20).max(1).to_string());
        add("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand".into());
        add("AWS_LAMBDA_LOG_GROUP_NAME", group);
        add("AWS_LAMBDA_LOG_STREAM_NAME", spec.version.to_string());
        // With it, even if 1, the official Python client serves from forked processes.
        if spec.limits.concurrent > 1 {
            add("AWS_LAMBDA_MAX_CONCURRENCY", spec.limits.concurrent.to_string());
        }
    }
    let own = spec.process.environment.iter();
    set.extend(own.map(|(name, value)| (name.clone(), value.clone())));
    set
}
