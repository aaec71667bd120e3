//! The files named at a start that the agents must not read or change. See [`Apart`].

use agent::isolation::shown::Place;

use crate::console::warn;
use crate::failure::Failure;
use crate::given::lasting;
use crate::plan::Mode;
use crate::site::apart::{Apart, is_changeable, lies_within};
use crate::start::{Wanted, secrets};

/// The policy's own file, as messages call it.
const POLICY: &str = "policy";

/// Refuses a start if in these places the agents could read a key or change the operator's roots, and refuses
/// a service if they could change any file that decides about them: a service restarts unattended. A run goes
/// on with what was just read, with a warning; its policy file isn't watched then.
///
/// # Errors
/// Which file it is, and the remedy.
pub fn keep_out(wanted: &mut Wanted, places: &[Place]) -> Result<Apart, Failure> {
    let apart = of(wanted)?;
    if wanted.mode == Mode::Service {
        apart.keep_out(places)?;
        return Ok(apart);
    }
    apart.keep_keys_out(places)?;
    apart.keep_roots_out(places)?;
    for (what, file) in &apart.deciding {
        if !is_changeable(file, places)? {
            continue;
        }
        if !wanted.quiet {
            warn(&format!(
                "{}: this run goes by what it says now; move it out before the next one",
                lies_within(what, file)
            ));
        }
        if *what == POLICY {
            wanted.policy.watch = None;
        }
    }
    Ok(apart)
}

fn of(wanted: &Wanted) -> Result<Apart, Failure> {
    let named = [
        (POLICY, &wanted.policy.watch),
        ("configuration", &wanted.config),
        ("upstream_ca", &wanted.upstream_ca),
    ];
    let presets = wanted.policy.presets.iter().filter_map(|preset| Some(("preset", preset.file.as_deref()?)));
    let deciding = named.into_iter().filter_map(|(what, file)| Some((what, file.as_deref()?))).chain(presets);
    let references = secrets::references(wanted)?;
    let keys = references.iter().filter_map(|reference| Some((reference.to_string(), reference.file()?)));
    Ok(Apart {
        deciding: deciding.map(|(what, file)| Ok((what, lasting(file)?))).collect::<Result<_, Failure>>()?,
        keys: keys
            .map(|(reference, file)| Ok((reference, lasting(&file)?)))
            .collect::<Result<_, Failure>>()?,
        roots: wanted.system_roots.clone(),
    })
}
