//! Commands, written straight into the buffer that is sent: an array of bulk strings (RESP2 and
//! RESP3 alike). Nothing is allocated but what the buffer grows by.
//!
//! ```text
//! *3 CRLF $3 CRLF SET CRLF $1 CRLF k CRLF $1 CRLF v CRLF
//! ```

/// Appends a command that is at hand as a whole.
pub fn push_command(out: &mut Vec<u8>, args: &[&[u8]]) {
    let mut command = Command::new(out, args.len());
    for arg in args {
        command.arg(arg);
    }
}

/// Appends a command argument by argument. As many must follow as were announced: a debug build
/// asserts it when this is dropped.
pub struct Command<'a> {
    out: &'a mut Vec<u8>,
    left: usize,
}

impl<'a> Command<'a> {
    /// Begins a command of `argc` arguments, its name included.
    pub fn new(out: &'a mut Vec<u8>, argc: usize) -> Self {
        push_length(out, b'*', argc as u64);
        Self { out, left: argc }
    }

    /// One argument.
    pub fn arg(&mut self, arg: &[u8]) -> &mut Self {
        self.count();
        push_length(self.out, b'$', arg.len() as u64);
        self.out.extend_from_slice(arg);
        self.out.extend_from_slice(b"\r\n");
        self
    }

    /// One argument, in decimal digits.
    pub fn number(&mut self, number: u64) -> &mut Self {
        let mut digits = [0; DIGITS_MAX];
        let start = write_digits(&mut digits, number);
        self.arg(&digits[start..])
    }

    fn count(&mut self) {
        debug_assert!(self.left > 0, "more arguments than announced");
        self.left = self.left.saturating_sub(1);
    }
}

impl Drop for Command<'_> {
    fn drop(&mut self) {
        debug_assert!(self.left == 0, "{} arguments are missing", self.left);
    }
}

/// Digits of `u64::MAX`.
const DIGITS_MAX: usize = 20;

fn push_length(out: &mut Vec<u8>, kind: u8, length: u64) {
    // Nearly all are this short.
    if length < 100 {
        let digits = [b'0' + (length / 10) as u8, b'0' + (length % 10) as u8];
        match digits {
            [b'0', digit] => out.extend_from_slice(&[kind, digit, b'\r', b'\n']),
            [ten, digit] => out.extend_from_slice(&[kind, ten, digit, b'\r', b'\n']),
        }
        return;
    }
    let mut digits = [0; DIGITS_MAX];
    let start = write_digits(&mut digits, length);
    out.push(kind);
    out.extend_from_slice(&digits[start..]);
    out.extend_from_slice(b"\r\n");
}

/// Writes `number` to the end of `digits`; returns where it starts.
fn write_digits(digits: &mut [u8; DIGITS_MAX], mut number: u64) -> usize {
    let mut start = DIGITS_MAX;
    loop {
        start -= 1;
        digits[start] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return start;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_arrays_of_bulk_strings() {
        let check = |args: &[&[u8]], want: &str| {
            let mut out = b"before".to_vec();
            push_command(&mut out, args);
            assert_eq!(out.escape_ascii().to_string(), format!("before{want}"));
        };
        check(&[b"PING"], r"*1\r\n$4\r\nPING\r\n");
        check(&[b"GET", b""], r"*2\r\n$3\r\nGET\r\n$0\r\n\r\n");
        check(&[b"A", b"\xff\r\n"], r"*2\r\n$1\r\nA\r\n$3\r\n\xff\r\n\r\n");
        let long = [b'x'; 12_345];
        let mut out = Vec::new();
        push_command(&mut out, &[&long]);
        assert!(out.starts_with(b"*1\r\n$12345\r\nxx") && out.len() == 4 + 8 + 12_347);
    }

    #[test]
    fn numbers_are_decimal() {
        for number in [0, 7, 10, 99, 100, 1 << 53, u64::MAX] {
            let mut out = Vec::new();
            Command::new(&mut out, 2).arg(b"X").number(number);
            let digits = number.to_string();
            let want = format!("*2\r\n$1\r\nX\r\n${}\r\n{digits}\r\n", digits.len());
            assert_eq!(String::from_utf8(out).unwrap(), want);
        }
    }

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "1 arguments are missing")]
    fn a_command_is_whole() {
        Command::new(&mut Vec::new(), 2).arg(b"X");
    }
}
