//! The wire of Redis: what a message, a reply and a command cost.

use std::hint::black_box;

use bytes::BytesMut;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ringcast::resp::{Command, Kind, Login, Session};

/// A session that is ready.
fn session() -> Session {
    let mut session = Session::new(Login::default(), Kind::Subscriber);
    let (mut out, mut inputs) = (Vec::new(), Vec::new());
    session.begin(&mut out);
    let hello = BytesMut::from(&b"%1\r\n+proto\r\n:3\r\n"[..]);
    let taken = session.on_bytes(&mut hello.clone(), &mut out, &mut inputs);
    assert!(taken.is_ok() && session.is_ready());
    session
}

/// Shows `bytes` to a session in pieces.
fn read(session: &mut Session, bytes: &[u8], piece: usize) -> usize {
    let (mut out, mut inputs) = (Vec::new(), Vec::new());
    for piece in bytes.chunks(piece) {
        let taken = session.on_bytes(&mut piece.into(), &mut out, &mut inputs);
        assert!(taken.is_ok());
    }
    black_box(inputs).len()
}

fn resp(criterion: &mut Criterion) {
    let payload = "x".repeat(300);
    let message = format!(
        ">3\r\n$7\r\nmessage\r\n$18\r\ngosocket:broadcast\r\n${}\r\n{payload}\r\n",
        payload.len()
    );
    let messages = message.repeat(200).into_bytes();
    let entry = "*2\r\n$15\r\n1700000000000-0\r\n*4\r\n$7\r\npayload\r\n$300\r\n";
    let entry = format!("{entry}{payload}\r\n$2\r\nid\r\n$1\r\na\r\n");
    let entries = format!("*3000\r\n{}", entry.repeat(3000)).into_bytes();

    let mut group = criterion.benchmark_group("resp");
    group.throughput(Throughput::Elements(200));
    group.bench_function("messages", |bencher| {
        let mut session = session();
        bencher.iter(|| assert_eq!(read(&mut session, &messages, 64 * 1024), 200));
    });
    group.throughput(Throughput::Bytes(entries.len() as u64));
    for piece in [1024, 16 * 1024, 4 * 1024 * 1024] {
        group.bench_function(format!("entries by {piece}"), |bencher| {
            let mut session = session();
            bencher.iter(|| assert_eq!(read(&mut session, &entries, piece), 1));
        });
    }
    group.throughput(Throughput::Elements(1));
    group.bench_function("command", |bencher| {
        let mut out = Vec::new();
        bencher.iter(|| {
            out.clear();
            let mut command = Command::new(&mut out, 4);
            command.arg(b"EVALSHA").arg(payload.as_bytes());
            command.number(1).number(1_700_000_000_000);
        });
    });
    group.finish();
}

criterion_group!(benches, resp);
criterion_main!(benches);
