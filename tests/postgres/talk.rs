//! A session over a blocking socket.

#![allow(
    clippy::result_large_err,
    reason = "an error is looked at, not passed on"
)]

use std::io::{Read, Write};
use std::net::TcpStream;

use bytes::BytesMut;
use ringcast::pg::{Answer, Conninfo, Input, Refusal, Request, Secrecy, Session};

use super::postgres::Postgres;
use super::support::PATIENCE;

/// One that is logged in.
pub(crate) struct Talk {
    socket: TcpStream,
    session: Session,
    pub(crate) notices: Vec<Refusal>,
}

impl Talk {
    pub(crate) fn new(postgres: &Postgres) -> Self {
        let info = Conninfo::parse(&postgres.url(), |_| None).unwrap();
        let socket = TcpStream::connect(("127.0.0.1", postgres.port)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut talk = Self {
            socket,
            session: Session::new(info.login("talk", vec![]), Secrecy::Plain),
            notices: Vec::new(),
        };
        let mut out = BytesMut::new();
        talk.session.begin(&mut out).unwrap();
        talk.socket.write_all(&out).unwrap();
        let inputs = talk.read_until(|inputs| !inputs.is_empty());
        assert!(matches!(inputs[0], Input::Ready(_)), "{inputs:?}");
        talk
    }

    /// Sends all at once; their answers.
    pub(crate) fn ask_all(&mut self, requests: &[Request]) -> Vec<Result<Answer, Refusal>> {
        let mut bytes = Vec::new();
        for request in requests {
            let mut out = BytesMut::new();
            self.session.send(request, &mut out).unwrap();
            bytes.extend_from_slice(&out);
            if let Request::Copy { rows, .. } = request {
                bytes.extend_from_slice(rows);
            }
        }
        let mut socket = self.socket.try_clone().unwrap();
        std::thread::scope(|scope| {
            // Whoever answers while it is asked must be read.
            scope.spawn(move || socket.write_all(&bytes).unwrap());
            let count = requests.len();
            let inputs = self.read_until(|inputs| inputs.len() == count);
            let answers = inputs.into_iter().map(|input| match input {
                Input::Answer(answer) => answer,
                other => panic!("{other:?}"),
            });
            answers.collect()
        })
    }

    pub(crate) fn ask(&mut self, request: Request) -> Result<Answer, Refusal> {
        self.ask_all(&[request]).remove(0)
    }

    pub(crate) fn sql(&mut self, sql: &str) -> Answer {
        let answer = self.ask(Request::simple(sql.to_owned()));
        answer.unwrap_or_else(|why| panic!("{sql}: {why}"))
    }

    fn read_until(&mut self, is_enough: impl Fn(&[Input]) -> bool) -> Vec<Input> {
        let mut inputs = Vec::new();
        let mut buffer = [0; 4096];
        while !is_enough(&inputs) {
            let count = self.socket.read(&mut buffer).unwrap();
            assert!(count > 0, "it hung up: {inputs:?}");
            let mut out = BytesMut::new();
            let mut bytes = BytesMut::from(&buffer[..count]);
            let mut came = Vec::new();
            self.session
                .on_bytes(&mut bytes, &mut out, &mut came)
                .unwrap();
            self.socket.write_all(&out).unwrap();
            for input in came {
                match input {
                    Input::Notice(notice) => self.notices.push(notice),
                    input => inputs.push(input),
                }
            }
        }
        inputs
    }
}
