use super::*;

#[test]
fn a_panic_is_known_by_its_first_line() {
    assert!(is_panic(b"thread 'worker' (12) panicked at src/lib.rs:1:2:"));
    assert!(!is_panic(b"INFO nudge: nobody panicked") && !is_panic(b"") && !is_panic(b"x"));
}
