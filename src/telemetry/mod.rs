//! What the program tells its operators: the log, and the metrics' text.
//!
//! Plain values come in from above. Rooms below `runtime` own their counters and never see this;
//! `runtime` reaches in, fills a [`families::Snapshot`], and serves the text.

pub mod families;
pub mod log;
pub mod metrics;
pub mod quota;
pub mod worker;
