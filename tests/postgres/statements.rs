//! Statements, parameters and errors.

#![allow(
    clippy::result_large_err,
    reason = "an error is looked at, not passed on"
)]

use ringcast::pg::{Cause, Param, Request, Transaction};
use uuid::Uuid;

use super::postgres::Postgres;
use super::talk::Talk;

#[test]
fn parameters_of_every_type_go_there_and_back() {
    let postgres = Postgres::start(&[]);
    let mut talk = Talk::new(&postgres);
    let id = Uuid::from_u128(0x1234_5678);
    let params = vec![
        Param::Text("it's \"é\"\n".into()),
        Param::Null,
        Param::Int(i64::MIN),
        Param::Bool(true),
        Param::Uuid(id),
        Param::Json(r#"{"a": [1, null]}"#.into()),
        Param::Timestamp(1_700_000_000_123),
        Param::Texts(vec!["a".into(), String::new(), "{,}".into()]),
        Param::Ints(vec![1, -1]),
        Param::Uuids(vec![id]),
    ];
    let sql = "SELECT $1, $2, $3, $4, $5, $6::text, $7, \
               array_to_string($8, ';'), ($9)[2], ($10)[1], cardinality($8)";
    let answer = talk.ask(Request::query(sql, params)).unwrap();
    let row = &answer.rows[0];
    assert_eq!((row.text(0), row.text(1)), (Some("it's \"é\"\n"), None));
    assert_eq!((row.int(2), row.bool(3)), (Some(i64::MIN), Some(true)));
    assert_eq!(
        (row.uuid(4), row.text(5)),
        (Some(id), Some(r#"{"a": [1, null]}"#))
    );
    assert_eq!(row.timestamp_ms(6), Some(1_700_000_000_123));
    assert_eq!((row.text(7), row.int(8)), (Some("a;;{,}"), Some(-1)));
    assert_eq!(
        (row.uuid(9), row.int(10), row.text(11)),
        (Some(id), Some(3), None)
    );
    assert_eq!(
        (answer.tag(), answer.transaction),
        ("SELECT 1", Transaction::Idle)
    );

    let answer = talk.ask(Request::query(
        "SELECT cardinality($1)",
        vec![Param::Texts(vec![])],
    ));
    assert_eq!(answer.unwrap().rows[0].int(0), Some(0));
}

#[test]
fn errors_say_what_is_wrong_and_the_session_goes_on() {
    let postgres = Postgres::start(&[]);
    let mut talk = Talk::new(&postgres);
    talk.sql("CREATE TABLE t (n int PRIMARY KEY CHECK (n > 0), s text NOT NULL)");
    talk.sql("CREATE USER guest; INSERT INTO t VALUES (1, 'a')");
    for (sql, cause, part) in [
        (
            "INSERT INTO t VALUES (1, 'b')",
            Cause::Duplicate,
            Some("t_pkey"),
        ),
        (
            "INSERT INTO t VALUES (0, 'b')",
            Cause::Data,
            Some("t_n_check"),
        ),
        ("INSERT INTO t VALUES (2, NULL)", Cause::Data, Some("s")),
        ("SELECT 1/0", Cause::Data, None),
        ("SELECT * FROM nowhere", Cause::Schema, None),
        ("SELECT nothing FROM t", Cause::Schema, None),
        ("SELEC 1", Cause::Other, None),
        ("SET ROLE guest; SELECT * FROM t", Cause::NoRight, None),
        (
            "RESET ROLE; SET statement_timeout = 50; SELECT pg_sleep(60)",
            Cause::Cancelled,
            None,
        ),
        ("SET default_transaction_read_only = on", Cause::Other, None),
        ("INSERT INTO t VALUES (2, 'b')", Cause::ReadOnly, None),
    ] {
        let answer = talk.ask(Request::simple(sql));
        if cause == Cause::Other && answer.is_ok() {
            continue;
        }
        let refusal = answer.unwrap_err();
        assert_eq!(refusal.cause, cause, "{sql}: {refusal:?}");
        let found = refusal.constraint.as_deref().or(refusal.column.as_deref());
        assert_eq!(found, part, "{sql}: {refusal:?}");
        talk.sql("RESET ROLE; RESET statement_timeout");
    }
    talk.sql("DO $$ BEGIN RAISE NOTICE 'look'; END $$");
    assert_eq!(talk.notices.len(), 1);
    assert_eq!(talk.notices[0].message, "look");
}

#[test]
fn a_deadlock_is_to_be_tried_again() {
    let postgres = Postgres::start(&["deadlock_timeout=50ms"]);
    let (mut one, mut two) = (Talk::new(&postgres), Talk::new(&postgres));
    one.sql("CREATE TABLE t (n int); INSERT INTO t VALUES (1), (2)");
    one.sql("BEGIN; UPDATE t SET n = n WHERE n = 1");
    two.sql("BEGIN; UPDATE t SET n = n WHERE n = 2");
    let update = |n: i64| Request::simple(format!("UPDATE t SET n = n WHERE n = {n}; COMMIT"));
    let (first, second) = std::thread::scope(|scope| {
        let first = scope.spawn(|| one.ask(update(2)));
        (second_of(&mut two, update(1)), first.join().unwrap())
    });
    let mut causes: Vec<_> = [first, second]
        .into_iter()
        .map(|it| it.err().map(|why| why.cause))
        .collect();
    causes.sort_by_key(|it| it.is_some());
    assert_eq!(causes, [None, Some(Cause::Deadlock)]);
}

fn second_of(
    talk: &mut Talk,
    request: Request,
) -> Result<ringcast::pg::Answer, ringcast::pg::Refusal> {
    talk.ask(request)
}
