//! The `ringcast` program: flags and environment to a [`Config`], the mode to an exit code.
//!
//! All else is in the library. Exit codes: 0 done, 1 failed, 2 a setting is bad.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::ExitCode;

use ringcast::config::{Config, Mode};
use ringcast::runtime::{ask, worker};
use ringcast::telemetry::log;

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let lossy = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
    let env: BTreeMap<_, _> = std::env::vars_os()
        .map(|(name, text)| (lossy(name), lossy(text)))
        .collect();
    let pid = std::process::id();
    let found = Config::from_args_and_env(std::env::args_os(), &env, &host_name(), pid);
    let (mode, config) = match found {
        Ok(good) => good,
        Err(errors) => {
            say(errors.report.as_deref().unwrap_or_default());
            eprintln!("{errors}");
            return ExitCode::from(2);
        }
    };
    match mode {
        Mode::Serve => serve(&config),
        Mode::Work => {
            log::start(config.log_format, config.log_level);
            worker::work(&config)
        }
        Mode::Migrate => told(worker::migrate(&config)),
        Mode::Dead(ask) => {
            // Who reads no further (`| head`) has seen enough.
            let mut say = |line: &str| writeln!(std::io::stdout(), "{line}").is_ok();
            told(worker::dead(&config, &ask, &mut say))
        }
        Mode::Health => told(ask::health(&config)),
        Mode::Drain => told(ask::drain(&config.data_dir)),
        Mode::Print(text) => {
            say(&text);
            ExitCode::SUCCESS
        }
    }
}

fn serve(config: &Config) -> ExitCode {
    log::start(config.log_format, config.log_level);
    ringcast::runtime::serve(config)
}

/// To stdout; that nobody reads on (`| head`) is no failure.
fn say(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// One line to whoever asked.
fn told(answer: Result<String, String>) -> ExitCode {
    match answer {
        Ok(line) => {
            say(&format!("{line}\n"));
            ExitCode::SUCCESS
        }
        Err(line) => {
            eprintln!("{line}");
            ExitCode::FAILURE
        }
    }
}

/// The host's name; empty if there is none to be had, and then `--instance-id` must be set.
fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_owned()
}
