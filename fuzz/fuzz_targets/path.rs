#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| cofferdam_policy::fuzzing::path::holds(bytes));
