//! Whoever makes tokens, for tests: in the place of a site's own backend.
//!
//! It signs by ring and puts the parts together by hand (RFC 7515, 3.1), so that it shares nothing
//! with what checks them, and can make what no library would: `none`, foreign headers, other types.
//! The RSA key in `rsa.pk8` was made for these tests and is good for nothing else.

#![allow(dead_code, reason = "no test binary uses all of it")]

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::rand::SystemRandom;
use ring::signature::{EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RsaKeyPair};
use serde_json::{Value, json};

/// Base64 as tokens have it.
pub(crate) fn base64url(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

enum Key {
    Secret(Vec<u8>),
    Rsa(RsaKeyPair),
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
}

/// Signs tokens with one key.
pub(crate) struct Issuer {
    key: Key,
    /// The `kid` of its tokens.
    pub(crate) id: Option<&'static str>,
}

impl Issuer {
    /// HS256.
    pub(crate) fn secret(secret: &str) -> Self {
        Self::of(Key::Secret(secret.into()))
    }

    /// RS256, with the key of the tests.
    pub(crate) fn rsa() -> Self {
        let key = RsaKeyPair::from_pkcs8(include_bytes!("rsa.pk8")).unwrap();
        Self::of(Key::Rsa(key))
    }

    /// ES256, with a new key.
    pub(crate) fn ec() -> Self {
        let kind = &ring::signature::ECDSA_P256_SHA256_FIXED_SIGNING;
        let random = SystemRandom::new();
        let made = EcdsaKeyPair::generate_pkcs8(kind, &random).unwrap();
        Self::of(Key::Ec(
            EcdsaKeyPair::from_pkcs8(kind, made.as_ref(), &random).unwrap(),
        ))
    }

    /// EdDSA, with a new key.
    pub(crate) fn ed() -> Self {
        let made = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Self::of(Key::Ed(Ed25519KeyPair::from_pkcs8(made.as_ref()).unwrap()))
    }

    /// One of each algorithm.
    pub(crate) fn all() -> [Self; 4] {
        [
            Self::secret("a secret of the tests"),
            Self::rsa(),
            Self::ec(),
            Self::ed(),
        ]
    }

    fn of(key: Key) -> Self {
        Self { key, id: None }
    }

    /// Its tokens name the key so.
    pub(crate) fn named(self, id: &'static str) -> Self {
        let id = Some(id);
        Self { id, ..self }
    }

    /// Its algorithm.
    pub(crate) fn algorithm(&self) -> &'static str {
        match self.key {
            Key::Secret(_) => "HS256",
            Key::Rsa(_) => "RS256",
            Key::Ec(_) => "ES256",
            Key::Ed(_) => "EdDSA",
        }
    }

    /// A token with these claims.
    pub(crate) fn token(&self, claims: &Value) -> String {
        let mut header = json!({ "typ": "JWT", "alg": self.algorithm() });
        if let Some(id) = self.id {
            header["kid"] = id.into();
        }
        self.token_with(&header, claims)
    }

    /// A token with any header.
    pub(crate) fn token_with(&self, header: &Value, claims: &Value) -> String {
        let (header, claims) = (header.to_string(), claims.to_string());
        let message = format!("{}.{}", base64url(header), base64url(claims));
        let signature = base64url(self.sign(message.as_bytes()));
        format!("{message}.{signature}")
    }

    /// A signature.
    pub(crate) fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.key {
            Key::Secret(secret) => {
                let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret);
                ring::hmac::sign(&key, message).as_ref().to_vec()
            }
            Key::Rsa(pair) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                let kind = &ring::signature::RSA_PKCS1_SHA256;
                pair.sign(kind, &random, message, &mut signature).unwrap();
                signature
            }
            Key::Ec(pair) => pair.sign(&random, message).unwrap().as_ref().to_vec(),
            Key::Ed(pair) => pair.sign(message).as_ref().to_vec(),
        }
    }

    /// Its public key as PEM, as `openssl pkey -pubout` writes it.
    pub(crate) fn pem(&self) -> String {
        // SubjectPublicKeyInfo up to the key itself (RFC 5280, 4.1; 3279, 2.3; 8410, 4).
        const RSA: &str = "30820122300d06092a864886f70d01010105000382010f00";
        const EC: &str = "3059301306072a8648ce3d020106082a8648ce3d030107034200";
        const ED: &str = "302a300506032b6570032100";
        let (head, key) = match &self.key {
            Key::Secret(_) => panic!("a secret is not public"),
            Key::Rsa(pair) => (RSA, pair.public_key().as_ref()),
            Key::Ec(pair) => (EC, pair.public_key().as_ref()),
            Key::Ed(pair) => (ED, pair.public_key().as_ref()),
        };
        let mut der: Vec<u8> = (0..head.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&head[at..at + 2], 16).unwrap())
            .collect();
        der.extend_from_slice(key);
        let text = STANDARD.encode(der);
        let lines: Vec<_> = text
            .as_bytes()
            .chunks(64)
            .map(String::from_utf8_lossy)
            .collect();
        let lines = lines.join("\n");
        format!("-----BEGIN PUBLIC KEY-----\n{lines}\n-----END PUBLIC KEY-----\n")
    }

    /// Its key as a JWK, without `kid` if it has none.
    pub(crate) fn jwk(&self) -> Value {
        let mut jwk = match &self.key {
            Key::Secret(secret) => json!({ "kty": "oct", "k": base64url(secret) }),
            Key::Rsa(pair) => {
                let key: ring::rsa::PublicKeyComponents<Vec<u8>> = pair.public().into();
                json!({ "kty": "RSA", "n": base64url(key.n), "e": base64url(key.e) })
            }
            Key::Ec(pair) => {
                let point = pair.public_key().as_ref();
                let (x, y) = (base64url(&point[1..33]), base64url(&point[33..]));
                json!({ "kty": "EC", "crv": "P-256", "x": x, "y": y })
            }
            Key::Ed(pair) => {
                let x = base64url(pair.public_key().as_ref());
                json!({ "kty": "OKP", "crv": "Ed25519", "x": x })
            }
        };
        if let Some(id) = self.id {
            jwk["kid"] = id.into();
        }
        jwk
    }
}

/// A JWKS with the keys of these.
pub(crate) fn jwks(issuers: &[&Issuer]) -> String {
    let keys: Vec<_> = issuers.iter().map(|issuer| issuer.jwk()).collect();
    json!({ "keys": keys }).to_string()
}
