//! `cofferdam redact`: standard input (or a file) to standard output, secrets replaced.

use std::fs::File;
use std::io;

use redactor::{Redactor, SharedRedactor, stream};

use crate::cli::args::RedactArgs;
use crate::cli::out::{Failure, Outcome};

/// Copies to the end.
pub fn redact(args: &RedactArgs) -> Outcome {
    let redactor = Redactor::new(std::iter::empty::<(&str, redactor::Secret)>())
        .map_err(|e| Failure::refused(e.to_string()))?;
    let redactor = SharedRedactor::new(redactor);
    let output = io::stdout();
    match &args.file {
        Some(path) => {
            let file = File::open(path).map_err(|e| Failure::refused(format!("{}: {e}", path.display())))?;
            stream::copy(redactor, file, output)?;
        }
        None => {
            stream::copy(redactor, io::stdin(), output)?;
        }
    }
    Ok(0)
}
