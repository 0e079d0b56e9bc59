//! Tokens of every algorithm, good ones and all kinds of bad ones; who may do what.

use serde_json::{Value, json};

use super::tokens::{Issuer, base64url, jwks};
use super::*;
use crate::model::limits::{TOKEN_BYTES_MAX, TOKEN_LEEWAY_MS};

const NOW: Timestamp = Timestamp(1_800_000_000_000);

fn claims() -> Value {
    json!({ "sub": "ann", "name": "Ann", "exp": NOW.0 / 1000 + 60 })
}

fn with(more: Value) -> Value {
    let mut claims = claims();
    for (claim, value) in more.as_object().unwrap() {
        claims[claim] = value.clone();
    }
    claims
}

fn keys_of(issuer: &Issuer) -> Keys {
    Keys::from_file(jwks(&[issuer]).as_bytes()).unwrap()
}

/// FAULTS H1: a token of each algorithm, by PEM and by JWKS, is taken; by any other key it is not.
#[test]
fn tokens_of_all_algorithms_and_of_no_other_key() {
    let issuers = Issuer::all();
    for issuer in &issuers {
        let token = issuer.token(&claims());
        let mut files = vec![jwks(&[issuer])];
        if issuer.algorithm() != "HS256" {
            files.push(issuer.pem());
        }
        for file in files {
            let keys = Keys::from_file(file.as_bytes()).unwrap();
            let got = keys.check(&token, NOW).unwrap();
            assert_eq!(
                (got.user_id.as_str(), got.username.as_deref()),
                ("ann", Some("Ann"))
            );
            assert_eq!(got.expires.0, NOW.0 + 60_000);
            assert!(got.join.is_every() && got.publish.is_every());
        }
        for other in &issuers {
            if other.algorithm() != issuer.algorithm() {
                let error = keys_of(other).check(&token, NOW);
                assert_eq!(error, Err(TokenError::Foreign), "{}", issuer.algorithm());
            }
        }
    }
    for (mine, other) in [
        (Issuer::secret("one"), Issuer::secret("another")),
        (Issuer::ec(), Issuer::ec()),
        (Issuer::ed(), Issuer::ed()),
    ] {
        let token = other.token(&claims());
        assert_eq!(keys_of(&mine).check(&token, NOW), Err(TokenError::Foreign));
    }
}

/// FAULTS H1: `none`, a public key taken for a secret, other algorithms, cut and glued parts.
#[test]
fn forged_tokens() {
    let rsa = Issuer::rsa();
    let keys = keys_of(&rsa)
        .and(keys_of(&Issuer::ec()))
        .and(Keys::from_secret("secret"));
    let good = rsa.token(&claims());
    let (message, signature) = good.rsplit_once('.').unwrap();
    let (header, body) = message.split_once('.').unwrap();
    let none = |alg: &str| {
        let header = base64url(json!({ "alg": alg, "typ": "JWT" }).to_string());
        [
            format!("{header}.{body}."),
            format!("{header}.{body}.{signature}"),
        ]
    };
    let mut forged = Vec::new();
    for alg in [
        "none", "None", "NONE", "nOnE", "", "HS256", "ES256", "EdDSA", "RS384", "PS256",
    ] {
        forged.extend(none(alg));
    }
    // The public key, as whoever has read the file would use it as a secret.
    let pem = rsa.pem();
    for secret in [pem.as_str(), pem.trim_end(), "", &jwks(&[&rsa])] {
        forged.push(Issuer::secret(secret).token(&claims()));
    }
    let hs = |header: Value| Issuer::secret("secret").token_with(&header, &claims());
    forged.extend([
        hs(json!({ "alg": "HS256", "crit": ["exp"] })),
        hs(json!({ "alg": "HS256", "crit": [], "b64": false })),
        hs(json!({ "alg": "HS512" })),
        hs(json!({ "alg": "RS256" })),
        hs(json!({ "typ": "JWT" })),
        hs(json!({ "alg": ["HS256"] })),
        hs(json!(null)),
        String::new(),
        ".".into(),
        "..".into(),
        "...".into(),
        message.to_owned(),
        format!("{message}."),
        format!("{good}.{signature}"),
        format!("{good}="),
        format!(" {good}"),
        format!("{good}\0"),
        format!("{header}..{signature}"),
        format!(
            "{header}.{}.{signature}",
            base64url(with(json!({ "sub": "bob" })).to_string())
        ),
        format!("{header}.{body}.{}", &signature[1..]),
    ]);
    for token in forged {
        let got = keys.check(&token, NOW);
        assert!(got.is_err(), "{token} {got:?}");
    }
    assert!(keys.check(&good, NOW).is_ok());
    assert!(keys.check(&hs(json!({ "alg": "HS256" })), NOW).is_ok());
}

