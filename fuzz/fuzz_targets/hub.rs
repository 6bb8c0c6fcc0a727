#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| nearkey_fuzz::hub::run(data));
