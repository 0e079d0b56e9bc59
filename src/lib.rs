//! ringcast: a real-time message server.

pub mod backplane;
pub mod config;
pub mod hub;
pub mod model;
pub mod net;
pub mod protocol;
pub mod runtime;
pub mod telemetry;
pub mod web;
