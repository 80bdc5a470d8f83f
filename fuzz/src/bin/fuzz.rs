//! libFuzzer on the property that `NUDGE_FUZZ_PROPERTY` names. `make fuzz` builds and runs it.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};
use nudge_fuzz::{PROPERTIES, Property, change};

static PROPERTY: LazyLock<Property> = LazyLock::new(|| {
    let wanted = std::env::var("NUDGE_FUZZ_PROPERTY").unwrap_or_default();
    let found = PROPERTIES.iter().find(|(name, _)| *name == wanted);
    found.unwrap_or_else(|| panic!("NUDGE_FUZZ_PROPERTY names no property: {wanted:?}")).1
});

fuzz_target!(init: LazyLock::force(&PROPERTY), |input: &[u8]| PROPERTY(input));

// Half of the mutations change the JSON in the input, if there is any; the rest are libFuzzer's own.
fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    let changed = seed.is_multiple_of(2).then(|| change(&data[..size], seed / 2)).flatten();
    match changed.filter(|changed| changed.len() <= max_size) {
        Some(changed) => {
            data[..changed.len()].copy_from_slice(&changed);
            changed.len()
        }
        None => fuzzer_mutate(data, size, max_size),
    }
});
