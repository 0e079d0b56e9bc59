//! What an error of PostgreSQL means, and what mends it.
//!
//! An error bears a SQLSTATE (documentation, appendix A): five characters, whose first two are its
//! class. What to do hangs on it and never on the text, which is in the server's language.

use std::fmt;

/// The kinds of errors that lead to different things.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// It can't be reached, has closed the connection, or is shutting down.
    Away,
    /// It has not answered in time, or has not ended what it was told to cancel.
    Silent,
    /// It is starting up, or recovering.
    Starting,
    /// `max_connections` (or the role's, the database's limit) is reached.
    TooManyConnections,
    /// The user or the password is wrong, or `pg_hba.conf` does not let it in.
    Login,
    /// TLS is wanted and not to be had, or the other way round, or its certificate is not trusted.
    Tls,
    /// There is no such database.
    NoDatabase,
    /// The user may not do that.
    NoRight,
    /// It takes no writes: a standby, or `default_transaction_read_only`.
    ReadOnly,
    /// Two transactions stood in each other's way: the same again, at once.
    Deadlock,
    /// A lock was not to be had within `lock_timeout`.
    LockTimeout,
    /// It took longer than `statement_timeout`, or was cancelled.
    Cancelled,
    /// The disk is full.
    DiskFull,
    /// It lacks memory or something else that passes.
    Overloaded,
    /// A table, a column or an index is not there, or of another type than it should be.
    Schema,
    /// A row has a key that is there already.
    Duplicate,
    /// A value can't be stored: this row can't, others may.
    Data,
    /// An earlier statement of the transaction has failed.
    InFailedTransaction,
    /// The server itself is in trouble: I/O errors, corrupt files, bugs.
    Broken,
    /// It does not speak the protocol as it should.
    Protocol,
    /// Anything else: a statement that it does not take.
    Other,
}

/// What a caller does about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Remedy {
    /// The same again, at once.
    RetryNow,
    /// The same again after a pause: it passes by itself.
    RetryLater,
    /// The same again after a pause, on a new connection.
    Reconnect,
    /// An operator must mend it; the same again after a pause until then.
    Operator,
    /// The row is to blame: find it and set it aside.
    SetAside,
    /// The row is there already.
    Known,
    /// End the transaction, and look at what failed first.
    RollBack,
}

impl Cause {
    /// The cause of a SQLSTATE.
    pub fn of_sqlstate(state: &str) -> Self {
        match state {
            "57P03" => Self::Starting,
            "57014" => Self::Cancelled,
            "53300" => Self::TooManyConnections,
            "53100" => Self::DiskFull,
            "25006" => Self::ReadOnly,
            "25P02" => Self::InFailedTransaction,
            // The server ends the connection with these.
            "25P03" | "57P01" | "57P02" | "57P05" => Self::Away,
            "57P04" | "3D000" => Self::NoDatabase,
            "55P03" => Self::LockTimeout,
            "40001" | "40P01" => Self::Deadlock,
            "42501" => Self::NoRight,
            "23505" => Self::Duplicate,
            "08P01" => Self::Protocol,
            // A table, column, function, schema, type or parameter that is not there; a column of
            // another type. In binary no text can be blamed for its form: 22P03 is the column's.
            "42P01" | "42703" | "42883" | "42704" | "3F000" | "42804" | "42P10" | "42P16"
            | "42809" | "22P03" | "22P04" | "42846" | "42611" => Self::Schema,
            _ => match state.get(..2).unwrap_or_default() {
                "08" => Self::Away,
                "28" => Self::Login,
                "53" => Self::Overloaded,
                "22" | "23" | "54" => Self::Data,
                "40" => Self::Deadlock,
                "58" | "XX" | "F0" => Self::Broken,
                _ => Self::Other,
            },
        }
    }

    /// What a caller does about it.
    pub fn remedy(self) -> Remedy {
        match self {
            Self::Away | Self::Silent | Self::Starting | Self::Protocol => Remedy::Reconnect,
            Self::Deadlock => Remedy::RetryNow,
            Self::LockTimeout | Self::Cancelled | Self::Overloaded => Remedy::RetryLater,
            Self::TooManyConnections => Remedy::Reconnect,
            Self::Login
            | Self::Tls
            | Self::NoDatabase
            | Self::NoRight
            | Self::ReadOnly
            | Self::DiskFull
            | Self::Schema
            | Self::Broken
            | Self::Other => Remedy::Operator,
            Self::Duplicate => Remedy::Known,
            Self::Data => Remedy::SetAside,
            Self::InFailedTransaction => Remedy::RollBack,
        }
    }

