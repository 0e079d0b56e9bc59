//! The log: one line an event, to stderr, as text or as JSON.
//!
//! Names of rooms and users come from outside, so control characters are written out on the way to
//! stderr: whatever is logged, a line stays a line and no terminal is steered. Secrets are kept out
//! by those who log; nothing here knows one.
//!
//! A line that can't be written, such as to a full disk, is counted and dropped, and the next one
//! that can says how many were: no log is worth a process.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};

use tracing::Subscriber;
use tracing_subscriber::fmt::MakeWriter;

use crate::config::LogFormat;

/// Characters of a stranger's words that a line holds.
const WORDS_MAX: usize = 200;

/// A stranger's words, as much of them as a line may hold, control characters written out. What is
/// left out shows.
pub fn cut(words: &str) -> String {
    let written = |c: char| match c.is_control() {
        true => c.escape_default().collect::<String>(),
        false => c.to_string(),
    };
    let mut line = String::new();
    let mut left = WORDS_MAX;
    for c in words.chars() {
        let piece = written(c);
        // Room for the mark.
        if piece.chars().count() + 1 > left {
            line.push('…');
            break;
        }
        left -= piece.chars().count();
        line.push_str(&piece);
    }
    line
}

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
        .with_writer(Lines {
            out,
            dropped: AtomicU64::new(0),
        });
    match format {
        LogFormat::Text => Box::new(builder.finish()),
        LogFormat::Json => Box::new(builder.json().flatten_event(true).finish()),
    }
}

/// Writers whose every write is one event, with a line end, and comes out as one line.
struct Lines<W> {
    out: W,
    /// Lines that could not be written since the last one that was.
    dropped: AtomicU64,
}

impl<'a, W: MakeWriter<'a>> MakeWriter<'a> for Lines<W> {
    type Writer = Line<'a, W::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        Line {
            out: self.out.make_writer(),
            dropped: &self.dropped,
        }
    }
}

struct Line<'a, W> {
    out: W,
    dropped: &'a AtomicU64,
}

impl<W: Write> Write for Line<'_, W> {
    /// Never an error: whoever logs would tell of it on stderr, and panic when that fails.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let dropped = self.dropped.swap(0, Ordering::Relaxed);
        let mut lines = one_line(event);
        if dropped > 0 {
            let text = format!("{dropped} lines of the log could not be written\n");
            lines.splice(..0, text.bytes());
        }
        if self.out.write_all(&lines).is_err() {
            self.dropped.fetch_add(dropped + 1, Ordering::Relaxed);
        }
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        // As with a write.
        let _ = self.out.flush();
        Ok(())
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

    /// FAULTS E11: what can't be logged is dropped, counted, and told when there is room again.
    #[test]
    fn a_full_disk_costs_lines_and_nothing_else() {
        #[derive(Clone, Default)]
        struct Full(Arc<Mutex<(u32, Vec<u8>)>>);
        impl Write for Full {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                let mut state = self.0.lock().unwrap();
                state.0 += 1;
                if (2..=4).contains(&state.0) {
                    return Err(io::ErrorKind::StorageFull.into());
                }
                state.1.extend(bytes);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let full = Full::default();
        let out = full.clone();
        let out = subscriber(LogFormat::Text, tracing::Level::INFO, move || out.clone());
        tracing::subscriber::with_default(out, || {
            (1..=6).for_each(|n| tracing::info!("line {n}"));
        });
        let text = String::from_utf8(full.0.lock().unwrap().1.clone()).unwrap();
        let ends: Vec<_> = text.lines().map(|line| &line[line.len() - 7..]).collect();
        assert_eq!(ends, [" line 1", "written", " line 5", " line 6"], "{text}");
        assert!(text.contains("\n3 lines of the log could not be written\n"));
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
    fn words_of_strangers_are_cut() {
        assert_eq!(cut("GET /"), "GET /");
        assert_eq!(cut("a\u{1b}[2J\r\n"), "a\\u{1b}[2J\\r\\n");
        for long in ["é".repeat(5_000), "\0".repeat(5_000)] {
            let line = cut(&long);
            assert!(
                line.ends_with('…') && line.chars().count() <= WORDS_MAX,
                "{line}"
            );
        }
        let whole = "x".repeat(WORDS_MAX - 1);
        assert_eq!(cut(&whole), whole);
    }

    #[test]
    fn the_level_leaves_out_what_is_below() {
        let text = logged(LogFormat::Text, tracing::Level::ERROR, hostile);
        assert_eq!(text, "");
        let text = logged(LogFormat::Text, tracing::Level::TRACE, hostile);
        assert_eq!(text.lines().count(), 3);
    }
}
