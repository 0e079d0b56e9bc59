//! The command line, as typed: a command and the texts of the flags. The one place that knows clap.

use std::collections::BTreeMap;
use std::ffi::OsString;

use clap::error::ErrorKind;
use clap::{Arg, ArgAction};

use super::later::LATER;
use super::settings::SETTINGS;

/// What was typed.
pub(super) enum Typed {
    /// A command (`serve` if none was) and the flags' texts.
    Run {
        /// The command.
        command: String,
        /// What follows it.
        words: Vec<String>,
        /// The text of each flag that is there; the last one counts.
        flags: BTreeMap<&'static str, String>,
    },
    /// Help or version was asked for: this is it.
    Print(String),
}

/// The commands of this build and what they do.
const COMMANDS: &[(&str, &str)] = &[
    ("serve", "the server; also without a command"),
    (
        "worker",
        "takes the Redis stream into PostgreSQL; also with WORKER_ENABLED=true",
    ),
    (
        "migrate",
        "brings the PostgreSQL schema up to date, as a worker does at its start",
    ),
    (
        "dead",
        "list | retry [ID...] | drop ID...|all: entries that could not be stored",
    ),
    (
        "check-config",
        "prints every setting and where it came from; exits 2 if one is bad",
    ),
    (
        "health",
        "asks /health of this machine's instance; exits 0 or 1",
    ),
    (
        "drain",
        "asks the instance of this data dir to drain, as SIGTERM does",
    ),
];

/// Reads a command line; the error is one line.
pub(super) fn read(args: impl Iterator<Item = OsString>) -> Result<Typed, String> {
    let matches = match command_line().try_get_matches_from(args) {
        Ok(matches) => matches,
        Err(error) => {
            let text = error.render().to_string();
            return match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Ok(Typed::Print(text)),
                _ => Err(one_line(&text)),
            };
        }
    };
    let mut words = matches.get_many::<String>("command").into_iter().flatten();
    let command = words.next().map_or("serve", String::as_str).to_owned();
    if !COMMANDS.iter().any(|(name, _)| *name == command) {
        return Err(format!("{command:?} is no command; see --help"));
    }
    let words: Vec<_> = words.cloned().collect();
    if let Some(word) = words.first().filter(|_| command != "dead") {
        return Err(format!("{command}: takes no argument such as {word:?}"));
    }
    let known = SETTINGS
        .iter()
        .map(|setting| setting.flag)
        .filter(|flag| !flag.is_empty())
        .chain(later_flags());
    let flags = known
        .filter_map(|flag| {
            matches
                .get_one::<String>(flag)
                .map(|text| (flag, text.clone()))
        })
        .collect();
    Ok(Typed::Run {
        command,
        words,
        flags,
    })
}

fn later_flags() -> impl Iterator<Item = &'static str> {
    LATER
        .iter()
        .map(|setting| setting.flag)
        .filter(|flag| !flag.is_empty())
}

fn command_line() -> clap::Command {
    let commands: Vec<_> = COMMANDS
        .iter()
        .map(|(name, help)| format!("  {name:<13} {help}\n"))
        .collect();
    let command = Arg::new("command")
        .value_name("COMMAND")
        .num_args(0..)
        .hide(true);
    let with_flag = SETTINGS.iter().filter(|setting| !setting.flag.is_empty());
    let settings = with_flag.map(|setting| {
        let arg = Arg::new(setting.flag).long(setting.flag);
        let arg = if setting.value.is_empty() {
            let arg = arg
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value("on");
            arg.value_name("on|off")
        } else {
            arg.value_name(setting.value)
        };
        // Texts that start with a dash are values too: `--instance-id -x`, `--port -1`.
        let arg = arg.action(ArgAction::Set).allow_hyphen_values(true);
        arg.help(format!(
            "{} [{}; {}]",
            setting.help,
            setting.default,
            setting.env()
        ))
    });
    let later = later_flags().map(|flag| {
        let arg = Arg::new(flag).long(flag).hide(true).action(ArgAction::Set);
        arg.allow_hyphen_values(true)
    });
    clap::Command::new("ringcast")
        .version(env!("CARGO_PKG_VERSION"))
        .about(env!("CARGO_PKG_DESCRIPTION"))
        .override_usage("ringcast [COMMAND] [FLAGS]")
        .after_help(format!(
            "Commands:\n{}\nEvery flag is also an environment variable, named after its default; a \
             flag beats it.\nTimes are written 250ms, 5s, 1m30s, 1h; sizes 64KiB, 1GiB, or bytes.",
            commands.concat()
        ))
        .color(clap::ColorChoice::Never)
        .args_override_self(true)
        .arg(command)
        .args(settings)
        .args(later)
}

/// clap's error without its usage and its advice to look for help.
fn one_line(text: &str) -> String {
    let lines = text
        .lines()
        .map(str::trim)
        .take_while(|line| !line.starts_with("Usage:"));
    let lines: Vec<_> = lines.filter(|line| !line.is_empty()).collect();
    let text = lines.join("; ");
    text.strip_prefix("error: ")
        .map(str::to_owned)
        .unwrap_or(text)
}
