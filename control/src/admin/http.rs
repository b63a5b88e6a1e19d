//! The router, and the thread it runs on.

use crate::accounts::Book;
use crate::admin::catalog_file::CatalogFile;
use crate::admin::error::ApiError;
use crate::admin::link::Link;
use crate::admin::logs::Logs;
use crate::admin::region::RegionFile;
use crate::admin::shaping_file::ShapingFile;
use crate::admin::{
    artefacts, blobs, calls, functions, invoke, logs, metrics, operations, region, results, shaping, shards,
    shares, signals, usage,
};
use crate::artefacts::ArtefactStore;
use crate::blobs::BlobStore;
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{Method, StatusCode, Uri, header};
use axum::response::IntoResponse;
use axum::routing::{MethodRouter, delete, get, post, put};
use std::io;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, Semaphore, oneshot};

/// What the cold side needs to know.
pub struct AdminOptions {
    /// Where it listens: bound by the caller, so that a port in use is an error of the start.
    pub listener: TcpListener,
    /// The node's Unix socket.
    pub socket: PathBuf,
    /// The secret of [`call::admin::Hello::Admin`].
    pub secret: String,
    /// The catalog as recovered.
    pub catalog: CatalogFile,
    /// The data directory.
    pub root: PathBuf,
    /// What was ordered of the region before.
    pub region: RegionFile,
    /// What operators said beside manifests.
    pub shaping: ShapingFile,
    /// The file of all shards, if this node is one.
    pub shards: Option<PathBuf>,
    /// The artefact store.
    pub store: ArtefactStore,
    /// The store of blobs.
    pub blobs: Arc<BlobStore>,
    /// Arguments above this become a blob.
    pub blob_above: usize,
    /// What functions use.
    pub book: Arc<Book>,
    /// What calls wrote.
    pub logs: Logs,
    /// Signals that drain the node; every thread of the process must block them. None if the process is not ours.
    pub signals: Option<nix::sys::signal::SigSet>,
    /// Ends the service when its sender is dropped, after the answers in the making.
    pub stop: oneshot::Receiver<()>,
}

/// How long an ending service waits for clients that are slow to take their answer.
const FAREWELL: Duration = Duration::from_secs(1);

/// What routes share.
pub(super) struct Admin {
    pub link: Link,
    pub store: ArtefactStore,
    pub blobs: Arc<BlobStore>,
    /// Arguments above this become a blob.
    pub blob_above: usize,
    pub book: Arc<Book>,
    pub logs: Logs,
    /// Who reads logs takes one.
    pub readers: Arc<Semaphore>,
    /// Held over a whole deployment: one after the other.
    pub catalog: Mutex<CatalogFile>,
    pub root: PathBuf,
    /// Held over a whole order: one after the other.
    pub region: Mutex<RegionFile>,
    /// Held over a whole change: one after the other.
    pub shaping: Mutex<ShapingFile>,
    /// The file of all shards, if this node is one.
    pub shards: Option<PathBuf>,
    /// Held while that file is looked at and written, or the one of this shard's shares.
    pub shard_file: Mutex<()>,
}

pub(super) type Shared = Arc<Admin>;

/// The description of every route below; a test holds the two equal.
pub const OPENAPI: &str = include_str!("../../openapi.json");

/// JSON bodies: a manifest is a page, not a book.
const JSON_BYTES_MAX: usize = 256 << 10;

/// One route: a method, its path, and what answers.
struct Route {
    /// What a test compares with the description; the answer knows it, too.
    #[cfg_attr(not(test), expect(dead_code))]
    method: Method,
    path: &'static str,
    answer: MethodRouter<Shared>,
}

