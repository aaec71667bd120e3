//! `cofferdam doctor`: what this machine can enforce, each control proven by trying it.

use agent::doctor::{TEMPORARY_DIRECTORY, Verdict, examine};

use crate::cli::args::JsonArgs;
use crate::console::{Paint, print, print_json, table};
use crate::failure::Outcome;
use crate::ids;

/// Prints the table; exit code 1 where `strict` could not start.
pub fn doctor(args: &JsonArgs) -> Outcome {
    let trial = ids::trial()?;
    let examination = examine(trial.ids);
    drop(trial);
    let code = u8::from(!examination.is_healthy());
    if args.json {
        print_json(&examination)?;
        return Ok(code);
    }
    let paint = Paint::stdout();
    let way = if examination.rooted { "as root" } else { "as an ordinary user" };
    print(&format!("kernel {}, {way}\n\n", examination.kernel))?;
    let rows: Vec<Vec<String>> = examination
        .findings
        .iter()
        .map(|finding| {
            let verdict = match finding.verdict {
                Verdict::Enforced => paint.good("enforced"),
                Verdict::Missing => paint.bad("MISSING"),
                Verdict::Optional => paint.dim("not there"),
                Verdict::Untried => paint.warn("untried"),
            };
            vec![finding.control.clone(), verdict, finding.detail.clone()]
        })
        .collect();
    print(&table(&rows))?;
    for finding in &examination.findings {
        if let Some(mend) = &finding.mend {
            print(&format!("\n{}: {mend}\n", paint.bold(&finding.control)))?;
        }
    }
    let last = match code {
        _ if examination.findings.iter().any(|finding| finding.control == TEMPORARY_DIRECTORY) => {
            paint.bad("\nnothing could be tried; what was in the way stands above\n")
        }
        0 => paint.good("\neverything that `enforcement: strict` needs is here\n"),
        _ => paint.bad("\n`enforcement: strict` can't start here; what is missing stands above\n"),
    };
    print(&last)?;
    Ok(code)
}
