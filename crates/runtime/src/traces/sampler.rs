//! Which traces are recorded. Pure.

use super::Parent;

/// Which traces are recorded, by the names of OpenTelemetry. The default is `parentbased_always_on`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sampler {
    /// Whether what the caller decided counts.
    by_parent: bool,
    /// Whether the share is set by a ratio.
    by_ratio: bool,
    /// A trace is recorded if the last 8 bytes of its ID, as a number, are less: up to 2⁶⁴. So all services that
    /// decide by ratio decide alike.
    below: u128,
}

/// One more than the highest number of 8 bytes.
const ALL: u128 = 1 << 64;

impl Default for Sampler {
    fn default() -> Self {
        Self { by_parent: true, by_ratio: false, below: ALL }
    }
}

impl Sampler {
    /// Reads its name.
    ///
    /// # Errors
    /// If there is no such sampler; the error lists those that there are.
    pub fn parse(name: &str) -> Result<Self, String> {
        let (by_parent, own) = match name.strip_prefix("parentbased_") {
            Some(own) => (true, own),
            None => (false, name),
        };
        let (by_ratio, below) = match own {
            "always_on" => (false, ALL),
            "always_off" => (false, 0),
            "traceidratio" => (true, ALL),
            _ => {
                let known = "must be always_on, always_off or traceidratio, or parentbased_ and one of these";
                return Err(known.into());
            }
        };
        Ok(Self { by_parent, by_ratio, below })
    }

    /// With this share, from 0 to 1, if it decides by ratio.
    pub(super) fn with_ratio(self, ratio: f64) -> Self {
        match self.by_ratio {
            true => Self { below: (ratio * ALL as f64) as u128, ..self },
            false => self,
        }
    }

    /// Whether the trace is recorded.
    pub(super) fn samples(&self, parent: Parent, trace: [u8; 16]) -> bool {
        match parent {
            Parent::Sampled(_) if self.by_parent => true,
            Parent::Unsampled if self.by_parent => false,
            _ => (u128::from_be_bytes(trace) & (ALL - 1)) < self.below,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::traces::Context;

    #[test]
    fn each_name_decides_as_opentelemetry_says() {
        let sampled = Parent::Sampled(Context::root());
        for (name, none, off, on) in [
            ("always_on", true, true, true),
            ("always_off", false, false, false),
            ("parentbased_always_on", true, false, true),
            ("parentbased_always_off", false, false, true),
            ("parentbased_traceidratio", true, false, true),
        ] {
            let sampler = Sampler::parse(name).unwrap();
            let decided = [Parent::None, Parent::Unsampled, sampled]
                .map(|parent| sampler.samples(parent, Context::root().trace));
            assert_eq!(decided, [none, off, on], "{name}");
        }
        assert!(Sampler::parse("parentbased_").is_err() && Sampler::parse("").is_err());
    }

    #[test]
    fn a_ratio_is_kept() {
        for (ratio, low, high) in [(0.0, 0, 0), (0.25, 2_200, 2_800), (1.0, 10_000, 10_000)] {
            let sampler = Sampler::parse("traceidratio").unwrap().with_ratio(ratio);
            let sampled = (0..10_000)
                .filter(|_| sampler.samples(Parent::None, Context::root().trace))
                .count();
            assert!((low..=high).contains(&sampled), "{ratio}: {sampled} of 10,000");
        }
    }
}
