//! A worker's port: `GET /health` and `GET /metrics`, and nothing else.
//!
//! Each connection has one request and one answer, a few seconds, and few others beside it.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener as StdListener};
use std::rc::Rc;
use std::time::Duration;

use monoio::io::{AsyncReadRent, AsyncWriteRentExt};
use monoio::net::{TcpListener, TcpStream};

use crate::model::limits::{HEAD_BYTES_MAX, WORKER_CONNECTIONS_MAX};
use crate::net::{Response, head, response};
use crate::telemetry::worker::Status;

/// How long a request and its answer may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// A pause after a failed accept, such as for want of descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// Listens.
///
/// # Errors
/// One line that names the setting.
pub(super) fn listen(bind: IpAddr, port: u16) -> Result<(StdListener, SocketAddr), String> {
    let address = SocketAddr::new(bind, port);
    let explain = |error: io::Error| {
        let hint = match error.kind() {
            io::ErrorKind::AddrInUse => {
                "another program listens there, perhaps another worker: choose another \
                 --worker-port"
            }
            io::ErrorKind::PermissionDenied => "ports below 1024 need the right to bind them",
            io::ErrorKind::AddrNotAvailable => {
                "no interface of this machine has that --bind address"
            }
            _ => "see --bind and --worker-port",
        };
        format!("cannot listen on {address}: {error}; {hint}")
    };
    let listener = StdListener::bind(address).map_err(explain)?;
    let address = listener.local_addr().map_err(explain)?;
    Ok((listener, address))
}

/// Begins to answer, on a thread that runs monoio.
pub(super) fn serve(listener: StdListener, status: Rc<RefCell<Status>>) -> Result<(), String> {
    // epoll must never wait in accept, and io_uring would not wait at all.
    let ready = listener.set_nonblocking(monoio::utils::is_legacy());
    let listener = ready.and_then(|()| TcpListener::from_std(listener));
    let listener = listener.map_err(|error| format!("--worker-port: {error}"))?;
    monoio::spawn(accept(listener, status));
    Ok(())
}

async fn accept(listener: TcpListener, status: Rc<RefCell<Status>>) {
    let open = Rc::new(Cell::new(0));
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            monoio::time::sleep(PAUSE).await;
            continue;
        };
        if open.get() >= WORKER_CONNECTIONS_MAX {
            continue;
        }
        open.set(open.get() + 1);
        let (open, status) = (open.clone(), status.clone());
        monoio::spawn(async move {
            // Who is gone has no answer, and who is late neither: with the read that is dropped
            // here goes the connection.
            let _ = monoio::time::timeout(PATIENCE, answer(stream, &status)).await;
            open.set(open.get() - 1);
        });
    }
}

async fn answer(mut stream: TcpStream, status: &RefCell<Status>) -> io::Result<()> {
    let mut request = Vec::new();
    let mut buffer = Vec::with_capacity(HEAD_BYTES_MAX);
    let bytes = loop {
        let (result, back) = stream.read(buffer).await;
        buffer = back;
        if result? == 0 {
            return Ok(());
        }
        request.extend_from_slice(&buffer);
        match head::parse(&request) {
            Ok(Some((head, _))) => break page(head.method, head.path, &status.borrow()).last(),
            Ok(None) => {}
            Err(refusal) => break response::refuse(&refusal).last(),
        }
    };
    let (result, _) = stream.write_all(bytes).await;
    result.map(drop)
}

fn page(method: &str, path: &str, status: &Status) -> Response {
    match (method, path) {
        ("GET", "/health") => response::build(200, response::JSON, &[], status.health().as_bytes()),
        ("GET", "/metrics") => {
            let content_type = "text/plain; version=0.0.4; charset=utf-8";
            response::build(200, content_type, &[], status.metrics().as_bytes())
        }
        ("GET", _) => response::error(404, "not_found", "there is nothing here", &[]),
        _ => response::error(405, "bad_request", "only GET", &[("Allow", "GET")]),
    }
}
