//! ringcast: a real-time message server.

pub mod config;
pub mod model;
pub mod runtime;
pub mod telemetry;
pub mod web;
