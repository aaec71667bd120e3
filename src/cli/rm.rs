//! `cofferdam rm`: removes stopped sandboxes with all that they left. A person at a terminal is asked first;
//! a script says `--yes`.

use crate::cli::args::RmArgs;
use crate::cli::ask::{Person, somebody_is_there};
use crate::console::{fault, say};
use crate::failure::{Failure, Outcome, REFUSED};
use crate::state::{Name, Root, files};

/// Removes each, whatever becomes of the others.
pub fn rm(root: &Root, args: &RmArgs) -> Outcome {
    let names: Vec<Name> = args.names.iter().map(|name| Name::parse(name)).collect::<Result<_, _>>()?;
    if !args.yes && !somebody_is_there() {
        return Err(Failure::refused(
            "this removes sandboxes with their workspaces and audit logs for good, and there is no terminal to ask at: say --yes",
        ));
    }
    let mut code = 0;
    for name in &names {
        if !args.yes && root.names()?.contains(name) && !is_wanted(root, name)? {
            say(&format!("'{name}' stays"));
            continue;
        }
        match root.remove(name) {
            Ok(()) => say(&format!("removed '{name}'")),
            Err(failure) => {
                fault(&failure.message);
                code = REFUSED;
            }
        }
    }
    Ok(code)
}

fn is_wanted(root: &Root, name: &Name) -> Result<bool, Failure> {
    let dir = root.instance(name);
    let workspace = match dir.join(files::WORKSPACE).is_dir() {
        true => "its workspace, ",
        false => "",
    };
    let question =
        format!("remove '{name}' for good ({workspace}audit log, agents' output; {})?", dir.display());
    Person::at_the_terminal(format!("'{name}' stays")).agrees(&question, false)
}
