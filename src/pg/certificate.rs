//! What binds a login to a TLS connection: `tls-server-end-point` (RFC 5929, 4.1).
//!
//! It is the hash of the server's certificate by the hash function of its own signature; MD5 and
//! SHA-1 are replaced by SHA-256. Only the way to the signature's algorithm is read of it:
//!
//! ```text
//! Certificate ::= SEQUENCE { tbsCertificate SEQUENCE {…},
//!                            signatureAlgorithm SEQUENCE { OID, … }, signature BIT STRING }
//! ```

use sha2::{Digest, Sha256, Sha384, Sha512};

/// The binding of a certificate (DER); `None` if its signature has no hash function of its own
/// (Ed25519, RSASSA-PSS) or it can't be read: then the login is not bound.
pub fn end_point_of(certificate: &[u8]) -> Option<Vec<u8>> {
    let (certificate_body, _) = element(certificate, 0x30)?;
    let (_, rest) = element(certificate_body, 0x30)?;
    let (algorithm, _) = element(rest, 0x30)?;
    let (oid, _) = element(algorithm, 0x06)?;
    // 1.2.840.113549.1.1.n (PKCS #1), 1.2.840.10045.4.n (X9.62, ECDSA).
    Some(match oid {
        // With MD5, SHA-1, SHA-256; ECDSA with SHA-1, SHA-256.
        b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x04"
        | b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x05"
        | b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0b"
        | b"\x2a\x86\x48\xce\x3d\x04\x01"
        | b"\x2a\x86\x48\xce\x3d\x04\x03\x02" => Sha256::digest(certificate).to_vec(),
        b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0c" | b"\x2a\x86\x48\xce\x3d\x04\x03\x03" => {
            Sha384::digest(certificate).to_vec()
        }
        b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0d" | b"\x2a\x86\x48\xce\x3d\x04\x03\x04" => {
            Sha512::digest(certificate).to_vec()
        }
        _ => return None,
    })
}

/// The contents of a DER element with that tag, and what follows it.
fn element(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let [found, len, rest @ ..] = bytes else {
        return None;
    };
    let (len, rest) = match len {
        0..=0x7f => (usize::from(*len), rest),
        0x81..=0x84 => {
            let (digits, rest) = rest.split_at_checked(usize::from(len & 0x7f))?;
            let len = digits
                .iter()
                .fold(0, |len, digit| len << 8 | usize::from(*digit));
            (len, rest)
        }
        _ => return None,
    };
    (*found == tag)
        .then(|| rest.split_at_checked(len))
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_hashed_by_their_signatures_function() {
        for (algorithm, len) in [
            (&rcgen::PKCS_ECDSA_P256_SHA256, Some(32)),
            (&rcgen::PKCS_ECDSA_P384_SHA384, Some(48)),
            (&rcgen::PKCS_ED25519, None),
        ] {
            let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
            let params = rcgen::CertificateParams::new(vec!["localhost".into()]).unwrap();
            let certificate = params.self_signed(&key).unwrap();
            let der = certificate.der();
            let found = end_point_of(der);
            assert_eq!(found.as_ref().map(Vec::len), len);
            if len == Some(32) {
                assert_eq!(found, Some(Sha256::digest(der).to_vec()));
            }
            for cut in 0..der.len().min(200) {
                assert_eq!(end_point_of(&der[..cut]), None);
            }
        }
        assert_eq!(end_point_of(b""), None);
        assert_eq!(end_point_of(b"\x30\x84\xff\xff\xff\xff"), None);
    }
}
