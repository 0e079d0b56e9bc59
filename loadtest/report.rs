//! The figures of a run, for people and for programs.

use hdrhistogram::Histogram;
use serde_json::{Map, Value};

use crate::checker::Tally;

/// At this share of its core the load generator says that it is the bottleneck.
const OWN_BUSY_MAX: f64 = 0.9;
/// At this share of the time without a core though ready to run, it says so.
const OWN_WAIT_MAX: f64 = 0.1;

/// What a scenario found out, in the order in which it was pushed.
#[derive(Debug, Default)]
pub(crate) struct Report {
    figures: Vec<(String, Value)>,
    notes: Vec<String>,
    /// What makes the exit code 1.
    faults: Vec<String>,
}

impl Report {
    /// A report of `scenario`.
    pub(crate) fn new(scenario: &str) -> Self {
        let mut report = Self::default();
        report.push("scenario", scenario);
        report
    }

    /// Adds a figure.
    pub(crate) fn push(&mut self, name: &str, value: impl Into<Value>) {
        self.figures.push((name.into(), value.into()));
    }

    /// Adds a figure if there is one.
    pub(crate) fn push_some(&mut self, name: &str, value: Option<impl Into<Value>>) {
        if let Some(value) = value {
            self.push(name, value);
        }
    }

    /// Adds a sentence for whoever reads the figures.
    pub(crate) fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// Adds a reason for exit code 1.
    pub(crate) fn fault(&mut self, fault: impl Into<String>) {
        self.faults.push(fault.into());
    }

    /// Whether everything that had to hold held.
    pub(crate) fn is_proven(&self) -> bool {
        self.faults.is_empty()
    }

    /// The last figure of that name.
    pub(crate) fn figure(&self, name: &str) -> Option<&Value> {
        self.figures
            .iter()
            .rev()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value)
    }

    /// Adds P50, P90, P99, P99.9 and the maximum of nanoseconds, as milliseconds.
    pub(crate) fn push_latency(&mut self, name: &str, histogram: &Histogram<u64>) {
        if histogram.is_empty() {
            return;
        }
        let millis = |nanos: u64| (nanos as f64 / 1e3).round() / 1e3;
        for (suffix, quantile) in [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999)] {
            let value = histogram.value_at_quantile(quantile);
            self.push(&format!("{name}_ms_{suffix}"), millis(value));
        }
        self.push(&format!("{name}_ms_max"), millis(histogram.max()));
    }

    /// Adds what the checker counted; `refused`: publishes that got an `error`.
    pub(crate) fn push_tally(&mut self, tally: &Tally, refused: u64) {
        let figures = [
            ("received", tally.delivered),
            ("lost", tally.lost),
            ("doubled", tally.doubled),
            ("misordered", tally.misordered),
            ("misrouted", tally.misrouted),
            ("publisher_disorder", tally.publisher_disorder),
            ("publisher_holes", tally.publisher_holes),
            ("refused", refused),
            ("foreign", tally.foreign),
            ("gaps", tally.gaps),
            ("gap_offsets", tally.gap_offsets),
            ("epoch_changes", tally.epoch_changes),
        ];
        for (name, count) in figures {
            self.push(name, count);
        }
        if !tally.is_proven(refused) {
            self.fault("order is not proven, or something is lost: see the counts");
        }
    }

    /// Says how busy the load generator itself was.
    pub(crate) fn push_own_busy(&mut self, busy: f64) {
        self.push("own_busy", round(busy));
        self.push("own_is_bottleneck", busy >= OWN_BUSY_MAX);
        if busy >= OWN_BUSY_MAX {
            let percent = busy * 100.0;
            self.note(format!(
                "the load generator used {percent:.0} % of its core: rates and latencies are \
                 its own limit, figures per server-CPU-second still hold"
            ));
        }
    }

    /// Says for what share of the time it waited for a core.
    pub(crate) fn push_own_wait(&mut self, wait: f64) {
        self.push("own_wait", round(wait));
        if wait >= OWN_WAIT_MAX {
            let percent = wait * 100.0;
            self.note(format!(
                "the load generator waited for a core {percent:.0} % of the time: the latencies \
                 are in part its own, others are on its core"
            ));
        }
    }

    /// One object with all figures.
    pub(crate) fn json(&self) -> String {
        let mut all: Map<String, Value> = self.figures.iter().cloned().collect();
        all.insert("notes".into(), self.notes.clone().into());
        all.insert("faults".into(), self.faults.clone().into());
        all.insert("proven".into(), self.is_proven().into());
        Value::Object(all).to_string()
    }

    /// The table for people.
    pub(crate) fn table(&self) -> String {
        let width = self
            .figures
            .iter()
            .map(|(name, _)| name.len())
            .max()
            .unwrap_or(0);
        let mut table = String::new();
        for (name, value) in &self.figures {
            table += &format!("{:width$}  {}\n", name.replace('_', " "), readable(value));
        }
        for note in &self.notes {
            table += &format!("note: {note}\n");
        }
        for fault in &self.faults {
            table += &format!("FAULT: {fault}\n");
        }
        table
            + if self.is_proven() {
                "proven\n"
            } else {
                "NOT PROVEN\n"
            }
    }

    /// The named figures alone, tab-separated; `-` for one that is not there.
    pub(crate) fn line(&self, names: &[String]) -> String {
        let cell = |name: &String| match self.figure(name) {
            Some(Value::String(text)) => text.clone(),
            Some(value) => value.to_string(),
            None => "-".into(),
        };
        names.iter().map(cell).collect::<Vec<_>>().join("\t")
    }
}

/// Three digits behind the point are enough for any ratio.
pub(crate) fn round(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

/// The median; of an even number the mean of the middle two. `None` of nothing.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        length if length % 2 == 1 => Some(sorted[middle]),
        _ => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
    }
}

fn readable(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => {
            let text = number.to_string();
            let (whole, fraction) = text
                .split_once('.')
                .map_or((&*text, None), |(w, f)| (w, Some(f)));
            let mut grouped = String::new();
            for (i, digit) in whole.chars().enumerate() {
                if i > 0 && (whole.len() - i).is_multiple_of(3) && digit != '-' {
                    grouped.push(' ');
                }
                grouped.push(digit);
            }
            fraction.map_or(grouped.clone(), |fraction| format!("{grouped}.{fraction}"))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        for (value, expect) in [
            (1.5.into(), "1.5"),
            (1234567.into(), "1 234 567"),
            (999.into(), "999"),
        ] {
            let value: Value = value;
            assert_eq!(readable(&value), expect);
        }
    }

    #[test]
    fn medians() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0]), Some(2.5));
    }

    #[test]
    fn a_fault_shows_everywhere() {
        let mut report = Report::new("x");
        report.push_tally(
            &Tally {
                lost: 1,
                ..Tally::default()
            },
            0,
        );
        assert!(!report.is_proven());
        assert!(report.json().contains("\"proven\":false"));
        assert!(report.table().contains("NOT PROVEN"));
        assert_eq!(report.line(&["lost".into(), "none".into()]), "1\t-");
    }
}
