//! Each way to fail has its own error, says what to do, and ends when its cause does.

use std::fs;

use rusqlite::Connection;

use super::*;
use crate::store::connection::SCHEMA_VERSION;
use crate::store::{CommitError, DATABASE_FILE, LOCK_FILE, OpenError, StoreError};

fn open_error(dir: &TempDir) -> OpenError {
    Store::open(dir.path(), epoch()).unwrap_err()
}

#[test]
fn a_second_open_is_refused_while_the_first_lives() {
    let dir = TempDir::new().unwrap();
    let first = open(&dir);
    let error = open_error(&dir);
    assert!(matches!(error, OpenError::InUse { pid: Some(pid), .. } if pid == std::process::id()));
    let text = error.to_string();
    assert!(text.contains("--data-dir"), "{text}");
    assert!(text.contains(dir.path().to_str().unwrap()), "{text}");
    drop(first);
    open(&dir);
}

#[test]
fn the_directory_is_made_and_private() {
    use std::os::unix::fs::PermissionsExt;
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("some/where");
    drop(Store::open(&path, epoch()).unwrap());
    assert!(path.join(DATABASE_FILE).exists() && path.join(LOCK_FILE).exists());
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o700
    );
    // A file where the directory should be.
    let error = Store::open(&path.join(DATABASE_FILE), epoch()).unwrap_err();
    assert!(matches!(error, OpenError::Directory { .. }), "{error}");
    assert!(error.to_string().contains("--data-dir"), "{error}");
}

#[test]
fn a_newer_schema_is_refused_untouched() {
    let dir = TempDir::new().unwrap();
    drop(open(&dir));
    let file = dir.path().join(DATABASE_FILE);
    let sqlite = Connection::open(&file).unwrap();
    sqlite
        .pragma_update(None, "user_version", SCHEMA_VERSION + 1)
        .unwrap();
    drop(sqlite);
    let before = fs::read(&file).unwrap();
    let error = open_error(&dir);
    let (newer, ours) = (SCHEMA_VERSION + 1, SCHEMA_VERSION);
    assert!(
        matches!(error, OpenError::Newer { found, known, .. } if found == newer && known == ours)
    );
    assert!(error.to_string().contains("newer ringcast"), "{error}");
    assert_eq!(fs::read(&file).unwrap(), before);
}

#[test]
fn what_is_not_ours_is_refused_untouched() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join(DATABASE_FILE);
    let sqlite = Connection::open(&file).unwrap();
    sqlite.execute_batch("create table t (x)").unwrap();
    drop(sqlite);
    let before = fs::read(&file).unwrap();
    let error = open_error(&dir);
    assert!(matches!(error, OpenError::Foreign { .. }), "{error}");
    assert_eq!(fs::read(&file).unwrap(), before);

    fs::write(
        &file,
        "no database at all, but long enough to be looked at ".repeat(40),
    )
    .unwrap();
    let error = open_error(&dir);
    assert!(
        matches!(
            error,
            OpenError::Database {
                source: StoreError::Corrupt(_),
                ..
            }
        ),
        "{error}"
    );
    assert!(error.to_string().contains("damaged"), "{error}");
}

#[test]
fn a_start_that_was_cut_short_is_made_good() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join(DATABASE_FILE), "").unwrap();
    let mut store = open(&dir);
    store.commit(&[&publications("a", 1..=1)], NOW).unwrap();
}

#[test]
fn a_full_disk_heals() {
    let dir = TempDir::new().unwrap();
    let mut store = open(&dir);
    store.limit_pages(60);
    let mut stored = Vec::new();
    let batch = |from: u64| -> Vec<_> {
        publications("a", from..=from + 99)
            .into_iter()
            .map(|p| Publication {
                payload: Bytes::from(vec![b'1'; 300]),
                ..p
            })
            .collect()
    };
    let refused = loop {
        let next = batch(stored.len() as u64 + 1);
        match store.commit(&[&next], NOW) {
            Ok(()) => stored.extend(next),
            Err(CommitError::Unavailable(error)) => {
                assert!(matches!(error, StoreError::Full(_)), "{error:?}");
                assert!(error.to_string().contains("free some room"), "{error}");
                break next;
            }
            Err(error) => panic!("{error:?}"),
        }
        assert!(stored.len() < 10_000, "never full");
    };
    assert!(!stored.is_empty());
    check_holds(&store, "a", &stored);
    // Still full: the same again, and a batch numbered behind the refused one leaves no hole.
    assert!(matches!(
        store.commit(&[&refused], NOW),
        Err(CommitError::Unavailable(StoreError::Full(_)))
    ));
    match store.commit(&[&batch(stored.len() as u64 + 101)], NOW) {
        Err(CommitError::OutOfOrder {
            batch: 0,
            index: 0,
            expected,
        }) => {
            assert_eq!(expected, stored.len() as u64 + 1);
        }
        result => panic!("{result:?}"),
    }
    check_holds(&store, "a", &stored);
    store.limit_pages(100_000);
    store.commit(&[&refused], NOW).unwrap();
    stored.extend(refused);
    check_holds(&store, "a", &stored);
}

