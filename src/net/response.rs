//! Small HTTP answers (RFC 9112, 4), whole in memory; the connection closes behind each.
//!
//! Nothing is streamed here: server-sent events write their own head.

use serde_json::json;

use super::head::HeadError;

/// The media type of JSON answers.
pub const JSON: &str = "application/json";
/// The media type of plain text.
pub const TEXT: &str = "text/plain; charset=utf-8";

/// An answer's bytes. `headers` are further ones, as name and value, without line ends.
pub fn build(status: u16, content_type: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut head = format!(
        "HTTP/1.1 {status} {}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\
         Connection: close\r\n",
        reason(status),
        body.len(),
    );
    push_headers(&mut head, headers);
    let mut answer = head.into_bytes();
    answer.extend_from_slice(body);
    answer
}

/// That what the client has is still good (RFC 9110, 15.4.5): no body, and nothing said of one.
pub fn not_modified(headers: &[(&str, &str)]) -> Vec<u8> {
    let mut head = "HTTP/1.1 304 Not Modified\r\nConnection: close\r\n".to_owned();
    push_headers(&mut head, headers);
    head.into_bytes()
}

/// Further headers, and the empty line that ends a head.
fn push_headers(head: &mut String, headers: &[(&str, &str)]) {
    for (name, value) in headers {
        assert!(
            !name.contains(['\r', '\n', ':']) && !value.contains(['\r', '\n']),
            "a header must not smuggle another: {name}"
        );
        head.extend([name, ": ", value, "\r\n"]);
    }
    head.push_str("\r\n");
}

/// An error: `{"error":{"code":…,"message":…}}` (PROTOCOL 2).
pub fn error(status: u16, code: &str, message: &str, headers: &[(&str, &str)]) -> Vec<u8> {
    let body = json!({"error": {"code": code, "message": message}}).to_string();
    build(status, JSON, headers, body.as_bytes())
}

/// The answer to a request that could not be read, or is no upgrade.
pub fn refuse(refusal: &HeadError) -> Vec<u8> {
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

    #[test]
    fn an_error_s_bytes() {
        let answer = error(503, "unavailable", "say \"again\"", &[("Retry-After", "1")]);
        assert_eq!(
            String::from_utf8(answer).unwrap(),
            "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n\
             Content-Length: 58\r\nConnection: close\r\nRetry-After: 1\r\n\r\n\
             {\"error\":{\"code\":\"unavailable\",\"message\":\"say \\\"again\\\"\"}}"
        );
    }

    #[test]
    fn a_304_says_nothing_of_a_body() {
        let answer = not_modified(&[("ETag", "\"1\"")]);
        assert_eq!(
            String::from_utf8(answer).unwrap(),
            "HTTP/1.1 304 Not Modified\r\nConnection: close\r\nETag: \"1\"\r\n\r\n"
        );
    }

    #[test]
    fn a_426_says_the_version() {
        let answer = refuse(&HeadError {
            status: 426,
            message: "no",
        });
        let answer = String::from_utf8(answer).unwrap();
        assert!(
            answer.contains("\r\nSec-WebSocket-Version: 13\r\n"),
            "{answer}"
        );
        assert!(answer.contains("\r\nUpgrade: websocket\r\n"), "{answer}");
    }
}