    /// A word for metrics and logs.
    pub fn word(self) -> &'static str {
        match self {
            Self::Away => "away",
            Self::Silent => "silent",
            Self::Starting => "starting",
            Self::TooManyConnections => "too_many_connections",
            Self::Login => "login",
            Self::Tls => "tls",
            Self::NoDatabase => "no_database",
            Self::NoRight => "no_right",
            Self::ReadOnly => "read_only",
            Self::Deadlock => "deadlock",
            Self::LockTimeout => "lock_timeout",
            Self::Cancelled => "cancelled",
            Self::DiskFull => "disk_full",
            Self::Overloaded => "overloaded",
            Self::Schema => "schema",
            Self::Duplicate => "duplicate",
            Self::Data => "data",
            Self::InFailedTransaction => "in_failed_transaction",
            Self::Broken => "broken",
            Self::Protocol => "protocol",
            Self::Other => "other",
        }
    }

    /// What it is and what mends it.
    fn text(self) -> &'static str {
        match self {
            Self::Away => "PostgreSQL is away: it is tried again until it is back",
            Self::Silent => {
                "PostgreSQL does not answer: is it stopped, overloaded, or its disk stuck? It is \
                 tried again"
            }
            Self::Starting => "PostgreSQL is starting up: it will be there when it has",
            Self::TooManyConnections => {
                "PostgreSQL has as many connections as it takes: raise its max_connections, or \
                 let others have fewer (--postgres-pool)"
            }
            Self::Login => {
                "PostgreSQL does not let this user in: set user and password right in \
                 POSTGRES_URL (%-encoded there) or PGPASSWORD, and look at pg_hba.conf"
            }
            Self::Tls => {
                "TLS with PostgreSQL can't be had as sslmode asks for it: set sslmode and \
                 sslrootcert right, or ssl=on there"
            }
            Self::NoDatabase => {
                "there is no such database: create it (createdb), or name another in POSTGRES_URL"
            }
            Self::NoRight => {
                "the PostgreSQL user may not do this: GRANT it what it needs on the tables, or run \
                 `ringcast migrate` as their owner"
            }
            Self::ReadOnly => {
                "this PostgreSQL takes no writes: it is a standby or read-only. Give the primary's \
                 address, or several hosts and target_session_attrs=read-write"
            }
            Self::Deadlock => "two transactions stood in each other's way: it is tried again",
            Self::LockTimeout => {
                "something else holds a lock on the table: it is tried again (pg_locks says what)"
            }
            Self::Cancelled => {
                "the statement took too long or was cancelled: it is tried again; look for what \
                 slows PostgreSQL down"
            }
            Self::DiskFull => "the disk of PostgreSQL is full: free or enlarge it",
            Self::Overloaded => "PostgreSQL lacks memory or the like: it is tried again",
            Self::Schema => {
                "the tables are not as they should be: run `ringcast migrate`, and undo what was \
                 changed by hand"
            }
            Self::Duplicate => "the row is there already",
            Self::Data => "PostgreSQL can't store this value",
            Self::InFailedTransaction => "an earlier statement of the transaction has failed",
            Self::Broken => "PostgreSQL is in trouble itself: its log says more",
            Self::Protocol => {
                "what answers is not PostgreSQL, or a proxy that changes what it says: is the \
                 port right?"
            }
            Self::Other => "PostgreSQL refuses",
        }
    }
}

/// An error or a notice of PostgreSQL; or of the way to it, and then without a SQLSTATE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What kind it is.
    pub cause: Cause,
    /// Five characters; empty where it is not PostgreSQL's own.
    pub sqlstate: String,
    /// `ERROR`, `FATAL`, `PANIC`; of notices `WARNING`, `NOTICE` …; not translated.
    pub severity: String,
    /// What it says.
    pub message: String,
    /// More of it.
    pub detail: Option<String>,
    /// What it proposes.
    pub hint: Option<String>,
    /// Where in what was run: `COPY messages, line 5, column payload: …`.
    pub context: Option<String>,
    /// The table.
    pub table: Option<String>,
    /// The column.
    pub column: Option<String>,
    /// The constraint.
    pub constraint: Option<String>,
}

impl Refusal {
    /// A failure of the way to PostgreSQL: no SQLSTATE; `message` says what was seen.
    pub fn of_way(cause: Cause, message: impl Into<String>) -> Self {
        Self {
            cause,
            sqlstate: String::new(),
            severity: "FATAL".into(),
            message: message.into(),
            detail: None,
            hint: None,
            context: None,
            table: None,
            column: None,
            constraint: None,
        }
    }

    /// The refusal of fields as they come: type and value (documentation, "Error and Notice Message
    /// Fields").
    pub(super) fn of_fields(fields: impl Iterator<Item = (u8, Vec<u8>)>) -> Self {
        let mut refusal = Self::of_way(Cause::Other, "");
        for (kind, value) in fields {
            let text = || clipped(&value);
            match kind {
                // V is never translated, and of 9.6 and later.
                b'S' if refusal.severity == "FATAL" => refusal.severity = text(),
                b'V' => refusal.severity = text(),
                b'C' => refusal.sqlstate = text(),
                b'M' => refusal.message = text(),
                b'D' => refusal.detail = Some(text()),
                b'H' => refusal.hint = Some(text()),
                b'W' => refusal.context = Some(text()),
                b't' => refusal.table = Some(text()),
                b'c' => refusal.column = Some(text()),
                b'n' => refusal.constraint = Some(text()),
                _ => {}
            }
        }
        refusal.cause = Cause::of_sqlstate(&refusal.sqlstate);
        refusal
    }

