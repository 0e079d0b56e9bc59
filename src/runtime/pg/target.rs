//! Where a link goes, and by whose word: a connection string with its certificates and the file of
//! passwords read.

use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::super::tls::{Check, Peer, TlsTarget, machine_roots};
use crate::pg::{Conninfo, Host, Login, PassFile, Place, SslMode, passfile};

const PEER: Peer = Peer {
    name: "PostgreSQL",
    plain: "Without it say sslmode=disable",
    alert: "does PostgreSQL ask for clients' certificates (clientcert in pg_hba.conf)?",
    trust: "is in sslrootcert, or that this machine trusts",
};

/// See the module. Cheap to clone.
#[derive(Clone)]
pub(in super::super) struct Target {
    pub(super) info: Arc<Conninfo>,
    /// For each host; none: no TLS.
    tls: Arc<Vec<Option<TlsTarget>>>,
    /// The file of passwords, if it is needed and there.
    passwords: Arc<Option<String>>,
}

impl Target {
    /// Reads files: at the start, not on a shard.
    ///
    /// # Errors
    /// One line: there are no certificates to trust, the host can't be a certificate's, or a
    /// `passfile` can't be read.
    pub(in super::super) fn new(info: Conninfo) -> Result<Self, String> {
        let check = match (info.ssl_mode, &info.ssl_root_cert) {
            (SslMode::Disable, _) => None,
            (SslMode::VerifyFull, _) => Some(Check::Full),
            (SslMode::VerifyCa, _) | (SslMode::Require, Some(_)) => Some(Check::Authority),
            _ => Some(Check::Nothing),
        };
        let is_remote = |host: &Host| matches!(host.place, Place::Tcp(_));
        let roots = match (check, &info.ssl_root_cert) {
            (None | Some(Check::Nothing), _) => RootCertStore::empty(),
            _ if !info.hosts.iter().any(is_remote) => RootCertStore::empty(),
            (_, None) => machine_roots()?,
            (_, Some(path)) => {
                let wrong = |why: String| format!("sslrootcert {}: {why}", path.display());
                let found = CertificateDer::pem_file_iter(path);
                let found = found.map_err(|error| wrong(error.to_string()))?;
                let mut roots = RootCertStore::empty();
                for certificate in found {
                    let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
                    let added = roots.add(certificate);
                    added.map_err(|error| wrong(error.to_string()))?;
                }
                if roots.is_empty() {
                    return Err(wrong("no certificate is in it".into()));
                }
                roots
            }
        };
        let mut tls = Vec::new();
        for host in &info.hosts {
            let target = match (&host.place, check) {
                (Place::Tcp(name), Some(Check::Nothing)) => {
                    let unchecked = |name: &str| {
                        TlsTarget::checking(name, roots.clone(), Check::Nothing, &PEER)
                    };
                    // The name is only told, and may be none that a certificate can bear.
                    Some(unchecked(name).or_else(|_| unchecked("localhost"))?)
                }
                (Place::Tcp(name), Some(check)) => {
                    Some(TlsTarget::checking(name, roots.clone(), check, &PEER)?)
                }
                _ => None,
            };
            tls.push(target);
        }
        let passwords = match (&info.password, &info.pass_file) {
            (None, Some(file)) => read_passwords(file)?,
            _ => None,
        };
        Ok(Self {
            info: Arc::new(info),
            tls: Arc::new(tls),
            passwords: Arc::new(passwords),
        })
    }

    /// How to log in at a host; see [`Conninfo::login`].
    pub(super) fn login(&self, host: usize, name: &str, settings: Vec<(String, String)>) -> Login {
        let mut login = self.info.login(name, settings);
        if let (None, Some(text)) = (&login.password, &*self.passwords) {
            login.password = passfile::password(text, &self.info, host);
        }
        login
    }

    /// How TLS is spoken with a host, if it may be.
    pub(super) fn tls(&self, host: usize) -> Option<&TlsTarget> {
        self.tls.get(host)?.as_ref()
    }
}

/// The text of a file of passwords. One that others may read is not trusted, as with libpq.
fn read_passwords(file: &PassFile) -> Result<Option<String>, String> {
    let path = file.path.display();
    let found = std::fs::metadata(&file.path).and_then(|meta| {
        let text = std::fs::read_to_string(&file.path)?;
        Ok((meta.permissions().mode(), text))
    });
    match found {
        Ok((mode, text)) if mode & 0o077 == 0 => Ok(Some(text)),
        Ok(_) => {
            let why = format!("passfile {path}: others may read it: chmod 600 it");
            if file.is_named {
                return Err(why);
            }
            tracing::warn!("{why}; it is passed over");
            Ok(None)
        }
        Err(error) if file.is_named => Err(format!("passfile {path}: {error}")),
        Err(_) => Ok(None),
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.info.fmt(f)
    }
}