/// FAULTS H1: expired, not yet valid, without an end, of nobody, too long, of wrong types.
#[test]
fn claims_are_checked() {
    let issuer = Issuer::secret("secret");
    let keys = Keys::from_secret("secret");
    let seconds = NOW.0 / 1000;
    let leeway = TOKEN_LEEWAY_MS / 1000;
    let long = "x".repeat(129);
    for (claims, want) in [
        (with(json!({ "exp": seconds + 1 })), Ok(())),
        (with(json!({ "exp": seconds as f64 + 0.5 })), Ok(())),
        (with(json!({ "exp": 1e300 })), Ok(())),
        (with(json!({ "exp": u64::MAX })), Ok(())),
        (with(json!({ "exp": seconds })), Err(TokenError::Expired)),
        (with(json!({ "exp": 0 })), Err(TokenError::Expired)),
        (with(json!({ "exp": -1 })), Err(TokenError::Expired)),
        (
            with(json!({ "exp": "soon" })),
            Err(TokenError::BadClaim("exp")),
        ),
        (
            with(json!({ "exp": (seconds + 60).to_string() })),
            Err(TokenError::BadClaim("exp")),
        ),
        (
            with(json!({ "exp": null })),
            Err(TokenError::BadClaim("exp")),
        ),
        (json!({ "sub": "ann" }), Err(TokenError::NoExpiry)),
        (with(json!({ "nbf": seconds })), Ok(())),
        (with(json!({ "nbf": seconds + leeway })), Ok(())),
        (
            with(json!({ "nbf": seconds + leeway + 1 })),
            Err(TokenError::NotYet),
        ),
        (
            with(json!({ "nbf": "now" })),
            Err(TokenError::BadClaim("nbf")),
        ),
        (json!({ "exp": seconds + 60 }), Err(TokenError::NoUser)),
        (with(json!({ "sub": "" })), Err(TokenError::BadClaim("sub"))),
        (with(json!({ "sub": 7 })), Err(TokenError::BadClaim("sub"))),
        (
            with(json!({ "sub": "a\nb" })),
            Err(TokenError::BadClaim("sub")),
        ),
        (
            with(json!({ "sub": long })),
            Err(TokenError::BadClaim("sub")),
        ),
        (
            with(json!({ "name": 7 })),
            Err(TokenError::BadClaim("name")),
        ),
        (
            with(json!({ "name": "" })),
            Err(TokenError::BadClaim("name")),
        ),
        (
            with(json!({ "join": "lobby" })),
            Err(TokenError::BadClaim("join")),
        ),
        (
            with(json!({ "join": null })),
            Err(TokenError::BadClaim("join")),
        ),
        (
            with(json!({ "join": ["a", 1] })),
            Err(TokenError::BadClaim("join")),
        ),
        (
            with(json!({ "publish": {} })),
            Err(TokenError::BadClaim("publish")),
        ),
        (
            with(json!({ "aud": "another", "iss": 1, "iat": "x", "jti": [] })),
            Ok(()),
        ),
    ] {
        let got = keys.check(&issuer.token(&claims), NOW).map(drop);
        assert_eq!(got, want, "{claims}");
    }
    for claims in [json!([]), json!("ann"), json!(null)] {
        let got = keys.check(&issuer.token(&claims), NOW);
        assert_eq!(got, Err(TokenError::Malformed), "{claims}");
    }
    let filler = |bytes: usize| issuer.token(&with(json!({ "x": "y".repeat(bytes) })));
    assert!(keys.check(&filler(TOKEN_BYTES_MAX / 2), NOW).is_ok());
    assert_eq!(
        keys.check(&filler(TOKEN_BYTES_MAX), NOW),
        Err(TokenError::TooLong)
    );
}

#[test]
fn one_claim_of_rooms_leaves_none_to_the_other() {
    let keys = Keys::from_secret("secret");
    let check = |more: Value| {
        let token = Issuer::secret("secret").token(&with(more));
        keys.check(&token, NOW).unwrap()
    };
    let both = check(json!({}));
    assert!(both.may_join("a") && both.may_publish("a") && both.may_publish("@bob"));
    assert!(both.may_join("@ann") && !both.may_join("@bob"));
    let reader = check(json!({ "join": ["a"] }));
    assert!(reader.may_join("a") && !reader.may_join("b") && !reader.may_publish("a"));
    assert!(reader.may_join("@ann") && !reader.may_publish("@ann"));
    let writer = check(json!({ "publish": ["@*"] }));
    assert!(!writer.may_join("a") && writer.may_publish("@bob") && !writer.may_publish("a"));
    let nothing = check(json!({ "join": [], "publish": [] }));
    assert!(!nothing.may_join("a") && !nothing.may_publish("a"));
    let all = check(json!({ "join": ["*", "@bob"], "publish": ["*"] }));
    assert!(all.may_join("a") && !all.may_join("@bob") && !all.may_join("@"));
}

