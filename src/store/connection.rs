//! Opening the database: connections with their settings, and the schema.
//!
//! It looks before it touches: a file that is not ours, or newer than we are, is refused as it is.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use super::OpenError;
use crate::model::Epoch;

/// The version of `schema.sql`, kept in `PRAGMA user_version`; 0 is an empty file.
pub(super) const SCHEMA_VERSION: i64 = 1;
/// "ring", kept in `PRAGMA application_id`: tells our file from any other SQLite database.
const APPLICATION_ID: i64 = 0x7269_6e67;
/// How long a connection waits for another program's lock; below the 5 s after which a publish
/// by HTTP is answered `unavailable`.
const BUSY_TIMEOUT: Duration = Duration::from_secs(4);
/// KiB of pages that the writer keeps: the inner pages of the keys and the rooms in use.
const WRITER_CACHE_KIB: i64 = 32 * 1024;
/// KiB of pages that each reader keeps.
const READER_CACHE_KIB: i64 = 8 * 1024;
/// Pages (of 4 KiB) in the WAL before a commit moves them into the database: fewer, larger
/// checkpoints than SQLite's 1000, as many small commits rewrite the same pages.
const CHECKPOINT_PAGES: i64 = 4000;
/// Bytes that the WAL's file keeps after a checkpoint.
const WAL_BYTES_KEPT: i64 = 64 * 1024 * 1024;

/// Opens the database for writing, makes its schema if it is new, and says its epoch.
pub(super) fn open_writer(file: &Path, fresh: Epoch) -> Result<(Connection, Epoch), OpenError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let failed = |error: rusqlite::Error| OpenError::Database {
        file: file.to_owned(),
        source: error.into(),
    };
    let mut connection = Connection::open_with_flags(file, flags).map_err(failed)?;
    harden(&connection).map_err(failed)?;
    let is_new = check_identity(&connection, file)?;
    let mode: String = connection
        .pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0))
        .map_err(failed)?;
    if mode != "wal" {
        return Err(OpenError::NoWal {
            file: file.to_owned(),
            mode,
        });
    }
    for (pragma, value) in [
        ("synchronous", 2), // FULL: the WAL is synced by every commit.
        ("cache_size", -WRITER_CACHE_KIB),
        ("wal_autocheckpoint", CHECKPOINT_PAGES),
        ("journal_size_limit", WAL_BYTES_KEPT),
    ] {
        set(&connection, pragma, value).map_err(failed)?;
    }
    if is_new {
        create_schema(&mut connection, fresh).map_err(failed)?;
    }
    let epoch = read_epoch(&connection).map_err(failed)?;
    Ok((connection, epoch))
}

/// Opens the database, which must be there, for reading only.
pub(super) fn open_reader(file: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(file, flags)?;
    harden(&connection)?;
    set(&connection, "cache_size", -READER_CACHE_KIB)?;
    Ok(connection)
}

/// What every connection needs: patience, and distrust of what may stand in the file.
fn harden(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, false)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DML, false)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DDL, false)?;
    Ok(())
}

/// Whether the database is new (empty); an error if it is not ours or too new.
fn check_identity(connection: &Connection, file: &Path) -> Result<bool, OpenError> {
    let query = |sql: &str| {
        connection
            .query_row(sql, [], |row| row.get::<_, i64>(0))
            .map_err(|error| OpenError::Database {
                file: file.to_owned(),
                source: error.into(),
            })
    };
    let file: PathBuf = file.to_owned();
    let version = query("pragma user_version")?;
    match query("pragma application_id")? {
        APPLICATION_ID if version > SCHEMA_VERSION => Err(OpenError::Newer {
            file,
            found: version,
            known: SCHEMA_VERSION,
        }),
        APPLICATION_ID => Ok(false),
        0 if version == 0 && query("select count(*) from sqlite_schema")? == 0 => Ok(true),
        _ => Err(OpenError::Foreign { file }),
    }
}

/// Makes tables, views and identity in one transaction: a start cut short leaves an empty file.
fn create_schema(connection: &mut Connection, epoch: Epoch) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute_batch(include_str!("schema.sql"))?;
    transaction.execute(
        "insert into state (only_row, epoch) values (1, ?1)",
        [epoch.as_str()],
    )?;
    set(&transaction, "application_id", APPLICATION_ID)?;
    set(&transaction, "user_version", SCHEMA_VERSION)?;
    transaction.commit()
}

fn read_epoch(connection: &Connection) -> rusqlite::Result<Epoch> {
    connection.query_row("select epoch from state", [], |row| {
        super::reader::epoch_of(row, 0)
    })
}

fn set(connection: &Connection, pragma: &str, value: i64) -> rusqlite::Result<()> {
    connection.pragma_update(None, pragma, value)
}
