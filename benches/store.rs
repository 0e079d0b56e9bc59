//! What a commit and a page cost, beside the obvious alternatives: one autocommit INSERT per row,
//! and one transaction into a bare table without keys or checks (the floor: what is above it is
//! what order, dedupe and retention cost).
//!
//! The data directory is where `TMPDIR` says: point it at a real disk to measure real syncs.

use std::hint::black_box;
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ringcast::model::{Epoch, MessageId, Name, Publication, RoomName, Timestamp};
use ringcast::store::{PageLimits, Store};
use rusqlite::{Connection, params};
use tempfile::TempDir;

const ROOMS: u64 = 64;
const PAYLOAD_BYTES: usize = 128;
const SIZES: [usize; 4] = [1, 16, 256, 4096];

/// Publications with rising offsets, over [`ROOMS`] rooms in turn.
struct Source {
    rooms: Vec<RoomName>,
    payload: Bytes,
    count: u64,
}

impl Source {
    fn new() -> Self {
        let room = |i| RoomName::parse(&format!("room-{i}")).expect("a room's name");
        let payload = format!("{{\"text\":\"{}\"}}", "x".repeat(PAYLOAD_BYTES - 11));
        Self {
            rooms: (0..ROOMS).map(room).collect(),
            payload: Bytes::from(payload),
            count: 0,
        }
    }

    fn take(&mut self, size: usize) -> Vec<Publication> {
        (0..size).map(|_| self.next()).collect()
    }

    fn next(&mut self) -> Publication {
        let n = self.count;
        self.count += 1;
        // As UUIDv7: time first, then what looks random.
        let random = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Publication {
            room: self.rooms[(n % ROOMS) as usize].clone(),
            epoch: epoch(),
            offset: n / ROOMS + 1,
            id: MessageId::from_u64_pair(n / 64, random),
            client_id_given: n.is_multiple_of(2),
            user_id: Name::from("user-17"),
            username: Some(Name::from("Ann")),
            payload: self.payload.clone(),
            metadata: None,
            sent_at: Timestamp(1_700_000_000_000 + n / 64),
        }
    }
}

fn epoch() -> Epoch {
    Epoch::new(1_700_000_000_000, 7)
}

fn temp_dir() -> TempDir {
    TempDir::new().expect("a temporary directory")
}

/// Times only `commit`, not the making of publications.
fn timed<T>(iterations: u64, mut make: impl FnMut() -> T, mut run: impl FnMut(T)) -> Duration {
    let mut spent = Duration::ZERO;
    for _ in 0..iterations {
        let input = make();
        let start = Instant::now();
        run(input);
        spent += start.elapsed();
    }
    spent
}

fn commit(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("store/commit");
    for size in SIZES {
        group.throughput(Throughput::Elements(size as u64));
        group.bench_function(BenchmarkId::new("ringcast", size), |bencher| {
            let dir = temp_dir();
            let mut store = Store::open(dir.path(), epoch()).expect("a store");
            let mut source = Source::new();
            bencher.iter_custom(|iterations| {
                timed(
                    iterations,
                    || source.take(size),
                    |batch| {
                        store.commit(&[&batch], Timestamp(1)).expect("a commit");
                    },
                )
            });
        });
        group.bench_function(BenchmarkId::new("bare_table", size), |bencher| {
            let (_dir, connection) = bare_table();
            let mut source = Source::new();
            bencher.iter_custom(|iterations| {
                timed(
                    iterations,
                    || source.take(size),
                    |batch| {
                        connection.execute_batch("begin immediate").expect("begin");
                        batch
                            .iter()
                            .for_each(|publication| insert_bare(&connection, publication));
                        connection.execute_batch("commit").expect("commit");
                    },
                )
            });
        });
    }
    group.throughput(Throughput::Elements(1));
    group.bench_function("autocommit_insert", |bencher| {
        let (_dir, connection) = bare_table();
        let mut source = Source::new();
        bencher.iter_custom(|iterations| {
            timed(
                iterations,
                || source.next(),
                |row| insert_bare(&connection, &row),
            )
        });
    });
    group.finish();
}

fn bare_table() -> (TempDir, Connection) {
    let dir = temp_dir();
    let connection = Connection::open(dir.path().join("bare.db")).expect("a database");
    connection
        .execute_batch(
            "pragma journal_mode = wal; pragma synchronous = full;
             pragma wal_autocheckpoint = 4000;
             create table messages (room_name text, id blob, epoch text, \"offset\" integer,
                user_id text, username text, payload text, created_at integer)",
        )
        .expect("a table");
    (dir, connection)
}

fn insert_bare(connection: &Connection, publication: &Publication) {
    connection
        .prepare_cached("insert into messages values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)")
        .and_then(|mut insert| {
            insert.execute(params![
                publication.room.as_str(),
                publication.id.as_bytes().as_slice(),
                publication.epoch.as_str(),
                publication.offset as i64,
                publication.user_id.as_str(),
                publication.username.as_deref(),
                publication.payload.as_ref(),
                publication.sent_at.0 as i64,
            ])
        })
        .expect("an insert");
}

fn page(criterion: &mut Criterion) {
    let dir = temp_dir();
    let mut store = Store::open(dir.path(), epoch()).expect("a store");
    let mut source = Source::new();
    for _ in 0..32 {
        store
            .commit(&[&source.take(4096)], Timestamp(1))
            .expect("a commit");
    }
    let mut reader = store.reader().expect("a reader");
    let room = source.rooms[5].clone();
    let limits = PageLimits {
        publications_max: 1000,
        bytes_max: usize::MAX,
    };
    let mut group = criterion.benchmark_group("store/page");
    group.throughput(Throughput::Elements(1000));
    group.bench_function("1000", |bencher| {
        bencher.iter(|| {
            let page = reader
                .page(&room, epoch(), 500, 2000, limits)
                .expect("a page");
            assert_eq!(page.publications.len(), 1000);
            black_box(page)
        });
    });
    group.throughput(Throughput::Elements(1));
    group.bench_function("last_offset", |bencher| {
        bencher.iter(|| black_box(reader.last_offset(&room).expect("an offset")));
    });
    group.finish();
}

criterion_group!(benches, commit, page);
criterion_main!(benches);
