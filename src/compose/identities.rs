//! Carries out `cofferdam identity`: lists what each program contained at its first use, accepts a new
//! content, forgets a program.
//!
//! Each change is recorded twice: what changed for the program, and which operator did it. Decides nothing
//! about which program may connect: the proxy does, by the pins that are changed here.

use operator::types::{AcceptIdentity, ForgetIdentity, Identity};
use operator::{Code, Fault};
use proxy::identity::{AcceptError, Pinned, Pins, Sha256Hash, Unknown};
use telemetry::audit::{Event, IdentityChange, Sink};

use super::records::record;

/// Lists what each program contained at its first use, by path.
pub fn list(pins: &Pins) -> Vec<Identity> {
    pins.kept().into_iter().map(shown).collect()
}

/// Trusts a program's new content, if it is the one that the operator names.
pub fn accept(pins: &Pins, sink: &Sink, asked: AcceptIdentity) -> Result<Identity, Fault> {
    let sha256 = hash(&asked.sha256)?;
    let accepted = pins.accept(&asked.path, sha256).map_err(|error| match error {
        AcceptError::Unknown(unknown) => no_such_program(pins, &unknown),
        AcceptError::Unchanged(_) => Fault::new(Code::Conflict, error.to_string())
            .hint("a new content can be accepted once a program that has it was refused"),
        AcceptError::ChangedAgain { .. } => Fault::new(Code::Conflict, error.to_string())
            .hint("look at the program again, and accept what is there now"),
    })?;
    let identity =
        Identity { path: accepted.path.to_string(), sha256: hex::encode(accepted.is), pending: None };
    note(sink, &identity.path, IdentityChange::Accepted, accepted.was, Some(accepted.is));
    Ok(identity)
}

/// Forgets a program, so that its next use is a first one.
pub fn forget(pins: &Pins, sink: &Sink, asked: &ForgetIdentity) -> Result<Identity, Fault> {
    let forgotten = pins.forget(&asked.path).map_err(|unknown| no_such_program(pins, &unknown))?;
    note(sink, &forgotten.path, IdentityChange::Forgotten, forgotten.sha256, None);
    Ok(shown(forgotten))
}

fn note(sink: &Sink, path: &str, change: IdentityChange, was: Sha256Hash, is: Option<Sha256Hash>) {
    let event = Event::Identity {
        path: path.into(),
        change,
        was: Some(hex::encode(was).into()),
        is: is.map(|is| hex::encode(is).into()),
    };
    record(sink, event);
}

fn shown(pin: Pinned) -> Identity {
    Identity { path: pin.path, sha256: hex::encode(pin.sha256), pending: pin.pending.map(hex::encode) }
}

fn hash(text: &str) -> Result<Sha256Hash, Fault> {
    let mut hash = Sha256Hash::default();
    match hex::decode_to_slice(text, &mut hash) {
        Ok(()) => Ok(hash),
        Err(_) => Err(Fault::new(Code::BadRequest, "`sha256` takes the 64 hexadecimal digits of a SHA-256")),
    }
}

/// Returns the fault for an unknown program. Suggests a similar path if there is one, or else one with the
/// same file name.
fn no_such_program(pins: &Pins, unknown: &Unknown) -> Fault {
    let known = pins.kept();
    let paths: Vec<&str> = known.iter().map(|pin| pin.path.as_str()).collect();
    let program = |path: &str| path.rsplit('/').next().map(str::to_owned);
    let meant = policy::nearest(&unknown.0, &paths)
        .or_else(|| paths.iter().copied().find(|path| program(path) == program(&unknown.0)));
    let hint = match meant {
        Some(path) => format!("did you mean `{path}`?"),
        None => "`cofferdam identity list NAME` shows those that have".to_owned(),
    };
    Fault::new(Code::NotFound, unknown.to_string()).hint(hint)
}