#[test]
fn key_files() {
    let (rsa, ec, ed) = (
        Issuer::rsa(),
        Issuer::ec().named("a"),
        Issuer::ed().named("b"),
    );
    let three = format!("# Keys\n{}\r\n{}{}", rsa.pem(), ec.pem(), ed.pem());
    for file in [
        three,
        jwks(&[&rsa, &ec, &ed]),
        format!("\u{feff} {}", jwks(&[&ed, &ec, &rsa])),
    ] {
        let keys = Keys::from_file(file.as_bytes()).unwrap();
        for issuer in [&rsa, &ec, &ed] {
            assert!(keys.check(&issuer.token(&claims()), NOW).is_ok(), "{file}");
        }
    }
    // A key's name is its own: another key of that name is not tried for it.
    let other = Issuer::ec().named("other");
    let keys = Keys::from_file(jwks(&[&ec, &other]).as_bytes()).unwrap();
    assert!(keys.check(&other.token(&claims()), NOW).is_ok());
    let header = json!({ "alg": "ES256", "kid": "a" });
    let misnamed = other.token_with(&header, &claims());
    assert_eq!(keys.check(&misnamed, NOW), Err(TokenError::Foreign));
    let unnamed = other.token_with(&json!({ "alg": "ES256" }), &claims());
    assert!(keys.check(&unnamed, NOW).is_ok());
    // A single JWK, and what is for others.
    let keys = Keys::from_file(ed.jwk().to_string().as_bytes()).unwrap();
    assert!(keys.check(&ed.token(&claims()), NOW).is_ok());
    let mut encryption = rsa.jwk();
    encryption["use"] = "enc".into();
    let mut other = rsa.jwk();
    other["alg"] = "RS512".into();
    let curve = json!({ "kty": "EC", "crv": "secp256k1", "x": "AA", "y": "AA" });
    let mut named = ed.jwk();
    named["alg"] = "Ed25519".into();
    let file = json!({ "keys": [encryption, other, curve, { "kty": "?" }, named] }).to_string();
    let keys = Keys::from_file(file.as_bytes()).unwrap();
    assert_eq!(format!("{keys:?}"), "[EdDSA]");
    assert!(keys.check(&ed.token(&claims()), NOW).is_ok());
}

#[test]
fn broken_key_files_say_what_is_wrong() {
    let rsa = Issuer::rsa();
    let half = rsa.pem()[..200].to_owned();
    let mut private = Issuer::ed().jwk();
    private["d"] = "AAAA".into();
    let mut short = rsa.jwk();
    short["n"] = base64url([255_u8; 128]).into();
    let mut point = Issuer::ec().jwk();
    point["x"] = "AA".into();
    let set = |key: &Value| json!({ "keys": [key] }).to_string();
    let many: Vec<_> = (0..65).map(|_| Issuer::secret("x").jwk()).collect();
    for (file, want) in [
        ("", "neither PEM nor JWKS"),
        ("\u{1f600}", "neither PEM nor JWKS"),
        ("MIIB", "neither PEM nor JWKS"),
        (half.as_str(), "PEM block 1"),
        (
            "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----",
            "private key",
        ),
        (
            "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----",
            "PEM block 1",
        ),
        (&format!("{}-----BEGIN X-----\n", rsa.pem()), "PEM block 2"),
        ("{", "line 1: it is no JSON"),
        ("{}", "no \"keys\""),
        ("{\"keys\":{}}", "no array"),
        ("{\"keys\":[]}", "no key for"),
        (&set(&private), "private part"),
        (&set(&short), "key 1 is malformed"),
        (&set(&point), "key 1 is malformed"),
        (
            &set(&json!({ "kty": "RSA", "n": "!!!", "e": "AQAB" })),
            "key 1 is malformed",
        ),
        (
            &set(&json!({ "kty": "oct", "k": "" })),
            "key 1 is malformed",
        ),
        (
            &set(&json!({ "kty": "OKP", "crv": "Ed25519" })),
            "key 1 is malformed",
        ),
        (&json!({ "keys": many }).to_string(), "more than"),
    ] {
        let error = Keys::from_file(file.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(want), "{file}: {error}");
    }
    assert!(Keys::from_file(&[0xff, 0xfe]).is_err());
}

