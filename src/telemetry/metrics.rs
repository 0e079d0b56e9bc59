//! The text format of Prometheus (exposition format 0.0.4), written.
//!
//! ```text
//! # HELP name what it is, with \\ and \n
//! # TYPE name counter | gauge | histogram
//! name{label="value with \\, \" and \n"} 17
//! ```
//!
//! Values come in; nothing here counts. Names and labels are ours, so a bad one is a bug of ours
//! and asserts.

use std::fmt::{self, Write as _};

/// The `Content-Type` of the text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Labels: names and values.
pub type Labels<'a> = &'a [(&'a str, &'a str)];

/// A sample's number: counts stay whole however large they grow.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    /// A count.
    Count(u64),
    /// A measure.
    Measure(f64),
}

impl From<u64> for Value {
    fn from(count: u64) -> Self {
        Self::Count(count)
    }
}

impl From<f64> for Value {
    fn from(measure: f64) -> Self {
        Self::Measure(measure)
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Count(count) => write!(f, "{count}"),
            Self::Measure(f64::INFINITY) => f.write_str("+Inf"),
            Self::Measure(f64::NEG_INFINITY) => f.write_str("-Inf"),
            Self::Measure(measure) => write!(f, "{measure}"),
        }
    }
}

/// What a family is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows; its name ends in `_total`.
    Counter,
    /// Goes up and down.
    Gauge,
}

/// A histogram's state. Invariant: `counts.len() == bounds.len() + 1`.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    /// The upper bounds of the buckets, rising; the last bucket has none.
    pub bounds: &'static [f64],
    /// What fell into each bucket (not summed up), the last one included.
    pub counts: Vec<u64>,
    /// The sum of all that was measured.
    pub sum: f64,
}

impl Histogram {
    /// An empty one.
    pub fn new(bounds: &'static [f64]) -> Self {
        Self {
            bounds,
            counts: vec![0; bounds.len() + 1],
            sum: 0.0,
        }
    }

    /// Counts one measure.
    pub fn record(&mut self, measure: f64) {
        let bucket = self.bounds.partition_point(|&bound| bound < measure);
        self.counts[bucket] += 1;
        self.sum += measure;
    }

    /// Adds what another one, of the same bounds, has.
    pub fn add(&mut self, other: &Self) {
        assert_eq!(self.bounds, other.bounds, "histograms of different bounds");
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.sum += other.sum;
    }
}

/// The text, family by family.
#[derive(Default)]
pub struct Page {
    text: String,
}

impl Page {
    /// A family of counters or gauges with its samples.
    pub fn family<'a, V: Into<Value>>(
        &mut self,
        name: &str,
        kind: Kind,
        help: &str,
        samples: impl IntoIterator<Item = (Labels<'a>, V)>,
    ) {
        let kind_name = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        let ends_as_counter = name.ends_with("_total");
        assert_eq!(kind == Kind::Counter, ends_as_counter, "{name}");
        self.head(name, kind_name, help);
        for (labels, value) in samples {
            self.sample(name, "", labels, None, value.into());
        }
    }

    /// A family of histograms.
    pub fn histograms<'a>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels<'a>, &'a Histogram)>,
    ) {
        self.head(name, "histogram", help);
        for (labels, histogram) in samples {
            assert_eq!(histogram.counts.len(), histogram.bounds.len() + 1, "{name}");
            let bounds = histogram.bounds.iter().copied().chain([f64::INFINITY]);
            let mut count = 0;
            for (bound, in_bucket) in bounds.zip(&histogram.counts) {
                count += in_bucket;
                self.sample(name, "_bucket", labels, Some(bound), count.into());
            }
            self.sample(name, "_sum", labels, None, histogram.sum.into());
            self.sample(name, "_count", labels, None, count.into());
        }
    }

    /// The whole text.
    pub fn finish(self) -> String {
        self.text
    }

    fn head(&mut self, name: &str, kind: &str, help: &str) {
        assert!(is_name(name), "{name:?} is no metric's name");
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, suffix: &str, labels: Labels, le: Option<f64>, value: Value) {
        let _ = write!(self.text, "{name}{suffix}");
        let le = le.map(|bound| Value::from(bound).to_string());
        let labels = labels.iter().copied();
        let labels = labels.chain(le.as_deref().map(|bound| ("le", bound)));
        let mut before = '{';
        for (label, value) in labels {
            assert!(is_name(label), "{label:?} is no label's name");
            let value = value
                .replace('\\', "\\\\")
                .replace('"', "\\\"")
                .replace('\n', "\\n");
            let _ = write!(self.text, "{before}{label}=\"{value}\"");
            before = ',';
        }
        let close = if before == ',' { "}" } else { "" };
        let _ = writeln!(self.text, "{close} {value}");
    }
}

