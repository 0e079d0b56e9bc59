//! Who one is: SCRAM-SHA-256 (RFC 5802, 7677; -PLUS with TLS), md5, cleartext, trust.
//!
//! - A password goes in clear only where nobody listens ([`Secrecy`]).
//! - SCRAM proves the server too: its last message is checked, and it must have come before the
//!   login counts as done.
//! - With TLS and a certificate whose hash is known the login is bound to it
//!   (`tls-server-end-point`, RFC 5929) if the server offers that; if it does not, it is told that
//!   we could have, so that a man in the middle who struck the offer out is found.

use bytes::BytesMut;
use fallible_iterator::FallibleIterator;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{
    ChannelBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256,
};
use postgres_protocol::message::{backend::Message, frontend};

use super::refusal::{Cause, Refusal};
use super::session::{Login, Secrecy};

/// How far a login is.
#[derive(Default)]
pub(super) struct Auth {
    scram: Option<Box<ScramSha256>>,
    /// The server has proven that it knows the password.
    is_proven: bool,
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Auth").finish_non_exhaustive()
    }
}

/// What a message comes to.
pub(super) enum Step {
    /// The server goes on.
    More,
    /// Logged in.
    Done,
    /// It can't be done.
    Refused(Box<Refusal>),
    /// It is no message of a login.
    Unexpected,
}

impl Auth {
    pub(super) fn on_message(
        &mut self,
        message: &Message,
        login: &Login,
        secrecy: &Secrecy,
        out: &mut BytesMut,
    ) -> Step {
        match message {
            Message::AuthenticationOk if self.scram.is_some() && !self.is_proven => {
                refused("the server lets in without having proven that it knows the password")
            }
            Message::AuthenticationOk => Step::Done,
            Message::AuthenticationCleartextPassword if *secrecy == Secrecy::Plain => refused(
                "the server wants the password in clear, without TLS: use scram-sha-256 in \
                 pg_hba.conf, or sslmode=require",
            ),
            Message::AuthenticationCleartextPassword => with_password(login, |password| {
                frontend::password_message(password.as_bytes(), out)
            }),
            Message::AuthenticationMd5Password(body) => with_password(login, |password| {
                let hash = md5_hash(login.user.as_bytes(), password.as_bytes(), body.salt());
                frontend::password_message(hash.as_bytes(), out)
            }),
            Message::AuthenticationSasl(body) => {
                let mut plain = false;
                let mut plus = false;
                let names = body.mechanisms().for_each(|name| {
                    plain |= name == SCRAM_SHA_256;
                    plus |= name == SCRAM_SHA_256_PLUS;
                    Ok(())
                });
                match names {
                    Ok(()) if plain || plus => self.begin_scram(plain, plus, login, secrecy, out),
                    _ => refused("the server offers no way to log in that is known here"),
                }
            }
            Message::AuthenticationSaslContinue(body) => self.go_on(|scram| {
                scram.update(body.data())?;
                frontend::sasl_response(scram.message(), out)
            }),
            Message::AuthenticationSaslFinal(body) => {
                let step = self.go_on(|scram| scram.finish(body.data()));
                self.is_proven = matches!(step, Step::More);
                step
            }
            Message::AuthenticationGss
            | Message::AuthenticationSspi
            | Message::AuthenticationKerberosV5
            | Message::AuthenticationScmCredential => refused(
                "the server wants GSSAPI, SSPI or Kerberos, which is not known here: use \
                 scram-sha-256 in pg_hba.conf",
            ),
            _ => Step::Unexpected,
        }
    }

    fn begin_scram(
        &mut self,
        plain: bool,
        plus: bool,
        login: &Login,
        secrecy: &Secrecy,
        out: &mut BytesMut,
    ) -> Step {
        let (binding, mechanism) = match secrecy {
            Secrecy::Tls(Some(hash)) if plus => (
                ChannelBinding::tls_server_end_point(hash.clone()),
                SCRAM_SHA_256_PLUS,
            ),
            _ if !plain => {
                return refused(
                    "the server wants a login that is bound to TLS, and it can't be bound here",
                );
            }
            Secrecy::Tls(Some(_)) => (ChannelBinding::unrequested(), SCRAM_SHA_256),
            _ => (ChannelBinding::unsupported(), SCRAM_SHA_256),
        };
        with_password(login, |password| {
            let scram = Box::new(ScramSha256::new(password.as_bytes(), binding));
            let sent = frontend::sasl_initial_response(mechanism, scram.message(), out);
            self.scram = Some(scram);
            sent
        })
    }

    fn go_on(&mut self, step: impl FnOnce(&mut ScramSha256) -> std::io::Result<()>) -> Step {
        match self.scram.as_mut().map(|scram| step(scram)) {
            Some(Ok(())) => Step::More,
            Some(Err(error)) => refused(&format!("SCRAM with the server: {error}")),
            None => Step::Unexpected,
        }
    }
}

fn with_password(login: &Login, send: impl FnOnce(&str) -> std::io::Result<()>) -> Step {
    let Some(password) = &login.password else {
        let user = login.user.escape_debug();
        return refused(&format!(
            "a password is wanted of the user {user}: give one"
        ));
    };
    match send(password) {
        Ok(()) => Step::More,
        Err(_) => refused("the password must not contain NUL"),
    }
}

fn refused(why: &str) -> Step {
    Step::Refused(Box::new(Refusal::of_way(Cause::Login, why)))
}