fn routes() -> Vec<Route> {
    // Artefacts and payloads bound themselves; everything else has the small bound of the router.
    let unbounded = DefaultBodyLimit::disable;
    let route = |method, path, answer| Route { method, path, answer };
    let payload = || DefaultBodyLimit::max(invoke::PAYLOAD_BYTES_MAX);
    vec![
        route(Method::PUT, "/v1/artefacts/{sha256}", put(artefacts::put).layer(unbounded())),
        route(Method::GET, "/v1/artefacts/{sha256}", get(artefacts::get)),
        route(Method::PUT, "/v1/blobs", put(blobs::put).layer(unbounded())),
        route(Method::GET, "/v1/blobs/{sha256}", get(blobs::get)),
        route(Method::POST, "/v1/blobs/collect", post(blobs::collect)),
        route(Method::GET, "/v1/functions", get(functions::list)),
        route(Method::PUT, "/v1/functions/{namespace}/{name}", put(functions::deploy)),
        route(Method::GET, "/v1/functions/{namespace}/{name}", get(functions::show)),
        route(Method::DELETE, "/v1/functions/{namespace}/{name}", delete(functions::remove)),
        route(Method::POST, "/v1/functions/{namespace}/{name}/calls", post(calls::submit).layer(unbounded())),
        route(Method::GET, "/v1/calls", get(operations::find)),
        route(Method::POST, "/v1/calls/cancel", post(operations::cancel)),
        route(Method::POST, "/v1/calls/retry", post(operations::retry)),
        route(Method::GET, "/v1/calls/{id}", get(calls::show)),
        route(Method::GET, "/v1/calls/{id}/result", get(results::show)),
        route(Method::GET, "/v1/calls/{id}/why", get(shaping::why)),
        route(Method::GET, "/v1/quotas", get(shaping::quotas)),
        route(Method::PUT, "/v1/quotas/{namespace}/{name}", put(shaping::set_quota)),
        route(Method::DELETE, "/v1/quotas/{namespace}/{name}", delete(shaping::reset_quota)),
        route(Method::PUT, "/v1/tenants/{tenant}", put(shaping::set_tenant)),
        route(Method::GET, "/v1/downstreams", get(shaping::downstreams)),
        route(Method::PUT, "/v1/downstreams/{downstream}", put(shaping::set_downstream)),
        route(Method::GET, "/v1/locality", get(shaping::locality)),
        route(Method::GET, "/v1/scaling", get(shaping::scaling)),
        route(Method::GET, "/v1/observation", get(shaping::observation)),
        route(Method::PUT, "/v1/conclusions", put(shaping::conclusions)),
        route(Method::GET, "/v1/queues", get(operations::queues)),
        route(Method::GET, "/v1/queues/{namespace}/{name}/peek", get(operations::peek)),
        route(Method::POST, "/v1/queues/{namespace}/{name}/pause", post(shaping::pause_function)),
        route(Method::POST, "/v1/queues/{namespace}/{name}/drain", post(shaping::drain_function)),
        route(Method::POST, "/v1/queues/{namespace}/{name}/resume", post(shaping::resume_function)),
        route(Method::POST, "/v1/tenants/{tenant}/pause", post(shaping::pause_tenant)),
        route(Method::POST, "/v1/tenants/{tenant}/resume", post(shaping::resume_tenant)),
        route(Method::GET, "/v1/dead-letters", get(operations::dead_letters)),
        route(Method::POST, "/v1/dead-letters/redrive", post(operations::redrive)),
        route(Method::POST, "/v1/dead-letters/purge", post(operations::purge)),
        route(Method::GET, "/v1/workers", get(operations::workers)),
        route(Method::GET, "/v1/status", get(operations::status)),
        route(Method::POST, "/v1/hold", post(operations::hold)),
        route(Method::POST, "/v1/drain", post(operations::drain)),
        route(Method::GET, "/v1/region", get(region::show)),
        route(Method::PUT, "/v1/region/matrix", put(region::matrix)),
        route(Method::POST, "/v1/region/drain", post(region::drain)),
        route(Method::POST, "/v1/region/resume", post(region::resume)),
        route(Method::GET, "/v1/shards", get(shards::show)),
        route(Method::PUT, "/v1/shards", put(shards::publish)),
        route(Method::GET, "/v1/shards/shares", get(shares::show)),
        route(
            Method::PUT,
            "/v1/shards/shares",
            put(shares::tell).layer(DefaultBodyLimit::max(shares::BYTES_MAX)),
        ),
        route(Method::GET, "/v1/usage", get(usage::show)),
        route(Method::GET, "/v1/functions/{namespace}/{name}/logs", get(logs::show)),
        route(Method::GET, "/metrics", get(metrics::show)),
        route(Method::POST, invoke::PATH, post(invoke::invoke).layer(payload())),
        route(Method::POST, invoke::STREAMING_PATH, post(invoke::streaming)),
        route(Method::GET, "/openapi.json", get(openapi)),
    ]
}

