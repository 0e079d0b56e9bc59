//! `loadtest`: ringcast's own load generator and checker.
//!
//! An independent client: it shares no code with the server, so that a mistake in one is not
//! repeated in the other. One thread, epoll, plain sockets; the checker is always on.
//!
//! ```text
//! main -> flags -> scenario/* -> fleet (who publishes what) -> checker (what must hold)
//!           |          |            |                              -> agreement (over instances)
//!           v          |            v
//!         relay        +-------> poll (sockets) -> client (one connection) -> wire (bytes)
//! ```
//!
//! Never here: the server's crate, a second thread on the sockets, a JSON parser in the hot path.

mod agreement;
mod checker;
mod client;
mod flags;
mod fleet;
mod inflate;
mod plan;
mod poll;
mod publisher;
mod redis;
mod relay;
mod report;
mod scenario;
mod stat;
mod wire;

use std::process::ExitCode;

use clap::Parser;

use crate::flags::{Flags, Scenario};
use crate::poll::Stop;
use crate::report::Report;
use crate::scenario::{bare, churn, cross, fanout, idle, ledger, receipts, resume, slow};

fn main() -> ExitCode {
    let flags = Flags::parse();
    match run(&flags) {
        Ok(None) => ExitCode::SUCCESS,
        Ok(Some(report)) => {
            if flags.common.json {
                println!("{}", report.json());
            } else if flags.common.figures.is_empty() {
                print!("{}", report.table());
            } else {
                println!("{}", report.line(&flags.common.figures));
            }
            if report.is_proven() {
                ExitCode::SUCCESS
            } else {
                ExitCode::from(1)
            }
        }
        Err(trouble) => {
            eprintln!("loadtest: {trouble}");
            ExitCode::from(2)
        }
    }
}

fn run(flags: &Flags) -> Result<Option<Report>, String> {
    let common = &flags.common;
    common.check()?;
    let stop = Stop::on_signals()?;
    poll::raise_files_limit();
    if let Some(core) = common.pin {
        poll::pin(core)?;
    }
    let report = match &flags.scenario {
        Scenario::Fanout(fanout) => fanout::run(common, fanout, &stop)?,
        Scenario::Idle(idle) => idle::run(common, idle, &stop)?,
        Scenario::Churn(churn) => churn::run(common, churn, &stop)?,
        Scenario::Resume(resume) => resume::run(common, resume, &stop)?,
        Scenario::Slow(slow) => slow::run(common, slow, &stop)?,
        Scenario::Cross(cross) => cross::run(common, cross, &stop)?,
        Scenario::Ledger(ledger) if ledger.to.is_empty() => ledger::run(common, ledger, &stop)?,
        Scenario::Ledger(ledger) => receipts::run(common, ledger, &stop)?,
        Scenario::Verify(verify) => ledger::verify(common, verify, &stop)?,
        Scenario::BareServer(bare) => {
            bare::serve(bare, common.payload)?;
            return Ok(None);
        }
        Scenario::Relay(flags) => {
            relay::serve(common, flags, &stop)?;
            return Ok(None);
        }
    };
    Ok(Some(report))
}
