//! TLS around a connection's bytes, by rustls without I/O: what came from the socket -> plain
//! bytes, plain bytes -> what goes to the socket.

pub(super) mod server;
mod verify;

use std::io::{self, Read, Write};
use std::net::{IpAddr, TcpStream};
use std::sync::Arc;

use bytes::BytesMut;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

/// What is said of the other end when something goes wrong.
#[derive(Debug)]
pub(super) struct Peer {
    /// What it is.
    pub(super) name: &'static str,
    /// What to do if it speaks no TLS.
    pub(super) plain: &'static str,
    /// What to do if it ends the handshake.
    pub(super) alert: &'static str,
    /// Whose word counts: "an authority that …".
    pub(super) trust: &'static str,
}

/// What is checked of the certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Check {
    /// That an authority has signed it and that it names the host.
    Full,
    /// That an authority has signed it.
    Authority,
    /// Nothing: whoever listens on the way can't read, but who answers may be anybody.
    Nothing,
}

/// Who must be at the other end, and by whose word.
#[derive(Clone)]
pub(super) struct TlsTarget {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    peer: &'static Peer,
}

impl TlsTarget {
    /// A host, by the word of the authorities that this machine trusts.
    pub(super) fn new(host: &str, peer: &'static Peer) -> Result<Self, String> {
        Self::trusting(host, machine_roots()?, peer)
    }

    /// A host, by the word of `roots`.
    pub(super) fn trusting(
        host: &str,
        roots: RootCertStore,
        peer: &'static Peer,
    ) -> Result<Self, String> {
        Self::checking(host, roots, Check::Full, peer)
    }

    /// A host, by the word of `roots`, as far as `check` says.
    pub(super) fn checking(
        host: &str,
        roots: RootCertStore,
        check: Check,
        peer: &'static Peer,
    ) -> Result<Self, String> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?;
        let config = match check {
            Check::Full => builder.with_root_certificates(roots),
            Check::Authority | Check::Nothing => {
                let verifier = verifier(roots, check, provider)?;
                builder
                    .dangerous()
                    .with_custom_certificate_verifier(verifier)
            }
        };
        let config = config.with_no_client_auth();
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| format!("{host} can't be the name of a certificate"))?;
        Ok(Self {
            config: Arc::new(config),
            name,
            peer,
        })
    }

    /// The state of a new connection, which has its first bytes to send.
    pub(super) fn begin(&self) -> Result<Tls, String> {
        let mut connection = ClientConnection::new(self.config.clone(), self.name.clone())
            .map_err(|error| error.to_string())?;
        // The queues on either side of it have their own limits.
        connection.set_buffer_limit(None);
        let peer = self.peer;
        Ok(Tls { connection, peer })
    }
}

/// TLS over a blocking socket, with whoever is there: for asking oneself.
pub(super) fn with_anybody(
    socket: TcpStream,
    address: IpAddr,
) -> io::Result<StreamOwned<ClientConnection, TcpStream>> {
    const OURSELVES: Peer = Peer {
        name: "the instance",
        plain: "",
        alert: "",
        trust: "",
    };
    let roots = RootCertStore::empty();
    let target = TlsTarget::checking(&address.to_string(), roots, Check::Nothing, &OURSELVES);
    let tls = target.and_then(|target| target.begin());
    let tls = tls.map_err(io::Error::other)?;
    Ok(StreamOwned::new(tls.connection, socket))
}

/// The authorities that this machine trusts.
pub(super) fn machine_roots() -> Result<RootCertStore, String> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (taken, _) = roots.add_parsable_certificates(found.certs);
    if taken == 0 {
        let why = found.errors.first().map(ToString::to_string);
        return Err(format!(
            "this machine has no certificates to trust ({}): install ca-certificates, or name a \
             file of them in SSL_CERT_FILE",
            why.unwrap_or_else(|| "none was found".into())
        ));
    }
    Ok(roots)
}

fn verifier(
    roots: RootCertStore,
    check: Check,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn rustls::client::danger::ServerCertVerifier>, String> {
    Ok(match check {
        Check::Nothing => Arc::new(verify::Anybody::new(provider)),
        _ => Arc::new(verify::AnyName::new(roots, provider)?),
    })
}

/// The state of one connection.
pub(super) struct Tls {
    connection: ClientConnection,
    peer: &'static Peer,
}

impl Tls {
    /// Whether the peer is who it must be and bytes may be sent.
    pub(super) fn has_shaken_hands(&self) -> bool {
        !self.connection.is_handshaking()
    }

    /// The peer's certificate (DER), once hands are shaken.
    pub(super) fn certificate(&self) -> Option<&[u8]> {
        let chain = self.connection.peer_certificates()?;
        chain.first().map(AsRef::as_ref)
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
        let name = self.peer.name;
        let mut plain = BytesMut::new();
        while !bytes.is_empty() {
            let read = self.connection.read_tls(&mut bytes);
            read.map_err(|error| format!("TLS with {name}: {error}"))?;
            let state = self.connection.process_new_packets();
            let count = state
                .map_err(|error| explain(&error, self.peer))?
                .plaintext_bytes_to_read();
            let start = plain.len();
            plain.resize(start + count, 0);
            let read = self.connection.reader().read_exact(&mut plain[start..]);
            read.map_err(|error| format!("TLS with {name}: {error}"))?;
        }
        Ok(plain)
    }
}

fn explain(error: &rustls::Error, peer: &Peer) -> String {
    use rustls::Error as E;
    let Peer { name, trust, .. } = peer;
    let hint = match error {
        E::InvalidCertificate(_) => format!(
            "its certificate must name the host of the address and be signed by an authority that \
             {trust}"
        ),
        E::InvalidMessage(_) => format!("does it speak TLS on this port? {}", peer.plain),
        E::AlertReceived(_) => peer.alert.to_owned(),
        _ => "what it offers and what is taken here do not meet".to_owned(),
    };
    format!("TLS with {name}: {error}: {hint}")
}
