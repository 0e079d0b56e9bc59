//! TLS for those who connect to us, by rustls without I/O and without buffers of its own.
//!
//! ```text
//! bytes of the socket ─▶ Session::open ─▶ plain bytes, and what is to be sent by itself
//! plain bytes         ─▶ Session::seal ─▶ bytes for the socket
//! ```
//!
//! TLS 1.2 and 1.3, ALPN `http/1.1`; a resumption needs no state here (tickets, by a key of this
//! process). Not here: the socket, and what waits for it ([`crate::runtime::sockets`]). Nothing is
//! asked of clients: who they are is said by tokens.
//!
//! Invariants: between two calls a session holds what has come of an unfinished record, and nothing
//! else ([`UNFINISHED_BYTES_MAX`] at most); the certificate is that of the time of the accept.

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};
use rustls::{Error, InconsistentKeys, ServerConfig};

use crate::config::TlsFiles;

/// Bytes of an unfinished record, or of a handshake's message in pieces.
pub(in crate::runtime) const UNFINISHED_BYTES_MAX: usize = 32 * 1024;
/// What the records around so many plain bytes take, and more.
const RECORD_BYTES_MAX: usize = 16 * 1024;
const RECORD_OVERHEAD: usize = 64;

/// What certificate is shown, from now on until the files are read again.
pub(in crate::runtime) struct Acceptor {
    files: TlsFiles,
    current: RwLock<Arc<ServerConfig>>,
}

impl Acceptor {
    /// Reads the files.
    ///
    /// # Errors
    /// One line that names the setting, the file and what mends it.
    pub(in crate::runtime) fn new(files: TlsFiles) -> Result<Self, String> {
        let current = RwLock::new(load(&files)?);
        Ok(Self { files, current })
    }

    /// Reads the files again; who is connected stays with what was.
    ///
    /// # Errors
    /// See [`Acceptor::new`]; then all stays as it was.
    pub(in crate::runtime) fn reload(&self) -> Result<(), String> {
        let loaded = load(&self.files)?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = loaded;
        Ok(())
    }

    /// A session for a connection that was accepted.
    ///
    /// # Errors
    /// rustls has no randomness, or the like.
    pub(in crate::runtime) fn accept(&self) -> Result<Session, Error> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        Ok(Session {
            tls: UnbufferedServerConnection::new(current.clone())?,
            unfinished: Vec::new(),
        })
    }
}

fn load(files: &TlsFiles) -> Result<Arc<ServerConfig>, String> {
    let (certificate, key) = (certificates(&files.certificate)?, key(&files.key)?);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_no_client_auth();
    let of = || format!("--tls-key {}", files.key.display());
    let mut config = builder
        .with_single_cert(certificate, key)
        .map_err(|error| match error {
            Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                let certificate = files.certificate.display();
                format!(
                    "{}: it is not the key of the (first) certificate in --tls-cert {certificate}",
                    of()
                )
            }
            Error::General(why) => format!("{}: {why}; an RSA or ECDSA key is taken", of()),
            error => {
                let certificate = files.certificate.display();
                format!("--tls-cert {certificate}: {error}")
            }
        })?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer =
        rustls::crypto::ring::Ticketer::new().map_err(|error| format!("TLS: {error}"))?;
    config.send_tls13_tickets = 1;
    Ok(Arc::new(config))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let bad = |why: &str| format!("--tls-cert {}: {why}", path.display());
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match read {
        Ok(certificates) if certificates.is_empty() => Err(bad(
            "it holds no certificate; PEM is wanted, the server's own first, then its issuers'",
        )),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(bad(&error.to_string())),
    }
}

fn key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    use rustls::pki_types::pem::Error as PemError;
    PrivateKeyDer::from_pem_file(path).map_err(|error| {
        let why = match error {
            PemError::NoItemsFound => "it holds no private key; PEM is wanted, without a password \
                                       (PKCS#8, PKCS#1 or SEC1)"
                .to_owned(),
            error => error.to_string(),
        };
        format!("--tls-key {}: {why}", path.display())
    })
}

/// One connection's side of TLS.
pub(in crate::runtime) struct Session {
    tls: UnbufferedServerConnection,
    unfinished: Vec<u8>,
}

/// What has come of bytes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::runtime) struct Opened {
    /// Plain bytes.
    pub(in crate::runtime) plain: usize,
    /// The peer sends nothing more.
    pub(in crate::runtime) is_last: bool,
    /// What went wrong; what was sealed on its account is to be sent, and then nothing more.
    pub(in crate::runtime) error: Option<String>,
}

