#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| cofferdam_proxy::fuzzing::client_hello::holds(bytes));
