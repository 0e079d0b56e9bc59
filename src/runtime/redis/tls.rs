//! TLS around a link's bytes, by rustls without I/O: what came from the socket -> plain bytes,
//! plain bytes -> what goes to the socket.

use std::io::{Read, Write};
use std::sync::Arc;

use bytes::BytesMut;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};

/// Who must be at the other end, and by whose word.
#[derive(Clone)]
pub(super) struct TlsTarget {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl TlsTarget {
    /// A host, by the word of the authorities that this machine trusts.
    pub(super) fn new(host: &str) -> Result<Self, String> {
        let found = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        let (taken, _) = roots.add_parsable_certificates(found.certs);
        if taken == 0 {
            let why = found.errors.first().map(ToString::to_string);
            return Err(format!(
                "this machine has no certificates to trust ({}): install ca-certificates, or name \
                 a file of them in SSL_CERT_FILE",
                why.unwrap_or_else(|| "none was found".into())
            ));
        }
        Self::trusting(host, roots)
    }

    /// A host, by the word of `roots`.
    pub(super) fn trusting(host: &str, roots: RootCertStore) -> Result<Self, String> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| format!("{host} can't be the name of a certificate"))?;
        Ok(Self {
            config: Arc::new(config),
            name,
        })
    }

    /// The state of a new connection, which has its first bytes to send.
    pub(super) fn begin(&self) -> Result<Tls, String> {
        let mut connection = ClientConnection::new(self.config.clone(), self.name.clone())
            .map_err(|error| error.to_string())?;
        // The queues on either side of it have their own limits.
        connection.set_buffer_limit(None);
        Ok(Tls { connection })
    }
}

/// The state of one connection.
pub(super) struct Tls {
    connection: ClientConnection,
}

impl Tls {
    /// Whether the peer is who it must be and bytes may be sent.
    pub(super) fn has_shaken_hands(&self) -> bool {
        !self.connection.is_handshaking()
    }

    /// Appends to `out` what is to be sent for `plain` and by itself.
    pub(super) fn seal(&mut self, plain: &[u8], out: &mut Vec<u8>) {
        // Into memory without a limit: neither can fail.
        let taken = self.connection.writer().write_all(plain);
        debug_assert!(taken.is_ok());
        while self.connection.wants_write() {
            if self.connection.write_tls(out).is_err() {
                break;
            }
        }
    }

    /// The plain bytes in `bytes`. Something may have to be sent behind it.
    pub(super) fn open(&mut self, mut bytes: &[u8]) -> Result<BytesMut, String> {
        let mut plain = BytesMut::new();
        while !bytes.is_empty() {
            let read = self.connection.read_tls(&mut bytes);
            read.map_err(|error| format!("TLS with Redis: {error}"))?;
            let state = self.connection.process_new_packets();
            let count = state
                .map_err(|error| explain(&error))?
                .plaintext_bytes_to_read();
            let start = plain.len();
            plain.resize(start + count, 0);
            let read = self.connection.reader().read_exact(&mut plain[start..]);
            read.map_err(|error| format!("TLS with Redis: {error}"))?;
        }
        Ok(plain)
    }
}

fn explain(error: &rustls::Error) -> String {
    use rustls::Error as E;
    let hint = match error {
        E::InvalidCertificate(_) => {
            "its certificate must name the host of the address and be signed by an authority that \
             this machine trusts (SSL_CERT_FILE)"
        }
        E::InvalidMessage(_) => {
            "does it speak TLS on this port? Without it the address is redis://"
        }
        E::AlertReceived(_) => "does Redis ask for clients' certificates (tls-auth-clients no)?",
        _ => "what it offers and what is taken here do not meet",
    };
    format!("TLS with Redis: {error}: {hint}")
}
