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
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Router, routing::get};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep};

use crate::explain::Explanation;
use crate::health::Health;
use crate::metrics::Metrics;

/// Content type of OpenMetrics 1.0.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A connection on which no answer got further for so long is closed: whoever sends half a request,
/// or does not read, must not be kept for ever.
const CONNECTION_PATIENCE: Duration = Duration::from_secs(30);

/// How long answers under way may take when the node stops.
const STOP_PATIENCE: Duration = Duration::from_secs(1);

/// The running admin plane; dropping it stops it, whatever its clients do.
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
    explanation: Arc<Explanation>,
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
        explanation: Arc<Explanation>,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let shared = Shared { metrics, health, explanation };
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
        .route("/consensus", get(consensus))
        .with_state(shared);
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    let (stop, stopping) = oneshot::channel::<()>();
    let served = axum::serve(Listener(listener), router).with_graceful_shutdown(async move {
        drop(stopping.await);
    });
    let limit = async move {
        drop(stopped.await);
        drop(stop);
        tokio::time::sleep(STOP_PATIENCE).await;
    };
    // The only error is the listener's, and without a listener there is nobody to tell. What is not
    // answered by the limit ends with the runtime.
    tokio::select! {
        served = served.into_future() => drop(served),
        () = limit => {}
    }
}

/// Accepts connections that end when nothing is answered on them any more.
struct Listener(tokio::net::TcpListener);

impl axum::serve::Listener for Listener {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        let (stream, address) = axum::serve::Listener::accept(&mut self.0).await;
        (
            Connection { stream, patience: Box::pin(tokio::time::sleep(CONNECTION_PATIENCE)) },
            address,
        )
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

/// A client's connection; its patience begins anew with every byte that it takes.
struct Connection {
    stream: TcpStream,
    patience: Pin<Box<Sleep>>,
}

impl Connection {
    /// `polled`, or an error where it waits and the patience is over.
    fn patiently<T>(
        &mut self,
        context: &mut Context<'_>,
        polled: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if polled.is_pending() && self.patience.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        polled
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.patiently(context, polled)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        if matches!(polled, Poll::Ready(Ok(_))) {
            self.patience.as_mut().reset(Instant::now() + CONNECTION_PATIENCE);
        }
        self.patiently(context, polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

async fn metrics(State(shared): State<Shared>) -> Response {
    ([(header::CONTENT_TYPE, OPENMETRICS)], shared.metrics.render()).into_response()
}

async fn livez(State(shared): State<Shared>) -> Response {
    answer(shared.health.is_live(), shared.health.checks(), true)
}

async fn consensus(State(shared): State<Shared>) -> Response {
    let json = [(header::CONTENT_TYPE, "application/json")];
    (json, shared.explanation.to_json().to_string()).into_response()
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

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    fn admin() -> Admin {
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        Admin::start(address, Arc::default(), Arc::default(), Arc::default()).unwrap()
    }

    #[test]
    fn a_client_that_says_half_a_request_does_not_keep_the_node() {
        let admin = admin();
        let mut half = std::net::TcpStream::connect(admin.address()).unwrap();
        half.write_all(b"GET /metrics HTTP/1.1\r\nHos").unwrap();
        // A whole request after it, so that the half one has been accepted too.
        let mut whole = std::net::TcpStream::connect(admin.address()).unwrap();
        whole.write_all(b"GET /livez HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        whole.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 "), "{answer}");
        drop(admin);
        assert!(matches!(half.read(&mut [0; 64]), Ok(0) | Err(_)), "it is let go");
    }
}
