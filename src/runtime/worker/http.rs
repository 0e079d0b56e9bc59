//! A small port beside all else: `GET /health` and `GET /metrics` of a worker, `GET /metrics` of a
//! server where `--metrics-bind` says so, and nothing else.
//!
//! Each connection has one request and one answer, a few seconds, and few others beside it.

use std::cell::Cell;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::rc::Rc;
use std::time::Duration;

use monoio::io::{AsyncReadRent, AsyncWriteRentExt};
use monoio::net::{TcpListener, TcpStream};

use crate::model::limits::{HEAD_BYTES_MAX, WORKER_CONNECTIONS_MAX};
use crate::net::{Response, head, response};

/// How long a request and its answer may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// A pause after a failed accept, such as for want of descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// Listens, as `setting` says.
///
/// # Errors
/// One line that names the setting.
pub(in crate::runtime) fn listen(
    address: SocketAddr,
    setting: &str,
) -> Result<(StdListener, SocketAddr), String> {
    let explain = |error: io::Error| {
        let hint = match error.kind() {
            io::ErrorKind::AddrInUse => {
                format!(
                    "another program listens there, perhaps one of ours: choose another {setting}"
                )
            }
            io::ErrorKind::PermissionDenied => {
                "ports below 1024 need the right to bind them".to_owned()
            }
            io::ErrorKind::AddrNotAvailable => "no interface of this machine has it".to_owned(),
            _ => format!("see {setting}"),
        };
        format!("cannot listen on {address} ({setting}): {error}; {hint}")
    };
    let listener = StdListener::bind(address).map_err(explain)?;
    let address = listener.local_addr().map_err(explain)?;
    Ok((listener, address))
}

/// What is answered to a GET of a path; `None`: nothing is there.
pub(in crate::runtime) trait Answers:
    Fn(&str) -> Option<Response> + 'static
{
}
impl<F: Fn(&str) -> Option<Response> + 'static> Answers for F {}

/// Begins to answer, on a thread that runs monoio.
pub(in crate::runtime) fn serve(listener: StdListener, answers: impl Answers) -> io::Result<()> {
    // epoll must never wait in accept, and io_uring would not wait at all.
    listener.set_nonblocking(monoio::utils::is_legacy())?;
    let listener = TcpListener::from_std(listener)?;
    monoio::spawn(accept(listener, Rc::new(answers)));
    Ok(())
}

async fn accept(listener: TcpListener, answers: Rc<impl Answers>) {
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
        let (open, answers) = (open.clone(), answers.clone());
        monoio::spawn(async move {
            // Who is gone has no answer, and who is late neither: with the read that is dropped
            // here goes the connection.
            let _ = monoio::time::timeout(PATIENCE, answer(stream, &*answers)).await;
            open.set(open.get() - 1);
        });
    }
}

async fn answer(mut stream: TcpStream, answers: &impl Answers) -> io::Result<()> {
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
            Ok(Some((head, _))) => break page(head.method, head.path, answers).last(),
            Ok(None) => {}
            Err(refusal) => break response::refuse(&refusal).last(),
        }
    };
    let (result, _) = stream.write_all(bytes).await;
    result.map(drop)
}

fn page(method: &str, path: &str, answers: &impl Answers) -> Response {
    match method {
        "GET" => answers(path)
            .unwrap_or_else(|| response::error(404, "not_found", "there is nothing here", &[])),
        _ => response::error(405, "bad_request", "only GET", &[("Allow", "GET")]),
    }
}
