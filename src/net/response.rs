//! Small HTTP answers (RFC 9112, 4), whole in memory.
//!
//! An answer says what it is; how it goes out is said when it is written ([`Delivery`]): to HEAD
//! without its body, and with or without the connection ending behind it. What is
//! streamed behind a head ([`stream`]) is another's.
//!
//! Invariant: what is written ends where its Content-Length says, or has no body by its status
//! (RFC 9112, 6.3), so that another answer may follow.

use serde_json::json;

use super::head::HeadError;

/// The media type of JSON answers.
pub const JSON: &str = "application/json";
/// The media type of plain text.
pub const TEXT: &str = "text/plain; charset=utf-8";

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    status: u16,
    /// Field lines of the content; none: nothing is said of one.
    content: Option<(String, Vec<u8>)>,
    /// Further field lines.
    headers: String,
}

/// How an answer goes out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delivery {
    /// The connection ends behind it.
    pub closes: bool,
    /// It answers HEAD: all is said of the body, and none is sent (RFC 9110, 9.3.2).
    pub is_head: bool,
}

impl Response {
    /// Its status.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// Adds a header.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        assert!(
            !name.contains(['\r', '\n', ':']) && !value.contains(['\r', '\n']),
            "a header must not smuggle another: {name}"
        );
        self.headers.extend([name, ": ", value, "\r\n"]);
        self
    }

    /// Appends its bytes.
    pub fn write(&self, out: &mut Vec<u8>, delivery: Delivery) {
        let status = self.status;
        let mut head = format!("HTTP/1.1 {status} {}\r\n", reason(status));
        if let Some((lines, _)) = &self.content {
            head.push_str(lines);
        }
        if delivery.closes {
            head.push_str("Connection: close\r\n");
        }
        head.push_str(&self.headers);
        head.push_str("\r\n");
        out.extend_from_slice(head.as_bytes());
        if let Some((_, body)) = &self.content
            && !delivery.is_head
        {
            out.extend_from_slice(body);
        }
    }

    /// Its bytes, as the last answer of a connection.
    pub fn last(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let delivery = Delivery {
            closes: true,
            is_head: false,
        };
        self.write(&mut bytes, delivery);
        bytes
    }
}

/// An answer with a body. `headers` are further ones, as name and value, without line ends.
pub fn build(status: u16, content_type: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
    let length = body.len();
    let lines = format!("Content-Type: {content_type}\r\nContent-Length: {length}\r\n");
    let response = Response {
        status,
        content: Some((lines, body.to_vec())),
        headers: String::new(),
    };
    with_all(response, headers)
}

/// The head of an answer whose body is streamed behind it, and ends with the connection.
pub fn stream(content_type: &str, headers: &[(&str, &str)]) -> Response {
    let response = Response {
        status: 200,
        content: Some((format!("Content-Type: {content_type}\r\n"), Vec::new())),
        headers: String::new(),
    };
    with_all(response, headers)
}

/// An answer of a status that has no body: 204, or 304 (what the client has is still good; RFC
/// 9110, 15.4.5).
pub fn without_body(status: u16, headers: &[(&str, &str)]) -> Response {
    assert!(matches!(status, 204 | 304), "{status} has a body");
    let response = Response {
        status,
        content: None,
        headers: String::new(),
    };
    with_all(response, headers)
}

fn with_all(response: Response, headers: &[(&str, &str)]) -> Response {
    let with = |response: Response, (name, value): &(&str, &str)| response.with(name, value);
    headers.iter().fold(response, with)
}

/// An error: `{"error":{"code":…,"message":…}}` (PROTOCOL 2).
pub fn error(status: u16, code: &str, message: &str, headers: &[(&str, &str)]) -> Response {
    let body = json!({"error": {"code": code, "message": message}}).to_string();
    build(status, JSON, headers, body.as_bytes())
}

/// The answer to a request that could not be read, or is no upgrade.
pub fn refuse(refusal: &HeadError) -> Response {
    let code = match refusal.status {
        413 | 414 | 431 => "too_large",
        401 => "unauthorized",
        403 => "forbidden",
        _ => "bad_request",
    };
    // RFC 6455, 4.2.2, and RFC 9110, 15.5.22: say what would be taken.
    let wanted = [("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")];
    let headers = if refusal.status == 426 {
        &wanted[..]
    } else {
        &[]
    };
    error(refusal.status, code, refusal.message, headers)
}

/// The reason phrase of the statuses that are given here.
fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        304 => "Not Modified",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        411 => "Length Required",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "-",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(response: &Response, delivery: Delivery) -> String {
        let mut bytes = Vec::new();
        response.write(&mut bytes, delivery);
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn an_error_s_bytes() {
        let answer = error(503, "unavailable", "say \"again\"", &[("Retry-After", "1")]);
        assert_eq!(answer.status(), 503);
        assert_eq!(
            String::from_utf8(answer.last()).unwrap(),
            "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n\
             Content-Length: 58\r\nConnection: close\r\nRetry-After: 1\r\n\r\n\
             {\"error\":{\"code\":\"unavailable\",\"message\":\"say \\\"again\\\"\"}}"
        );
    }

    #[test]
    fn how_it_goes_out_is_said_when_it_is_written() {
        let answer = build(200, TEXT, &[("A", "b")], b"body").with("C", "d");
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\n\
                    Content-Length: 4\r\n";
        for (closes, is_head) in [(false, false), (true, false), (false, true), (true, true)] {
            let close = ["", "Connection: close\r\n"][usize::from(closes)];
            let body = ["body", ""][usize::from(is_head)];
            assert_eq!(
                text(&answer, Delivery { closes, is_head }),
                format!("{head}{close}A: b\r\nC: d\r\n\r\n{body}")
            );
        }
    }

    #[test]
    fn a_304_says_nothing_of_a_body() {
        let answer = without_body(304, &[("ETag", "\"1\"")]);
        assert_eq!(
            text(&answer, Delivery::default()),
            "HTTP/1.1 304 Not Modified\r\nETag: \"1\"\r\n\r\n"
        );
    }

    #[test]
    fn a_426_says_the_version() {
        let answer = refuse(&HeadError {
            status: 426,
            message: "no",
        });
        let answer = text(&answer, Delivery::default());
        assert!(
            answer.contains("\r\nSec-WebSocket-Version: 13\r\n"),
            "{answer}"
        );
        assert!(answer.contains("\r\nUpgrade: websocket\r\n"), "{answer}");
    }
}
