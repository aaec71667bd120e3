#![no_main]

// The slow matcher reads the policy by what is public alone, as the integration test that it belongs to.
#[path = "../../actors/policy/tests/matcher/mod.rs"]
mod matcher;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| matcher::holds(bytes));
