//! The log: one line an event, to stderr, as text or as JSON.
//!
//! Names of rooms and users come from outside, so control characters are written out on the way to
//! stderr: whatever is logged, a line stays a line and no terminal is steered. Secrets are kept out
//! by those who log; nothing here knows one.

use std::io::{self, Write};

use tracing::Subscriber;
use tracing_subscriber::fmt::MakeWriter;

use crate::config::LogFormat;

/// Starts the log of this process. A second call changes nothing.
pub fn start(format: LogFormat, level: tracing::Level) {
    // Refused only if there is a log already, and then that one stays.
    let _ = tracing::subscriber::set_global_default(subscriber(format, level, io::stderr));
}

fn subscriber<W>(
    format: LogFormat,
    level: tracing::Level,
    out: W,
) -> Box<dyn Subscriber + Send + Sync>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let builder = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_ansi(false)
        .with_writer(Lines(out));
    match format {
        LogFormat::Text => Box::new(builder.finish()),
        LogFormat::Json => Box::new(builder.json().flatten_event(true).finish()),
    }
}

/// Writers whose every write is one event, with a line end, and comes out as one line.
struct Lines<W>(W);

impl<'a, W: MakeWriter<'a>> MakeWriter<'a> for Lines<W> {
    type Writer = Line<W::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        Line(self.0.make_writer())
    }
}

struct Line<W>(W);

impl<W: Write> Write for Line<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        self.0.write_all(&one_line(event)).map(|()| event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// The event with its control characters (C0, DEL, C1) as JSON writes them, but its last line end.
fn one_line(event: &[u8]) -> Vec<u8> {
    let event = event.strip_suffix(b"\n").unwrap_or(event);
    let mut line = String::with_capacity(event.len() + 1);
    for c in String::from_utf8_lossy(event).chars() {
        match c {
            '\n' => line.push_str("\\n"),
            '\r' => line.push_str("\\r"),
            '\t' => line.push_str("\\t"),
            c if c.is_control() => line.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => line.push(c),
        }
    }
    line.push('\n');
    line.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    /// What `log` logs.
    fn logged(format: LogFormat, level: tracing::Level, log: impl FnOnce()) -> String {
        #[derive(Clone, Default)]
        struct Kept(Arc<Mutex<Vec<u8>>>);
        impl Write for Kept {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.lock().unwrap().extend(bytes);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let kept = Kept::default();
        let out = kept.clone();
        let subscriber = subscriber(format, level, move || out.clone());
        tracing::subscriber::with_default(subscriber, log);
        let bytes = kept.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    const HOSTILE: &str = "a\r\nERROR forged\t\u{1b}[2J\u{7f}\u{9b}\0é";

    fn hostile() {
        tracing::warn!(room = HOSTILE, "refused {HOSTILE}");
        tracing::info!(room = %HOSTILE, "again");
        tracing::debug!("below the level");
    }

    #[test]
    fn text_is_one_line_an_event_without_control_characters() {
        let text = logged(LogFormat::Text, tracing::Level::INFO, hostile);
        assert_eq!(text.lines().count(), 2, "{text:?}");
        assert!(
            text.lines().all(|line| !line.contains(char::is_control)),
            "{text:?}"
        );
        assert!(text.contains("é") && text.contains("WARN"), "{text:?}");
    }

    #[test]
    fn json_is_one_object_a_line_that_keeps_the_text() {
        let text = logged(LogFormat::Json, tracing::Level::INFO, hostile);
        assert_eq!(text.lines().count(), 2, "{text:?}");
        for line in text.lines() {
            assert!(!line.contains(char::is_control), "{line:?}");
            let event: serde_json::Value = serde_json::from_str(line).unwrap();
            assert_eq!(event["room"], HOSTILE, "{line}");
            assert!(event["level"].is_string() && event["message"].is_string());
        }
    }

    #[test]
    fn the_level_leaves_out_what_is_below() {
        let text = logged(LogFormat::Text, tracing::Level::ERROR, hostile);
        assert_eq!(text, "");
        let text = logged(LogFormat::Text, tracing::Level::TRACE, hostile);
        assert_eq!(text.lines().count(), 3);
    }
}
