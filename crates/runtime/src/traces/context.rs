//! What a span is known by in other services: the header `traceparent` of W3C Trace Context.

use std::{
    fmt,
    hash::{BuildHasher, RandomState},
};

/// The header that carries a context, over HTTP and in notifications.
pub const TRACEPARENT: &str = "traceparent";
/// The length of its value, in bytes. A longer one is ignored.
pub const MAX_HEADER_BYTES: usize = 55;

/// One span of a trace that is sampled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Context {
    /// The trace's ID.
    pub trace: [u8; 16],
    /// The span's ID.
    pub span: [u8; 8],
}

/// What a caller says about the trace that a request belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parent {
    /// Nothing, or nothing that can be read.
    None,
    /// There is one, and it is not recorded.
    Unsampled,
    /// It is recorded.
    Sampled(Context),
}

impl Context {
    /// The first span of a new trace.
    pub fn root() -> Self {
        let mut trace = [0; 16];
        trace[..8].copy_from_slice(&random());
        trace[8..].copy_from_slice(&random());
        Self { trace, span: random() }
    }

    /// Another span of the same trace.
    pub fn child(self) -> Self {
        Self { span: random(), ..self }
    }
}

impl Parent {
    /// Reads the value of a header. Whatever is malformed counts as absent, since it may come from anyone.
    ///
    /// ```
    /// use nudge_runtime::traces::Parent;
    ///
    /// let header = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    /// let Parent::Sampled(context) = Parent::read(header) else { panic!() };
    /// assert_eq!(context.to_string(), header);
    /// assert_eq!(Parent::read(&header.replace("-01", "-00")), Parent::Unsampled);
    /// assert_eq!(Parent::read("00-0af7"), Parent::None);
    /// ```
    pub fn read(header: &str) -> Self {
        read(header.as_bytes()).unwrap_or(Self::None)
    }
}

fn read(header: &[u8]) -> Option<Parent> {
    let dashes =
        header.len() == MAX_HEADER_BYTES && [2, 35, 52].iter().all(|at| header[*at] == b'-');
    if !dashes {
        return None;
    }
    let (version, flags) = (bytes::<1>(&header[..2])?, bytes::<1>(&header[53..])?);
    let context = Context { trace: bytes(&header[3..35])?, span: bytes(&header[36..52])? };
    // Version 255 is forbidden, and so are IDs of zeros.
    if version == [0xff] || context.trace == [0; 16] || context.span == [0; 8] {
        return None;
    }
    Some(match flags[0] & 1 {
        1 => Parent::Sampled(context),
        _ => Parent::Unsampled,
    })
}

/// Bytes as lower-case hexadecimal digits.
fn bytes<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let digit = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

/// As in the header, with the flag for "sampled".
impl fmt::Display for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("00-")?;
        self.trace.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str("-")?;
        self.span.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str("-01")
    }
}

/// Not zero. The keys of the standard library's hash maps are random, and never the same: that is enough for IDs that need
/// only be distinct.
fn random() -> [u8; 8] {
    RandomState::new().hash_one(()).max(1).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn what_is_written_is_read() {
        let context = Context::root().child();
        assert_eq!(Parent::read(&context.to_string()), Parent::Sampled(context));
        assert_eq!(context.to_string().len(), MAX_HEADER_BYTES);
    }

    #[test]
    fn what_is_malformed_counts_as_absent() {
        let zeros = |n| "0".repeat(n);
        for bad in [
            String::new(),
            GOOD[..54].to_owned(),
            format!("{GOOD}-more"),
            GOOD.repeat(100_000),
            GOOD.to_uppercase(),
            GOOD.replacen("00", "ff", 1),
            GOOD.replace('-', "_"),
            GOOD.replace("0af7651916cd43dd8448eb211c80319c", &zeros(32)),
            GOOD.replace("b7ad6b7169203331", &zeros(16)),
            GOOD.replace("-01", "-0g"),
            format!("{}é", &GOOD[..53]),
        ] {
            assert_eq!(Parent::read(&bad), Parent::None, "{}", &bad.get(..60).unwrap_or(&bad));
        }
        assert!(matches!(Parent::read(&GOOD.replacen("00", "01", 1)), Parent::Sampled(_)));
    }

    #[test]
    fn ids_are_distinct() {
        let roots: Vec<_> = (0..10_000).map(|_| Context::root()).collect();
        let traces: HashSet<_> = roots.iter().map(|root| root.trace).collect();
        let spans: HashSet<_> = roots.iter().map(|root| root.span).collect();
        assert_eq!((traces.len(), spans.len()), (roots.len(), roots.len()));
    }
}