/// The pragma above refuses before a byte is written; a real disk is full amid the WAL.
#[test]
fn a_really_full_disk_heals() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: mounting a small tmpfs needs root");
        return;
    }
    let dir = TempDir::new().unwrap();
    let run = |program: &str, args: &[&str]| {
        assert!(
            std::process::Command::new(program)
                .args(args)
                .status()
                .unwrap()
                .success()
        );
    };
    let path = dir.path().to_str().unwrap();
    run("mount", &["-t", "tmpfs", "-o", "size=4m", "tmpfs", path]);
    let outcome = std::panic::catch_unwind(|| {
        let ballast = dir.path().join("ballast");
        fs::write(&ballast, vec![1; 2 << 20]).unwrap();
        let mut store = open(&dir);
        let mut stored = 0;
        let refused = loop {
            let next = publications("a", stored + 1..=stored + 500);
            match store.commit(&[&next], NOW) {
                Ok(()) => stored += 500,
                Err(CommitError::Unavailable(StoreError::Full(_))) => break next,
                Err(error) => panic!("{error:?}"),
            }
        };
        check_holds(&store, "a", &publications("a", 1..=stored));
        fs::remove_file(&ballast).unwrap();
        store.commit(&[&refused], NOW).unwrap();
        check_holds(&store, "a", &publications("a", 1..=stored + 500));
        drop(store);
        check_holds(&open(&dir), "a", &publications("a", 1..=stored + 500));
    });
    run("umount", &[path]);
    outcome.unwrap();
}

#[test]
fn another_programs_lock_is_told_apart_and_waited_for() {
    let dir = TempDir::new().unwrap();
    let mut store = open(&dir);
    let sqlite = Connection::open(dir.path().join(DATABASE_FILE)).unwrap();
    sqlite.execute_batch("begin immediate").unwrap();
    let all = publications("a", 1..=2);
    store.set_busy_timeout(std::time::Duration::from_millis(20));
    match store.commit(&[&all], NOW) {
        Err(CommitError::Unavailable(StoreError::Busy(_))) => {}
        result => panic!("{result:?}"),
    }
    sqlite.execute_batch("rollback").unwrap();
    store.commit(&[&all], NOW).unwrap();
    check_holds(&store, "a", &all);
}

#[test]
fn a_row_that_is_not_as_we_write_it_is_damage() {
    let dir = TempDir::new().unwrap();
    let mut store = open(&dir);
    store.commit(&[&publications("a", 1..=2)], NOW).unwrap();
    let sqlite = Connection::open(dir.path().join(DATABASE_FILE)).unwrap();
    let mut reader = store.reader().unwrap();
    for spoil in [
        "id = x'00'",
        "payload = x'00'",
        "created_at = -1",
        "user_id = x'ff'",
    ] {
        sqlite
            .execute_batch(&format!(
                "begin; update messages set {spoil} where \"offset\" = 2"
            ))
            .unwrap();
        sqlite.execute_batch("commit").unwrap();
        let result = reader.page(&room("a"), epoch(), 0, 2, NO_LIMITS);
        assert!(
            matches!(result, Err(StoreError::Corrupt(_))),
            "{spoil}: {result:?}"
        );
        let first = reader.page(&room("a"), epoch(), 0, 1, NO_LIMITS).unwrap();
        assert_eq!(
            first.publications,
            publications("a", 1..=1),
            "the rest can be read"
        );
        let good = publication("a", 2);
        sqlite
            .execute(
                "update messages set id = ?1, payload = '{\"n\":2}', created_at = ?2,
                 user_id = 'ann' where \"offset\" = 2",
                rusqlite::params![good.id.as_bytes().as_slice(), good.sent_at.0 as i64],
            )
            .unwrap();
    }
    assert_eq!(
        read_all(&mut reader, "a", 0).publications,
        publications("a", 1..=2)
    );
}

#[test]
fn a_reader_may_move_to_another_thread() {
    let dir = TempDir::new().unwrap();
    let mut store = open(&dir);
    let all = publications("a", 1..=2);
    let mut reader = store.reader().unwrap();
    store.commit(&[&all], NOW).unwrap();
    let page = std::thread::spawn(move || read_all(&mut reader, "a", 0))
        .join()
        .unwrap();
    assert_eq!(page.publications, all);
}
