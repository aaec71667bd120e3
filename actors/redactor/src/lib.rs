//! Redaction: nothing that cofferdam shows, writes or forwards carries a secret.
//!
//! One engine (`engine`, `pass`) over two tiers: the secrets in use, in all their forms (`known`), and
//! published token formats (`formats`, `shape`, `tokens`). `stream` applies it to writers and readers, `pump`
//! to the journal pipes of agents' output, `screen` (with `matching` and `spelling`, which undo escapes;
//! `sieve` and `look` for streams, `pieces` so that none of them takes all of a thread's time, `guesses` and
//! `public` against who learns by them, `parts` and `words` against who cuts) to what the world answers;
//! `charset` reads which character sets an answer says it is in; `reference` is how a secret is named in
//! files; `unlinked` opens logs for whoever reads them; `actor` owns the pumps. This crate must never log,
//! print or serialise what it is given to hide.

pub mod actor;
pub mod ascii;
pub mod charset;
mod engine;
mod formats;
mod forms;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
pub mod guesses;
mod known;
mod look;
mod matching;
mod parts;
mod pass;
mod pieces;
mod public;
pub mod pump;
mod reference;
mod screen;
mod secret;
mod shape;
mod shared;
mod sieve;
mod spelling;
pub mod stream;
mod tokens;
mod unlinked;
mod words;

pub use engine::{Context, HOLD_MAX, Hit, Redactor, RedactorError, Scan};
pub use forms::SECRET_MIN;
pub use guesses::{Guesser, Guesses};
pub use pieces::{PIECE, Pieces};
pub use pump::{AgentLog, StreamEnd, StreamHandle, StreamId, StreamKind, StreamSpec, Streams};
pub use reference::{Credential, MAX_KEY, Reference, Unresolved};
pub use screen::{Mask, SCREEN_MIN, Screen};
pub use secret::{Redacted, Secret};
pub use shared::SharedRedactor;
pub use sieve::Sieve;
pub use tokens::{End, kinds};
pub use unlinked::open_unlinked;