fn router(admin: Shared) -> Router {
    let mut router = Router::new();
    for route in routes() {
        router = router.route(route.path, route.answer);
    }
    router
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .layer(DefaultBodyLimit::max(JSON_BYTES_MAX))
        .with_state(admin)
}

/// Serves until it is stopped. Blocks: the caller gives it a thread.
///
/// # Errors
/// If the runtime cannot be made; what goes wrong in a request is that request's answer.
pub fn serve(options: AdminOptions) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let link = Link::start(options.socket, options.secret);
        if let Some(signals) = options.signals {
            signals::drain_on_signal(signals, link.clone())?;
        }
        let admin = Admin {
            link,
            store: options.store,
            blobs: options.blobs,
            blob_above: options.blob_above,
            book: options.book,
            logs: options.logs,
            readers: Arc::new(Semaphore::new(logs::READERS_MAX)),
            catalog: Mutex::new(options.catalog),
            root: options.root,
            region: Mutex::new(options.region),
            shaping: Mutex::new(options.shaping),
            shards: options.shards,
            shard_file: Mutex::new(()),
        };
        let admin = Arc::new(admin);
        tokio::spawn(blobs::collect_for_ever(admin.clone()));
        options.listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(options.listener)?;
        let (ending, ended) = oneshot::channel::<()>();
        let service = axum::serve(listener, router(admin)).with_graceful_shutdown(async {
            let _ = options.stop.await;
            drop(ending);
        });
        tokio::select! {
            result = service.into_future() => result,
            () = async { let _ = ended.await; tokio::time::sleep(FAREWELL).await } => Ok(()),
        }
    })
}

async fn openapi() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI)
}

async fn no_route(uri: Uri) -> ApiError {
    ApiError::not_found(format!("there is nothing at {}", uri.path()), "see GET /openapi.json for all routes")
}

