//! The cluster in containers, as one command starts it: the image, the compose files, and what
//! they promise.
//!
//! | file | what |
//! |---|---|
//! | `files` | what can be read off the files; needs nothing, and runs always |
//! | `whole` | the cluster itself: what it does, how it is confined, each service killed in turn |
//! | `tabs` | three tabs of a browser on three instances, one of which is killed |
//! | `engine`, `cluster` | what those tests are made of: a Docker engine, a cluster on it |
//!
//! The cluster is for `RINGCAST_TEST_ALL=1`: its image takes minutes to build. It needs root, since
//! it ends processes in containers from outside, and an engine with compose. Where stand-ins for
//! the base images are beside the project, those are built, and the engine that takes it is started
//! and ended. Names, ports and volumes are the test's own, and go with it.

#![expect(
    clippy::unwrap_used,
    reason = "a harness: what fails here is to end the test"
)]

#[path = "server/browser.rs"]
#[allow(dead_code, reason = "the tests of the page use the rest of it")]
mod browser;
#[path = "compose/cluster.rs"]
mod cluster;
#[path = "compose/engine.rs"]
mod engine;
#[path = "compose/files.rs"]
mod files;
#[path = "cluster/instances.rs"]
#[allow(
    dead_code,
    reason = "the tests of a cluster without Docker use the rest"
)]
mod instances;
#[path = "cluster/redis.rs"]
#[allow(
    dead_code,
    reason = "the tests of a cluster without Docker use the rest"
)]
mod redis;
#[path = "server/support.rs"]
#[allow(dead_code, reason = "the tests of one server use the rest of it")]
mod support;
#[path = "compose/tabs.rs"]
mod tabs;
#[path = "compose/whole.rs"]
mod whole;