impl Session {
    /// What came before of an unfinished record: to stand before what comes next.
    pub(in crate::runtime) fn take_unfinished(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.unfinished)
    }

    /// Nothing has come behind it.
    pub(in crate::runtime) fn put_back(&mut self, unfinished: Vec<u8>) {
        self.unfinished = unfinished;
    }

    /// Whether bytes can be sealed: hands are shaken.
    pub(in crate::runtime) fn is_open(&self) -> bool {
        !self.tls.is_handshaking()
    }

    /// Opens `sealed`, which begins with what [`Session::take_unfinished`] gave. The plain bytes
    /// are written to the front of `plain`, which is no shorter; what is to be sent is appended
    /// to `out`.
    pub(in crate::runtime) fn open(
        &mut self,
        mut sealed: &mut [u8],
        plain: &mut [u8],
        out: &mut Vec<u8>,
    ) -> Opened {
        let mut opened = Opened::default();
        loop {
            let UnbufferedStatus { discard, state } = self.tls.process_tls_records(sealed);
            let mut is_done = false;
            match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(Ok(record)) = traffic.next_record() {
                        let end = opened.plain + record.payload.len();
                        plain[opened.plain..end].copy_from_slice(record.payload);
                        opened.plain = end;
                    }
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    append(out, |space| data.encode(space));
                }
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::BlockedHandshake | ConnectionState::WriteTraffic(_)) => {
                    is_done = true;
                }
                Ok(ConnectionState::PeerClosed) => opened.is_last = true,
                // Closed; early data is not taken.
                Ok(_) => (opened.is_last, is_done) = (true, true),
                Err(error) => {
                    // What it came of must not be looked at again; the alert about it comes next.
                    is_done = opened.error.replace(error.to_string()).is_some();
                    sealed = &mut [];
                }
            }
            // After an error there is nothing to discard.
            let discard = discard.min(sealed.len());
            sealed = &mut std::mem::take(&mut sealed)[discard..];
            if is_done {
                break;
            }
        }
        if sealed.len() > UNFINISHED_BYTES_MAX {
            opened.error = Some("a handshake's message is too long".into());
        } else if opened.error.is_none() && !sealed.is_empty() {
            self.unfinished = sealed.to_vec();
        }
        opened
    }

    /// Appends to `out` what is to be sent for `plain`; `false`: nothing can be sent any more.
    pub(in crate::runtime) fn seal(&mut self, plain: &[u8], out: &mut Vec<u8>) -> bool {
        self.write(out, |traffic, space| traffic.encrypt(plain, space), plain)
    }

    /// Appends to `out` that nothing more is sent.
    pub(in crate::runtime) fn seal_end(&mut self, out: &mut Vec<u8>) -> bool {
        self.write(out, |traffic, space| traffic.queue_close_notify(space), &[])
    }

    fn write(
        &mut self,
        out: &mut Vec<u8>,
        mut write: impl FnMut(&mut Traffic<'_>, &mut [u8]) -> Result<usize, EncryptError>,
        plain: &[u8],
    ) -> bool {
        loop {
            // What is unfinished stays so: nothing has come.
            let status = self.tls.process_tls_records(&mut self.unfinished);
            match status.state {
                Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                    let records = plain.len() / RECORD_BYTES_MAX + 2;
                    let start = out.len();
                    out.resize(start + plain.len() + records * RECORD_OVERHEAD, 0);
                    let written = write(&mut traffic, &mut out[start..]);
                    out.truncate(start + written.as_ref().unwrap_or(&0));
                    return written.is_ok();
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    append(out, |space| data.encode(space));
                }
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::PeerClosed) => {}
                _ => return false,
            }
        }
    }
}

type Traffic<'a> = rustls::unbuffered::WriteTraffic<'a, rustls::server::ServerConnectionData>;

/// Makes room for what `encode` has, and appends it.
fn append(out: &mut Vec<u8>, mut encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>) {
    let start = out.len();
    let mut room = 512;
    loop {
        out.resize(start + room, 0);
        match encode(&mut out[start..]) {
            Ok(written) => return out.truncate(start + written),
            Err(EncodeError::InsufficientSize(error)) if error.required_size > room => {
                room = error.required_size;
            }
            Err(_) => return out.truncate(start),
        }
    }
}