    /// Whether the server ends the connection with it.
    pub fn is_fatal(&self) -> bool {
        matches!(self.severity.as_str(), "FATAL" | "PANIC")
    }

    /// The number of the row that a COPY failed at, from 1 on, if it is told.
    ///
    /// The context is translated where `lc_messages` is, but for its numbers: `COPY messages, line
    /// 5, column payload`. Only to begin a search by.
    pub fn copy_line(&self) -> Option<u64> {
        let mut lines = self.context.as_deref()?.lines();
        let rest = lines.find_map(|line| line.strip_prefix("COPY "))?;
        let digits = rest.split(", ").nth(1)?;
        let digits = digits.rsplit(' ').next()?;
        digits.trim_end_matches(':').parse().ok()
    }

    /// One line for the log: cause, remedy, and how PostgreSQL put it.
    pub fn explain(&self) -> String {
        let mut said = String::new();
        if !self.sqlstate.is_empty() {
            said = format!("{}: ", self.sqlstate);
        }
        said.push_str(&self.message);
        let more = [("", &self.detail), ("column ", &self.column)];
        let more = more.into_iter().chain([("constraint ", &self.constraint)]);
        for (word, text) in more.filter_map(|(word, text)| Some((word, text.as_ref()?))) {
            said.push_str("; ");
            said.push_str(word);
            said.push_str(text);
        }
        let said = said.chars().take(TEXT_CHARS_MAX).collect::<String>();
        format!("{} ({})", self.cause.text(), said.escape_debug())
    }
}

/// Characters of PostgreSQL's text in a line for the log.
const TEXT_CHARS_MAX: usize = 300;
/// Bytes of a field that are kept.
const FIELD_BYTES_MAX: usize = 2048;

fn clipped(value: &[u8]) -> String {
    let value = &value[..value.len().min(FIELD_BYTES_MAX)];
    String::from_utf8_lossy(value).into_owned()
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.explain())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_done_about_errors() {
        use Cause as C;
        use Remedy as R;
        for (state, cause, remedy) in [
            ("57P03", C::Starting, R::Reconnect),
            ("57P01", C::Away, R::Reconnect),
            ("08006", C::Away, R::Reconnect),
            ("08P01", C::Protocol, R::Reconnect),
            ("53300", C::TooManyConnections, R::Reconnect),
            ("53100", C::DiskFull, R::Operator),
            ("53200", C::Overloaded, R::RetryLater),
            ("28P01", C::Login, R::Operator),
            ("28000", C::Login, R::Operator),
            ("3D000", C::NoDatabase, R::Operator),
            ("42501", C::NoRight, R::Operator),
            ("25006", C::ReadOnly, R::Operator),
            ("40P01", C::Deadlock, R::RetryNow),
            ("40001", C::Deadlock, R::RetryNow),
            ("55P03", C::LockTimeout, R::RetryLater),
            ("57014", C::Cancelled, R::RetryLater),
            ("42P01", C::Schema, R::Operator),
            ("42703", C::Schema, R::Operator),
            ("22P03", C::Schema, R::Operator),
            ("22P05", C::Data, R::SetAside),
            ("22021", C::Data, R::SetAside),
            ("22001", C::Data, R::SetAside),
            ("22003", C::Data, R::SetAside),
            ("23502", C::Data, R::SetAside),
            ("54001", C::Data, R::SetAside),
            ("54000", C::Data, R::SetAside),
            ("23505", C::Duplicate, R::Known),
            ("25P02", C::InFailedTransaction, R::RollBack),
            ("58030", C::Broken, R::Operator),
            ("XX001", C::Broken, R::Operator),
            ("42601", C::Other, R::Operator),
            ("", C::Other, R::Operator),
            ("é", C::Other, R::Operator),
        ] {
            let found = C::of_sqlstate(state);
            assert_eq!((found, found.remedy()), (cause, remedy), "{state}");
        }
    }

    #[test]
    fn fields_are_read_and_explained_in_one_line() {
        let long = "x".repeat(10_000);
        let fields: [(u8, &[u8]); 8] = [
            (b'S', b"FEHLER"),
            (b'V', b"ERROR"),
            (b'C', b"22P05"),
            (b'M', b"unsupported\nUnicode escape \xff"),
            (b'D', b"\\u0000 cannot be converted to text."),
            (
                b'W',
                b"JSON data, line 1: \"\\u0000...\nCOPY messages, line 5, column payload",
            ),
            (b'c', b"payload"),
            (b'H', long.as_bytes()),
        ];
        let refusal =
            Refusal::of_fields(fields.into_iter().map(|(kind, text)| (kind, text.to_vec())));
        assert_eq!(refusal.cause, Cause::Data);
        assert_eq!(refusal.copy_line(), Some(5));
        assert!(!refusal.is_fatal());
        assert_eq!(refusal.column.as_deref(), Some("payload"));
        assert!(refusal.hint.as_ref().is_some_and(|hint| hint.len() < 3000));
        let line = refusal.explain();
        assert!(
            line.contains("22P05: unsupported\\nUnicode escape"),
            "{line}"
        );
        assert!(!line.contains('\n') && line.len() < 800, "{line}");
    }
}
