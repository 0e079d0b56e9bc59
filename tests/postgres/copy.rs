//! What the encoder writes is what PostgreSQL reads back.

use std::cell::RefCell;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use ringcast::pg::{Cause, CopyBuffer, Param, Request};
use uuid::Uuid;

use super::postgres::Postgres;
use super::talk::Talk;

const TABLE: &str = "CREATE TABLE t (n bigint, id uuid, name text, payload jsonb, at timestamptz)";
const COPY: &str = "COPY t FROM STDIN (FORMAT binary)";

#[derive(Clone, Debug)]
struct Row {
    id: Option<u128>,
    name: Option<String>,
    payload: Option<serde_json::Value>,
    at: Option<u64>,
}

fn rows() -> impl Strategy<Value = Vec<Row>> {
    let text = "[^\\x00]{0,40}";
    let json = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        text.prop_map(Into::into),
        proptest::collection::vec(text, 0..4).prop_map(Into::into),
        proptest::collection::hash_map(text, any::<i32>(), 0..4)
            .prop_map(|map| serde_json::to_value(map).unwrap()),
    ];
    // What PostgreSQL holds: to the end of 294276.
    let at = prop_oneof![0..2_000_000_000_000u64, 0..=9_224_318_015_999_999u64];
    let row = (
        proptest::option::of(any::<u128>()),
        proptest::option::of(text),
        proptest::option::of(json),
        proptest::option::of(at),
    );
    let row = row.prop_map(|(id, name, payload, at)| Row {
        id,
        name,
        payload,
        at,
    });
    proptest::collection::vec(row, 0..30)
}

fn encode(rows: &[Row], buffer: Vec<u8>) -> Vec<u8> {
    let mut buffer = CopyBuffer::reuse(buffer);
    for (n, row) in rows.iter().enumerate() {
        let json = row.payload.as_ref().map(|it| it.to_string().into_bytes());
        let mut columns = buffer.row(5);
        columns.bigint(n as i64 - 5);
        match row.id {
            Some(id) => columns.uuid(Uuid::from_u128(id)),
            None => columns.null(),
        };
        columns.optional_text(row.name.as_deref());
        columns.optional_jsonb(json.as_deref());
        match row.at {
            Some(ms) => columns.timestamptz(ms),
            None => columns.null(),
        };
    }
    assert_eq!(buffer.rows(), rows.len());
    buffer.finish()
}

#[test]
fn what_is_encoded_is_read_back() {
    let postgres = Postgres::start(&[]);
    let talk = RefCell::new(Talk::new(&postgres));
    talk.borrow_mut().sql(TABLE);
    let kept = RefCell::new(Vec::new());
    let config = Config {
        cases: 200,
        failure_persistence: None,
        ..Config::default()
    };
    let check = |rows: Vec<Row>| {
        let mut talk = talk.borrow_mut();
        let bytes = encode(&rows, kept.take());
        let select = "SELECT n, id, name, payload::text, at, \
                      (extract(epoch FROM at) * 1000)::bigint FROM t ORDER BY n";
        let answers = talk.ask_all(&[
            Request::simple("TRUNCATE t"),
            Request::copy(COPY, bytes.clone()),
            Request::query(select, vec![]),
        ]);
        kept.replace(bytes);
        assert_eq!(answers[1].as_ref().unwrap().affected(0), rows.len() as u64);
        let found = &answers[2].as_ref().unwrap().rows;
        assert_eq!(found.len(), rows.len());
        for (n, (found, row)) in found.iter().zip(&rows).enumerate() {
            prop_assert_eq!(found.int(0), Some(n as i64 - 5));
            prop_assert_eq!(found.uuid(1), row.id.map(Uuid::from_u128));
            prop_assert_eq!(found.text(2), row.name.as_deref());
            let payload = found.text(3).map(|it| serde_json::from_str(it).unwrap());
            prop_assert_eq!(&payload, &row.payload);
            let at = row.at.map(|ms| ms as i64);
            prop_assert_eq!((found.timestamp_ms(4), found.int(5)), (at, at));
        }
        Ok(())
    };
    TestRunner::new(config).run(&rows(), check).unwrap();
}

