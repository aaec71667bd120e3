//! A policy that is accepted can be written out, read back as the same, and compiled. One that is refused has
//! errors, at places inside the text.

use crate::{Compiled, Diagnostics, Severity, parse, parse_preset};

/// The property.
pub fn holds(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match parse("fuzz", text) {
        Ok(parsed) => {
            told(&parsed.warnings, text);
            assert!(!parsed.warnings.has_errors());
            let written = parsed.policy.to_yaml();
            let again = parse("again", &written).unwrap_or_else(|errors| panic!("{errors}\n{written}"));
            assert_eq!(again.policy, parsed.policy, "{written}");
            Compiled::new(&parsed.policy).unwrap();
        }
        Err(errors) => {
            assert!(errors.items().iter().any(|item| item.severity == Severity::Error));
            told(&errors, text);
        }
    }
    if let Err(errors) = parse_preset("fuzz", text) {
        told(&errors, text);
    }
}

fn told(diagnostics: &Diagnostics, text: &str) {
    for item in diagnostics.items() {
        for span in item.span.iter().chain(item.related.iter().map(|(span, _)| span)) {
            assert!(text.get(span.clone()).is_some(), "{span:?} of {} bytes: {}", text.len(), item.message);
        }
        assert!(diagnostics.position(item).is_some() == item.span.is_some());
    }
    assert_eq!(diagnostics.render(false).is_empty(), diagnostics.is_empty());
}