fn access(tokens: bool, api_key: bool) -> Access {
    Access {
        keys: tokens.then(|| Keys::from_secret("secret")),
        api_keys: match api_key {
            true => ApiKeys::parse("the-key").unwrap(),
            false => ApiKeys::default(),
        },
    }
}

/// FAULTS H2: the table of who may do what by HTTP, each cell.
#[test]
fn who_may_do_what() {
    let room = RoomName::parse("a").unwrap();
    let own = RoomName::parse("@ann").unwrap();
    let others = RoomName::parse("@bob").unwrap();
    let token = Issuer::secret("secret").token(&with(json!({ "join": ["a"], "publish": ["b*"] })));
    let may_publish = RoomName::parse("b1").unwrap();
    let actions = [
        Action::Read(&room),
        Action::Read(&own),
        Action::Read(&others),
        Action::List,
        Action::Publish(&room),
        Action::Publish(&may_publish),
        Action::Kick,
    ];
    let bearer = |text| Credential {
        bearer: Some(text),
        ..Credential::default()
    };
    let query = |text| Credential {
        query: Some(text),
        ..Credential::default()
    };
    let local = Credential {
        is_local: true,
        ..Credential::default()
    };
    let nobody = Credential::default();
    for (tokens, api_key, credential, want) in [
        // Nothing is set: open to read, and this machine may write.
        (false, false, nobody, [0, 403, 403, 0, 403, 403, 403]),
        (false, false, local, [0, 403, 403, 0, 0, 0, 0]),
        (
            false,
            false,
            bearer("anything"),
            [0, 403, 403, 0, 403, 403, 403],
        ),
        // An API key alone.
        (false, true, nobody, [0, 403, 403, 0, 401, 401, 401]),
        (false, true, local, [0, 403, 403, 0, 401, 401, 401]),
        (false, true, bearer("the-key"), [0; 7]),
        (
            false,
            true,
            query("the-key"),
            [0, 403, 403, 0, 401, 401, 401],
        ),
        (
            false,
            true,
            bearer("the-kez"),
            [0, 403, 403, 0, 401, 401, 401],
        ),
        // Tokens alone.
        (true, false, nobody, [401, 401, 401, 401, 401, 401, 403]),
        (true, false, local, [401, 401, 401, 401, 0, 0, 0]),
        (true, false, bearer(&token), [0, 0, 403, 0, 403, 0, 403]),
        (true, false, query(&token), [0, 0, 403, 0, 403, 0, 403]),
        (true, false, bearer("x.y.z"), [401; 7]),
        (
            true,
            false,
            Credential {
                is_local: true,
                ..bearer("x.y.z")
            },
            [401; 7],
        ),
        // Both.
        (true, true, nobody, [401; 7]),
        (true, true, local, [401; 7]),
        (true, true, bearer("the-key"), [0; 7]),
        (true, true, bearer(&token), [0, 0, 403, 0, 403, 0, 403]),
        (
            true,
            true,
            Credential {
                query: Some(&token),
                ..bearer("the-key")
            },
            [0; 7],
        ),
        (
            true,
            true,
            Credential {
                query: Some(&token),
                ..bearer("x")
            },
            [401; 7],
        ),
        (true, true, query("the-key"), [401; 7]),
    ] {
        let access = access(tokens, api_key);
        let got = actions.map(|action| match access.decide(credential, action, NOW) {
            Ok(_) => 0,
            Err(denied) => denied.status(),
        });
        assert_eq!(
            got, want,
            "tokens {tokens} api_key {api_key} {credential:?}"
        );
    }
}

#[test]
fn whoever_enters_shows_a_token_where_tokens_are_taken() {
    let token = Issuer::secret("secret").token(&claims());
    let shown = |token| Credential {
        query: Some(token),
        is_local: true,
        ..Credential::default()
    };
    let open = access(false, true);
    assert_eq!(open.enter(Credential::default(), NOW), Ok(None));
    assert_eq!(open.enter(shown("x"), NOW), Ok(None));
    let closed = access(true, true);
    assert!(closed.enter(shown(&token), NOW).unwrap().is_some());
    for bad in [Credential::default(), shown("x"), shown("the-key")] {
        let denied = closed.enter(bad, NOW).unwrap_err();
        assert_eq!(denied.status(), 401);
    }
    let late = Timestamp(NOW.0 + 60_000);
    assert!(closed.enter(shown(&token), late).is_err());
}

#[test]
fn nothing_secret_is_in_what_debug_shows() {
    let access = Access {
        keys: Some(Keys::from_secret("top-secret")),
        ..access(false, true)
    };
    let shown = format!("{access:?}");
    assert!(
        !shown.contains("secret") && !shown.contains("the-key"),
        "{shown}"
    );
}
