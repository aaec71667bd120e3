//! `cofferdam redact`: copies standard input (or a file) to standard output, with secrets replaced.

use std::fs::File;
use std::io;

use redactor::{Redactor, SharedRedactor, stream};

use crate::cli::args::RedactArgs;
use crate::console::Out;
use crate::failure::{Failure, Outcome};
use crate::given::is_stdin;

/// Copies the whole input.
pub fn redact(args: &RedactArgs) -> Outcome {
    let redactor = Redactor::new(std::iter::empty::<(&str, redactor::Secret)>())
        .map_err(|e| Failure::refused(e.to_string()))?;
    let redactor = SharedRedactor::new(redactor);
    let output = Out::new();
    match args.file.as_ref().filter(|file| !is_stdin(file)) {
        Some(path) => {
            let told = |why: String| {
                let path = path.display();
                Failure::refused(format!("{path}: {why}: name a file, or give the text on standard input"))
            };
            let file = File::open(path).map_err(|e| told(e.to_string()))?;
            if file.metadata().is_ok_and(|meta| meta.is_dir()) {
                return Err(told("it is a directory".into()));
            }
            stream::copy(redactor, file, output)?;
        }
        None => {
            stream::copy(redactor, io::stdin(), output)?;
        }
    }
    Ok(0)
}
