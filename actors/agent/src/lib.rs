//! The cage around an agent, and the agent process as an actor.
//!
//! ```text
//! plan        what the cage is to be: data, checked before anything is forked
//! launch      the heart's side: clone init, write its id maps, exec the supervisor
//! init        pid 1 of the sandbox: builds the cage, forks agents, reaps, makes sockets inside
//! isolation   one file a control: mounts, proc, devices, user, capabilities, Landlock, seccomp, limits, terminal
//! control     the controls by name: what the proof, doctor, status and metrics share
//! probe       the proof: what must fail fails, what must work works, tried in the agent's place
//! own         what heart, init and supervisor take from themselves once they have started
//! doctor      what this machine can enforce, each tried for real
//! confine     the process that reads what may be hostile: it can do nothing else
//! image       another root than the host's: OCI images
//! mountinfo   what is mounted in a process's view
//! snapshot    a directory tree in one file and back, believing neither
//! protocol    what the three processes say to each other
//! wire        how: one versioned message a packet, with descriptors
//! credential_files   files in which agents keep keys, kept at mode 0600
//! health      whether an agent still answers, and when it is given up
//! roots       whom programs inside trust, in the forms in which they look for it
//! client      init as the supervisor sees it: async calls and events
//! actor       one actor an agent process; the only file that knows of actors
//! ```
//! This is the one crate with `unsafe` code: the kernel's calls, kept in `sys`. Elsewhere (`launch`, `init`,
//! `confine`) a block is only where a fresh child, or the heart as its first act, closes by number what a
//! shell or its parent left open. Heart and init are single-threaded: that is what makes allocating after a
//! fork sound.

pub mod actor;
pub mod client;
pub mod confine;
pub mod control;
pub mod credential_files;
pub mod doctor;
#[cfg(test)]
mod documentation;
pub mod environment;
pub mod health;
mod hidden;
pub mod image;
mod inherit;
mod init;
pub mod isolation;
mod java_store;
pub mod launch;
#[doc(hidden)]
pub mod measured;
pub mod mountinfo;
pub mod own;
pub mod plan;
pub mod probe;
pub mod protocol;
pub mod roots;
pub mod snapshot;
mod sys;
pub mod wire;

pub use client::{ClientError, Holders, InitClient};
pub use inherit::inherit;
