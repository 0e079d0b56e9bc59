//! The settings for eyes: `check-config`, the line of a bad one, README's table.

use std::fmt::Write as _;

use super::resolve::Resolved;
use super::settings::{SETTINGS, Secrecy, secretless};

/// Every setting, its value, and where that came from.
pub(super) fn check_config(settings: &[Resolved], warnings: &[String]) -> String {
    let mut out = String::new();
    for one in settings {
        let (flag, value, source) = (name(one), shown(one), &one.source);
        let bad = if one.error.is_some() { "  BAD" } else { "" };
        let _ = writeln!(out, "{flag:<26} {value:<24} {source}{bad}");
    }
    for warning in warnings {
        let _ = writeln!(out, "warning: {warning}");
    }
    out
}

/// The line that names a bad setting.
pub(super) fn error_line(one: &Resolved) -> Option<String> {
    let error = one.error.as_ref()?;
    let (flag, source) = (name(one), &one.source);
    let dashes = if one.setting.flag.is_empty() {
        ""
    } else {
        "--"
    };
    Some(format!(
        "{dashes}{flag} ({source}): \"{}\" {error}",
        shown(one)
    ))
}

/// What a setting is called: by its flag, if it has one.
fn name(one: &Resolved) -> String {
    match one.setting.flag {
        "" => one.setting.env(),
        flag => flag.to_owned(),
    }
}

/// The text of a setting, without what is secret.
fn shown(one: &Resolved) -> String {
    match one.setting.secret {
        Secrecy::Open => escaped(&one.text),
        Secrecy::Password => escaped(&secretless(&one.text)),
        Secrecy::Whole if one.text == one.setting.default => one.text.clone(),
        Secrecy::Whole => "***".to_owned(),
    }
}

/// The text with its control characters written out, so that a line stays a line.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            out.extend(c.escape_default())
        } else {
            out.push(c)
        }
    }
    out
}

/// README's table of settings, in Markdown.
pub fn readme_table() -> String {
    let mut out = String::from("| flag | variable | default | meaning |\n|---|---|---|---|\n");
    for one in SETTINGS {
        let (flag, env, default, help) = (one.flag, one.env(), one.default, one.help);
        let value = if one.value.is_empty() {
            String::new()
        } else {
            format!(" {}", one.value)
        };
        let value = value.replace('|', "\\|");
        let flag = match flag {
            "" => "-".to_owned(),
            flag => format!("`--{flag}{value}`"),
        };
        let _ = writeln!(out, "| {flag} | `{env}` | {default} | {help} |");
    }
    out
}
