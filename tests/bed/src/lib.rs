//! A small internet in a box, for the black-box tests and for `cofferdam demo`.
//!
//! [`world::World`] moves the calling process into network and mount namespaces of its own (and, for an
//! ordinary user, a user namespace), gives public-looking addresses to `lo`, covers `/etc/hosts` and
//! `/etc/resolv.conf`, and starts servers there: websites over HTTP/1.1, HTTP/2 and TLS, a git server,
//! package indexes, and a model provider that speaks the OpenAI and Anthropic protocols. Nothing leaves the
//! machine, no program is needed, and no privilege: whatever the process starts from then on lives in that
//! world.
//!
//! ```text
//! world      namespaces, then servers: World::enter(dir) -> World{ recorder, provider, ca_file … }
//! netlink    loopback up, ranges made local
//! names      who lives where; DNS; /etc/hosts
//! authority  the world's certificate authority
//! server     listeners, TLS, HTTP engine; hands each request to a site
//! sites/     what each named host answers
//! provider/  the model provider
//! raw        a server that records bytes and judges none
//! recorder   what arrived, for tests to look at
//! archive    wheels and tarballs made in memory
//! stage      (tests) one sandbox under test: mode, state directory, command lines, polling
//! harness    (tests) the runner: cases × modes, loud skips, cargo's closing line
//! ```
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! // First thing in `main`: the process must still be single-threaded.
//! let world = bed::World::enter(std::path::Path::new("/tmp/my-world"))?;
//! std::process::Command::new("curl")
//!     .args(["--cacert", &world.ca_file().display().to_string(), "https://api.bed.test/echo"])
//!     .status()?;
//! assert_eq!(world.recorder().for_host("api.bed.test").len(), 1);
//! # Ok(()) }
//! ```
//!
//! This crate must never be linked into anything that judges: it is the outside.

#![expect(clippy::indexing_slicing, reason = "what comes here is our own: a mistake is to stop the test")]

pub mod archive;
pub mod authority;
pub mod corporate;
mod flow;
pub mod harness;
pub mod names;
mod netlink;
pub mod provider;
pub mod raw;
pub mod recorder;
pub mod server;
mod sites;
pub mod stage;
pub mod world;

pub use provider::{Provider, Turn};
pub use recorder::{Recorder, Seen};
pub use stage::{Mode, Stage};
pub use world::World;

/// The world of `cofferdam demo`: [`World::enter`] in `dir`, under the name by which the demo asks for it.
///
/// Call it before any thread exists. Everything the demo starts afterwards lives in the same world; give it
/// `SSL_CERT_FILE=`[`World::ca_file`] so that upstream certificates verify, and [`provider::KEY`] as
/// credential for the provider at [`provider::BASE_URL`].
pub fn demo_world(dir: &std::path::Path) -> anyhow::Result<World> {
    World::enter(dir)
}
