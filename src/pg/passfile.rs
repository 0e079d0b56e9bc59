//! Passwords out of a file, `~/.pgpass` or `passfile`: its text -> the password of a host. No I/O.
//!
//! ```text
//! # a comment
//! host:port:database:user:password       the first four each a value or *; \: and \\ in values
//! ```
//!
//! The first line that fits counts (PostgreSQL documentation, "The Password File"). A socket's host
//! is `localhost` if its directory is the usual one, else that directory.

use super::conninfo::{Conninfo, Place, SOCKET_DIR};

/// The password that `text` has for a host of `info`.
pub fn password(text: &str, info: &Conninfo, host: usize) -> Option<String> {
    let host = info.hosts.get(host)?;
    let name = match &host.place {
        Place::Tcp(name) => name.clone(),
        Place::Unix(dir) if dir.as_os_str() == SOCKET_DIR => "localhost".to_owned(),
        Place::Unix(dir) => dir.display().to_string(),
    };
    let port = host.port.to_string();
    let wanted = [&name, &port, &info.database, &info.user];
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| of_line(line, &wanted)).find_map(|it| it)
}

/// The password of a line whose values fit.
fn of_line(line: &str, wanted: &[&String; 4]) -> Option<String> {
    let mut rest = line;
    for &wanted in wanted {
        let (value, is_any, behind) = value(rest)?;
        if !is_any && value != *wanted {
            return None;
        }
        rest = behind;
    }
    let (password, ..) = unescaped(rest, |_| false);
    (!password.is_empty()).then_some(password)
}

/// A value up to its colon, whether it stands for any, and what follows.
fn value(text: &str) -> Option<(String, bool, &str)> {
    let (value, end) = unescaped(text, |c| c == ':');
    let behind = text[end..].strip_prefix(':')?;
    Some((value, &text[..end] == "*", behind))
}

/// The text up to where `is_end` says, without its backslashes, and where that is.
fn unescaped(text: &str, is_end: impl Fn(char) -> bool) -> (String, usize) {
    let mut plain = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            c if is_end(c) => return (plain, at),
            '\\' => plain.extend(chars.next().map(|(_, c)| c)),
            c => plain.push(c),
        }
    }
    (plain, text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_that_fits_counts() {
        let text = "# db:5432:chat:me:no\n\
                    db:5432:chat:you:theirs\n\
                    d\\:b:5432:chat:me:odd\\\\host\n\
                    db:5432:chat:me:m\\:i:n\\\\e\n\
                    *:*:chat:*:any's\n\
                    localhost:*:*:me:here\n\
                    /run/other:*:*:me:there\n\
                    db:*:empty:me:\n\
                    too:few\n";
        let check = |url: &str, want: Option<&str>| {
            let info = Conninfo::parse(url, |_| None).unwrap();
            assert_eq!(password(text, &info, 0).as_deref(), want, "{url}");
        };
        check("postgres://me@db/chat", Some("m:i:n\\e"));
        check("postgres://you@db/chat", Some("theirs"));
        check("postgres://me@db:77/chat", Some("any's"));
        check("postgres://me@db/other", None);
        check("postgres://me@db/empty", None);
        check("user=me dbname=x", Some("here"));
        check("user=me dbname=x host=/run/other", Some("there"));
        check("user=you dbname=x host=/run/other", None);
        let info = Conninfo::parse("postgres://me@a,db/chat", |_| None).unwrap();
        assert_eq!(password(text, &info, 1).as_deref(), Some("m:i:n\\e"));
        assert_eq!(password(text, &info, 2), None);
    }
}