/// The kinds of poison of which a stream may be full: each is refused by PostgreSQL as data, the
/// row is named, and the session goes on.
#[test]
fn what_postgres_refuses_is_the_rows_fault() {
    let postgres = Postgres::start(&[]);
    let mut talk = Talk::new(&postgres);
    talk.sql(TABLE);
    talk.sql("ALTER TABLE t ALTER name TYPE varchar(5)");
    let deep = format!("{}1{}", "[".repeat(20_000), "]".repeat(20_000));
    for (name, payload) in [
        ("ok", r#""\u0000""#),
        ("ok", r#""\ud800""#),
        ("ok", "1e200000"),
        ("ok", "{"),
        ("ok", deep.as_str()),
        ("too long", "1"),
        ("a\0b", "1"),
    ] {
        let mut buffer = CopyBuffer::default();
        for n in 1..=5 {
            let (name, payload) = if n == 3 {
                (name, payload)
            } else {
                ("ok", "{}")
            };
            let mut row = buffer.row(5);
            row.bigint(n).null().text(name).jsonb(payload.as_bytes());
            row.timestamptz(0);
        }
        let refusal = talk.ask(Request::copy(COPY, buffer.finish())).unwrap_err();
        assert_eq!(refusal.cause, Cause::Data, "{payload:.20}: {refusal:?}");
        assert_eq!(refusal.copy_line(), Some(3), "{refusal:?}");
        assert_eq!(talk.sql("SELECT count(*) FROM t").rows[0].int(0), Some(0));
    }
    // A column of another type is the table's fault.
    talk.sql("ALTER TABLE t ALTER n TYPE integer");
    let mut buffer = CopyBuffer::default();
    buffer.row(5).bigint(1).null().null().null().null();
    let refusal = talk.ask(Request::copy(COPY, buffer.finish())).unwrap_err();
    assert_eq!(refusal.cause, Cause::Schema, "{refusal:?}");
}

#[test]
fn a_transaction_of_copies_goes_in_one_write() {
    let postgres = Postgres::start(&[]);
    let mut talk = Talk::new(&postgres);
    talk.sql(TABLE);
    talk.sql("ALTER TABLE t ADD PRIMARY KEY (n)");
    let rows = |from: i64| {
        let mut buffer = CopyBuffer::default();
        for n in from..from + 5000 {
            buffer
                .row(5)
                .bigint(n)
                .null()
                .text("some text")
                .null()
                .null();
        }
        buffer.finish()
    };
    let pipeline = [
        Request::copy(format!("BEGIN; {COPY}"), rows(0)),
        Request::copy(COPY, rows(5000)),
        Request::query("SELECT count(*) FROM t WHERE n >= $1", vec![Param::Int(7)]),
        Request::simple("COMMIT"),
    ];
    let answers = talk.ask_all(&pipeline);
    let answers: Vec<_> = answers.into_iter().map(Result::unwrap).collect();
    assert_eq!(answers[0].affected(1), 5000);
    assert_eq!(answers[2].rows[0].int(0), Some(9993));
    assert_eq!(answers[3].tag(), "COMMIT");

    // The same again breaks the key: nothing of it is done, and COMMIT says so.
    let answers = talk.ask_all(&pipeline);
    let causes: Vec<_> = answers
        .iter()
        .map(|it| it.as_ref().err().map(|why| why.cause))
        .collect();
    let failed = Some(Cause::InFailedTransaction);
    assert_eq!(causes, [Some(Cause::Duplicate), failed, failed, None]);
    assert_eq!(answers[3].as_ref().unwrap().tag(), "ROLLBACK");
    assert_eq!(
        talk.sql("SELECT count(*) FROM t").rows[0].int(0),
        Some(10_000)
    );
}
