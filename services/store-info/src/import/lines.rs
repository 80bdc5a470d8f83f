//! Splits bytes into lines, holding at most one of them.

/// A line that is not blank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// Its number, from 1.
    pub(super) number: u64,
    /// Its bytes without the line break; `None` if it is too long.
    pub(super) text: Option<Vec<u8>>,
}

/// Splits a stream of bytes into lines, however the input is split.
#[derive(Debug)]
pub(super) struct Lines {
    max_bytes: usize,
    number: u64,
    begun: Vec<u8>,
    too_long: bool,
}

impl Lines {
    pub(super) fn new(max_bytes: usize) -> Self {
        Self { max_bytes, number: 1, begun: Vec::new(), too_long: false }
    }

    /// The lines that these bytes complete.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Vec<Line> {
        let mut lines = Vec::new();
        let mut pieces = bytes.split(|byte| *byte == b'\n').peekable();
        while let Some(piece) = pieces.next() {
            self.take(piece);
            if pieces.peek().is_some() {
                lines.extend(self.end_line());
            }
        }
        lines
    }

    /// The last line, if no line break ended it.
    pub(super) fn finish(&mut self) -> Option<Line> {
        self.end_line()
    }

    fn take(&mut self, piece: &[u8]) {
        if self.too_long || self.begun.len() + piece.len() > self.max_bytes {
            // Skip the rest of it.
            self.too_long = true;
            self.begun.clear();
        } else {
            self.begun.extend_from_slice(piece);
        }
    }

    fn end_line(&mut self) -> Option<Line> {
        let number = self.number;
        self.number += 1;
        let text = std::mem::take(&mut self.begun);
        if std::mem::take(&mut self.too_long) {
            return Some(Line { number, text: None });
        }
        // To JSON, a carriage return before the line break is white space.
        let blank = text.iter().all(u8::is_ascii_whitespace);
        (!blank).then_some(Line { number, text: Some(text) })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cut(text: &[u8], piece: usize) -> Vec<(u64, Option<String>)> {
        let mut lines = Lines::new(5);
        let mut all: Vec<_> = text.chunks(piece).flat_map(|bytes| lines.feed(bytes)).collect();
        all.extend(lines.finish());
        let text = |line: Line| line.text.map(|text| String::from_utf8(text).unwrap());
        all.into_iter().map(|line| (line.number, text(line))).collect()
    }

    #[test]
    fn blank_lines_count_but_are_none() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(
            cut(b"a\n\n \r\nb\r\n\nc", 99),
            [(1, some("a")), (4, some("b\r")), (6, some("c"))]
        );
        assert_eq!(cut(b"", 1), []);
    }

    #[test]
    fn a_line_that_is_too_long_is_told_and_skipped() {
        let some = |text: &str| Some(text.to_owned());
        for piece in 1..12 {
            assert_eq!(
                cut(b"12345\n123456\nok", piece),
                [(1, some("12345")), (2, None), (3, some("ok"))]
            );
            assert_eq!(cut(b"1234567890", piece), [(1, None)]);
        }
    }

    proptest! {
        #[test]
        fn how_the_bytes_arrive_does_not_matter(text in "[ab\n\r]{0,60}", piece in 1usize..20) {
            prop_assert_eq!(cut(text.as_bytes(), piece), cut(text.as_bytes(), usize::MAX));
        }
    }
}