async fn no_method(method: Method, uri: Uri) -> ApiError {
    let message = format!("{} does not take {method}", uri.path());
    ApiError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "bad-request",
        message,
        "see GET /openapi.json for all routes",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_openapi_file_has_every_route_and_no_other() {
        let file: serde_json::Value = serde_json::from_str(OPENAPI).unwrap();
        assert!(file["openapi"].as_str().unwrap().starts_with("3.1"));
        let mut described = BTreeSet::new();
        for (path, item) in file["paths"].as_object().unwrap() {
            for method in item.as_object().unwrap().keys().filter(|k| *k != "parameters") {
                described.insert((method.to_uppercase(), path.clone()));
            }
        }
        let served: BTreeSet<_> =
            routes().iter().map(|r| (r.method.to_string(), r.path.to_string())).collect();
        assert_eq!(described, served);
    }

    #[test]
    fn every_reference_in_the_openapi_file_leads_somewhere() {
        fn references<'a>(value: &'a serde_json::Value, found: &mut Vec<&'a str>) {
            match value {
                serde_json::Value::Object(map) => {
                    found.extend(map.get("$ref").and_then(|r| r.as_str()));
                    map.values().for_each(|v| references(v, found));
                }
                serde_json::Value::Array(list) => list.iter().for_each(|v| references(v, found)),
                _ => {}
            }
        }
        let file: serde_json::Value = serde_json::from_str(OPENAPI).unwrap();
        let mut found = Vec::new();
        references(&file, &mut found);
        assert!(!found.is_empty());
        for reference in found {
            let pointer = reference.strip_prefix('#').expect("local references only");
            assert!(file.pointer(pointer).is_some(), "{reference} is not in the file");
        }
    }

    #[test]
    fn schemas_name_every_field_of_the_words() {
        use call::admin::Versioned;
        let file: serde_json::Value = serde_json::from_str(OPENAPI).unwrap();
        let same = |schema: &str, value: serde_json::Value| {
            let keys =
                |v: &serde_json::Value| v.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
            assert_eq!(keys(&file["components"]["schemas"][schema]["properties"]), keys(&value), "{schema}");
        };
        same("FunctionSpec", serde_json::to_value(call::FunctionSpec::default()).unwrap());
        let status = call::admin::NodeStatus { shard: Some(0), ..call::admin::NodeStatus::default() };
        same("NodeStatus", serde_json::to_value(status).unwrap());
        same("RegionState", serde_json::to_value(call::admin::RegionState::default()).unwrap());
        same("LinkState", serde_json::to_value(call::admin::LinkState::default()).unwrap());
        same("TrafficMatrix", serde_json::to_value(call::admin::TrafficMatrix::default()).unwrap());
        same("ShardState", serde_json::to_value(call::admin::ShardState::default()).unwrap());
        same("ShardMap", serde_json::to_value(call::ShardMap::default()).unwrap());
        same("ShareTable", serde_json::to_value(call::shares::ShareTable::default()).unwrap());
        same("SharesState", serde_json::to_value(call::shares::SharesState::default()).unwrap());
        same("Hold", serde_json::to_value(call::admin::Hold::default()).unwrap());
        same("CallPage", serde_json::to_value(call::admin::CallPage::default()).unwrap());
        same("Collected", serde_json::to_value(call::admin::Collected::default()).unwrap());
        same("Ordered", serde_json::to_value(call::admin::Ordered::default()).unwrap());
        let finals = vec![call::Status::Exit];
        let retry = call::function::RetrySpec { finals, ..call::function::RetrySpec::default() };
        same("RetrySpec", serde_json::to_value(retry).unwrap());
        same("QueueSpec", serde_json::to_value(call::FunctionSpec::default().queue).unwrap());
        same("QuotaChange", serde_json::to_value(call::function::QuotaSpec::default()).unwrap());
        let conclusions = call::admin::Conclusions {
            incarnation: 0,
            opportunistic: Some(Versioned::default()),
            wanted: Some(Versioned::default()),
            cores: vec![(0, Versioned::default())],
            rates: vec![(0, Versioned::default())],
            limits: vec![(0, Versioned::default())],
            groups: vec![(0, Versioned::default())],
            warm: vec![0],
            release: vec![0],
        };
        same("Conclusions", serde_json::to_value(conclusions).unwrap());
        same("Observation", serde_json::to_value(call::admin::Observation::default()).unwrap());
        let observed = call::admin::ObservedFunction {
            gone: true,
            together: "feeds".into(),
            ..call::admin::ObservedFunction::default()
        };
        same("ObservedFunction", serde_json::to_value(observed).unwrap());
        same("LocalityState", serde_json::to_value(call::admin::LocalityState::default()).unwrap());
        same("QuotaSpec", serde_json::to_value(call::function::QuotaSpec::default()).unwrap());
        same("FlowSpec", serde_json::to_value(call::function::FlowSpec::default()).unwrap());
        same("BreakerSpec", serde_json::to_value(call::function::BreakerSpec::default()).unwrap());
        same("LocalitySpec", serde_json::to_value(call::function::LocalitySpec::default()).unwrap());
        same("ProcessSpec", serde_json::to_value(call::function::ProcessSpec::default()).unwrap());
        same("LimitSpec", serde_json::to_value(call::function::LimitSpec::default()).unwrap());
        same("NetworkSpec", serde_json::to_value(call::function::NetworkSpec::default()).unwrap());
        same("SandboxSpec", serde_json::to_value(call::function::SandboxSpec::default()).unwrap());
        same("UsageRow", serde_json::to_value(crate::accounts::UsageRow::default()).unwrap());
        same("UsageReport", serde_json::to_value(crate::accounts::UsageReport::default()).unwrap());
        same("LogPage", serde_json::to_value(crate::logs::LogPage::default()).unwrap());
        same("Usage", serde_json::to_value(call::Usage::default()).unwrap());
    }
}
