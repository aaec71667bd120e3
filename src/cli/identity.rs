//! `cofferdam identity`: lists what programs contained at their first use, accepts an upgrade, forgets a
//! program.

use operator::types::{AcceptIdentity, ForgetIdentity, Identity};

use crate::cli::args::IdentityCommand;
use crate::cli::live::{client, failure};
use crate::cli::wait_for;
use crate::console::{Paint, one_line, print, print_json, table};
use crate::failure::{Failure, Outcome};
use crate::state::Root;

/// Runs `identity list`, `identity accept` or `identity forget`.
pub fn identity(root: &Root, command: IdentityCommand) -> Outcome {
    match command {
        IdentityCommand::List { name, json } => list(root, &name, json),
        IdentityCommand::Accept { name, path, sha256, json } => accept(root, &name, path, sha256, json),
        IdentityCommand::Forget { name, path, json } => {
            let client = client(root, &name)?;
            let asked = ForgetIdentity { path };
            let forgotten = wait_for(async { client.forget_identity(&asked).await.map_err(failure) })?;
            tell(&forgotten, json, &format!("forgotten: {}", one_line(&forgotten.path)))
        }
    }
}

fn list(root: &Root, name: &str, json: bool) -> Outcome {
    let client = client(root, name)?;
    let all = wait_for(async { client.identities().await.map_err(failure) })?;
    if json {
        print_json(&all)?;
        return Ok(0);
    }
    let paint = Paint::stdout();
    let mut rows =
        vec![["PATH", "SHA-256 AT FIRST USE", "SEEN SINCE, AND DENIED"].map(String::from).to_vec()];
    rows.extend(all.into_iter().map(|it| {
        let pending = it.pending.map_or("-".into(), |pending| paint.warn(&pending));
        vec![one_line(&it.path), it.sha256, pending]
    }));
    print(&table(&rows))?;
    Ok(0)
}

/// Accepts a content by its hash: the given one, or the one that is pending when this command looks.
fn accept(root: &Root, name: &str, path: String, sha256: Option<String>, json: bool) -> Outcome {
    let client = client(root, name)?;
    let accepted = wait_for(async {
        let sha256 = match sha256 {
            Some(insisted) => insisted,
            None => {
                let all = client.identities().await.map_err(failure)?;
                let pending = all.into_iter().find(|it| it.path == path).and_then(|it| it.pending);
                // If nothing is pending, any hash is refused, and the sandbox says why.
                pending.unwrap_or_else(|| hex::encode([0; 32]))
            }
        };
        client.accept_identity(&AcceptIdentity { path, sha256 }).await.map_err(failure)
    })?;
    tell(&accepted, json, &format!("accepted: {} is sha256 {}", one_line(&accepted.path), accepted.sha256))
}

fn tell(identity: &Identity, json: bool, words: &str) -> Outcome {
    match json {
        true => print_json(identity)?,
        false => print(&format!("{words}\n")).map_err(Failure::from)?,
    }
    Ok(0)
}
