//! The admin plane: metrics and health on loopback, on a thread of its own that is not pinned.
//!
//! ```text
//! scraper --GET /metrics--> admin --reads--> Metrics (atomics the tiles write)
//! ```
//!
//! The control plane may use ordinary async libraries (design.md 2). It only reads; nothing here
//! can change what the node does. Plain HTTP is allowed on loopback alone (design.md 4.9).

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Router, routing::get};
use tokio::sync::oneshot;

use crate::health::Health;
use crate::metrics::Metrics;

/// Content type of OpenMetrics 1.0.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The running admin plane; dropping it stops it.
#[derive(Debug)]
pub struct Admin {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

#[derive(Clone)]
struct Shared {
    metrics: Arc<Metrics>,
    health: Arc<Health>,
}

impl Admin {
    /// Listens on `address` and answers until dropped.
    ///
    /// # Errors
    /// When the address is taken or not to be had, or no thread can be made.
    pub fn start(
        address: SocketAddr,
        metrics: Arc<Metrics>,
        health: Arc<Health>,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let shared = Shared { metrics, health };
        let thread = std::thread::Builder::new().name("admin".to_owned()).spawn(move || {
            runtime.block_on(serve(listener, shared, stopped));
        })?;
        Ok(Self { address, stop: Some(stop), thread: Some(thread) })
    }

    /// The address it listens on, with the port the kernel chose if it was 0.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic of the admin thread has already ended the process.
            drop(thread.join());
        }
    }
}

async fn serve(listener: TcpListener, shared: Shared, stopped: oneshot::Receiver<()>) {
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .with_state(shared);
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    let served = axum::serve(listener, router).with_graceful_shutdown(async move {
        drop(stopped.await);
    });
    // The only error is the listener's, and without a listener there is nobody to tell.
    drop(served.await);
}

async fn metrics(State(shared): State<Shared>) -> Response {
    ([(header::CONTENT_TYPE, OPENMETRICS)], shared.metrics.render()).into_response()
}

async fn livez(State(shared): State<Shared>) -> Response {
    answer(shared.health.is_live(), shared.health.checks(), true)
}

#[derive(serde::Deserialize)]
struct Verbosity {
    verbose: Option<String>,
}

async fn readyz(State(shared): State<Shared>, Query(query): Query<Verbosity>) -> Response {
    answer(shared.health.is_ready(), shared.health.checks(), query.verbose.is_some())
}

fn answer(is_fine: bool, checks: String, is_verbose: bool) -> Response {
    let status = if is_fine { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let word = if is_fine { "ok\n" } else { "not ok\n" };
    (status, if is_verbose { checks + word } else { word.to_owned() }).into_response()
}
