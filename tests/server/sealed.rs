//! A server that speaks TLS, the authority that signed for it, and clients that trust that one.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{CertificateParams, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::{Value, json};
use tungstenite::{Message, WebSocket};

use crate::support::{Server, connect};

/// An authority, and what it signed.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    der: CertificateDer<'static>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, "the tests' authority");
        let certificate = params.self_signed(&key).unwrap();
        Self {
            pem: certificate.pem(),
            der: certificate.der().clone(),
            issuer: Issuer::new(params, key),
        }
    }

    /// A certificate for `localhost` and 127.0.0.1, and its key, as PEM.
    pub(crate) fn sign(&self) -> (String, String, CertificateDer<'static>) {
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(names).unwrap();
        let certificate = certificate.signed_by(&key, &self.issuer).unwrap();
        let der = certificate.der().clone();
        (certificate.pem(), key.serialize_pem(), der)
    }
}

/// A server that speaks TLS.
pub(crate) struct Sealed {
    pub(crate) server: Server,
    pub(crate) authority: Authority,
    files: tempfile::TempDir,
    /// What it shows at first.
    pub(crate) certificate: CertificateDer<'static>,
}

impl Sealed {
    pub(crate) fn start(flags: &[&str]) -> Self {
        let authority = Authority::new();
        let files = tempfile::tempdir().unwrap();
        let (certificate, key, der) = authority.sign();
        let path = |name: &str| files.path().join(name).to_str().unwrap().to_owned();
        std::fs::write(path("cert.pem"), certificate).unwrap();
        std::fs::write(path("key.pem"), key).unwrap();
        std::fs::write(path("ca.pem"), &authority.pem).unwrap();
        let (cert, key) = (path("cert.pem"), path("key.pem"));
        let tls = ["--tls-cert", &cert, "--tls-key", &key];
        let server = Server::start(&[flags, &tls].concat());
        Self {
            server,
            authority,
            files,
            certificate: der,
        }
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    pub(crate) fn config(&self) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.der.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider);
        let builder = builder
            .with_protocol_versions(rustls::ALL_VERSIONS)
            .unwrap();
        builder.with_root_certificates(roots).with_no_client_auth()
    }

    /// The client's side of a session.
    pub(crate) fn session(&self) -> ClientConnection {
        let name = ServerName::try_from("localhost").unwrap();
        ClientConnection::new(Arc::new(self.config()), name).unwrap()
    }

    /// A TLS connection over a socket.
    pub(crate) fn over(&self, socket: TcpStream) -> Stream {
        StreamOwned::new(self.session(), socket)
    }

    pub(crate) fn get(&self, path: &str) -> String {
        let mut stream = self.over(connect(self.server.port));
        let head = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    pub(crate) fn metric(&self, name: &str) -> u64 {
        let page = self.get("/metrics");
        let line = page
            .lines()
            .find(|line| line.starts_with(&format!("ringcast_{name} ")));
        let value = line.unwrap_or_else(|| panic!("no {name} in {page}"));
        value.rsplit_once(' ').unwrap().1.parse().unwrap()
    }
}

pub(crate) type Stream = StreamOwned<ClientConnection, TcpStream>;

/// A WebSocket over TLS.
pub(crate) struct Wss(WebSocket<Stream>);

impl Wss {
    pub(crate) fn open(sealed: &Sealed) -> Self {
        Self::over(sealed, connect(sealed.server.port))
    }

    pub(crate) fn over(sealed: &Sealed, socket: TcpStream) -> Self {
        let stream = sealed.over(socket);
        let (ws, _) = tungstenite::client("wss://localhost/ws", stream).unwrap();
        let mut wss = Self(ws);
        assert_eq!(wss.recv()["type"], "welcome");
        wss
    }

    pub(crate) fn send(&mut self, frame: &Value) {
        self.0.send(Message::text(frame.to_string())).unwrap();
    }

    /// The next frame, or the code of the close.
    pub(crate) fn try_recv(&mut self) -> Result<Value, u16> {
        loop {
            match self.0.read() {
                Ok(Message::Text(text)) => return Ok(serde_json::from_str(&text).unwrap()),
                Ok(Message::Close(frame)) => {
                    return Err(frame.map_or(1005, |frame| frame.code.into()));
                }
                Ok(_) => {}
                Err(tungstenite::Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => {
                    panic!("nothing came")
                }
                Err(_) => return Err(1006),
            }
        }
    }

    pub(crate) fn recv(&mut self) -> Value {
        self.try_recv()
            .unwrap_or_else(|code| panic!("closed: {code}"))
    }

    pub(crate) fn next(&mut self, kind: &str) -> Value {
        loop {
            let frame = self.recv();
            if frame["type"] == kind {
                return frame;
            }
        }
    }

    pub(crate) fn join(&mut self, room: &str) -> Value {
        self.send(&json!({"type":"join","room":room}));
        self.next("joined")
    }
}