/// Whether `text` may name a metric or a label here (we use no colons).
fn is_name(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with(|c: char| c.is_ascii_digit())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// A sample as it was read: its name, its labels, and its value's text.
    pub(crate) type Sample = (String, BTreeMap<String, String>, String);

    /// Reads a page as the format's definition has it and not a character more; panics otherwise.
    pub(crate) fn read(page: &str) -> Vec<Sample> {
        assert!(page.is_empty() || page.ends_with('\n'));
        let (mut samples, mut families) = (vec![], BTreeMap::new());
        let (mut family, mut helped) = (String::new(), String::new());
        for line in page.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                helped = help.split_once(' ').unwrap().0.to_owned();
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').unwrap();
                assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
                assert_eq!(name, helped, "help comes first");
                let twice = families.insert(name.to_owned(), kind.to_owned());
                assert_eq!(twice, None, "{name} stands twice");
                family = name.to_owned();
            } else {
                let sample = read_sample(line);
                let suffixes: &[&str] = match families[&family].as_str() {
                    "histogram" => &["_bucket", "_sum", "_count"],
                    _ => &[""],
                };
                let suffix = sample.0.strip_prefix(&family);
                assert!(suffix.is_some_and(|s| suffixes.contains(&s)), "{line}");
                let seen = |old: &Sample| (&old.0, &old.1) == (&sample.0, &sample.1);
                assert!(!samples.iter().any(seen), "{line} stands twice");
                samples.push(sample);
            }
        }
        samples
    }

    fn read_sample(line: &str) -> Sample {
        let end = line.find(['{', ' ']).unwrap();
        let (name, mut rest) = line.split_at(end);
        let mut labels = BTreeMap::new();
        if rest.starts_with('{') {
            loop {
                let (label, value) = rest[1..].split_once("=\"").unwrap();
                assert!(is_name(label), "{line}");
                let mut text = String::new();
                let mut chars = value.char_indices();
                let after = loop {
                    match chars.next().unwrap() {
                        (_, '\\') => text.push(match chars.next().unwrap().1 {
                            'n' => '\n',
                            c @ ('\\' | '"') => c,
                            c => panic!("\\{c} in {line}"),
                        }),
                        (at, '"') => break at + 1,
                        (_, c) => text.push(c),
                    }
                };
                assert_eq!(labels.insert(label.to_owned(), text), None, "{line}");
                rest = &value[after..];
                if !rest.starts_with(',') {
                    break;
                }
            }
            rest = rest.strip_prefix('}').unwrap();
        }
        let value = rest.strip_prefix(' ').unwrap();
        let number = value.replace("Inf", "inf").parse::<f64>();
        assert!(is_name(name) && number.is_ok(), "{line}");
        (name.to_owned(), labels, value.to_owned())
    }

    /// What `promtool check metrics` looks at, and that no label is one that a user could fill.
    pub(crate) fn lint(samples: &[Sample]) {
        const LABELS: [&str; 10] = [
            "action", "code", "hop", "le", "limit", "origin", "reason", "shard", "state", "version",
        ];
        const UNITS: [&str; 4] = ["seconds", "bytes", "ratio", "info"];
        for (name, labels, _) in samples {
            let plain = name.strip_prefix("ringcast_");
            let plain = plain.unwrap_or_else(|| panic!("{name} is not ours"));
            assert!(
                plain.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'),
                "{name}"
            );
            let mut words = plain.split('_');
            let is_bad = |word: &str| {
                let other = [
                    "ms", "us", "millis", "minutes", "kib", "mib", "percent", "gauge",
                ];
                word.is_empty() || other.contains(&word)
            };
            assert!(!words.any(is_bad), "{name}: in base units");
            // A unit stands last, but for what kind of sample it is.
            let words: Vec<_> = plain.split('_').collect();
            let kind = ["total", "bucket", "sum", "count"];
            let ends = words.iter().rev().skip_while(|word| kind.contains(word));
            let inner = ends.skip(1).any(|word| UNITS.contains(word));
            assert!(!inner, "{name}: the unit comes last");
            assert!(
                labels.keys().all(|label| LABELS.contains(&label.as_str())),
                "{name}"
            );
        }
    }

    #[test]
    fn families_and_escapes() {
        let hostile = "a\\b\"c\nd";
        let mut page = Page::default();
        let samples: [(Labels, u64); 2] = [(&[], u64::MAX), (&[("x", hostile), ("y", "")], 2)];
        page.family("a_total", Kind::Counter, "Help \\ and\nmore.", samples);
        let odd = [f64::INFINITY, f64::NEG_INFINITY, f64::NAN, 0.25];
        let odd = odd.map(|value| value.to_string()).into_iter().zip(odd);
        let odd: Vec<_> = odd.map(|(text, value)| ([("v", text)], value)).collect();
        let odd: Vec<_> = odd
            .iter()
            .map(|(l, v)| ([(l[0].0, l[0].1.as_str())], *v))
            .collect();
        let odd = odd.iter().map(|(labels, value)| (&labels[..], *value));
        page.family("b", Kind::Gauge, "B.", odd);
        let text = page.finish();
        assert!(text.starts_with("# HELP a_total Help \\\\ and\\nmore.\n# TYPE a_total counter\n"));
        let samples = read(&text);
        assert_eq!(samples[0].2, "18446744073709551615");
        assert_eq!(samples[1].1["x"], hostile);
        let values: Vec<_> = samples[2..].iter().map(|s| s.2.as_str()).collect();
        assert_eq!(values, ["+Inf", "-Inf", "NaN", "0.25"]);
    }

    #[test]
    fn histograms_are_summed_up_and_end_in_infinity() {
        let mut histogram = Histogram::new(&[0.001, 0.5]);
        for measure in [0.0005, 0.001, 0.002, 7.0] {
            histogram.record(measure);
        }
        let twice = histogram.clone();
        histogram.add(&twice);
        let mut page = Page::default();
        page.histograms("h", "H.", [(&[("origin", "local")][..], &histogram)]);
        let samples = read(&page.finish());
        let find = |name: &str, le: &str| {
            let found = samples
                .iter()
                .find(|s| s.0 == name && s.1.get("le").map_or("", |le| le) == le);
            found.unwrap().2.as_str()
        };
        assert_eq!(find("h_bucket", "0.001"), "4");
        assert_eq!(find("h_bucket", "0.5"), "6");
        assert_eq!(find("h_bucket", "+Inf"), "8");
        assert_eq!(find("h_count", ""), "8");
        assert!((find("h_sum", "").parse::<f64>().unwrap() - 14.007).abs() < 1e-9);
    }
}
