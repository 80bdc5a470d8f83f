//! Text in lines of limited width.

use console::measure_text_width;

/// Widest line, in cells.
pub(super) const WIDTH: usize = 80;

/// A text after `begin`, in lines of at most `width` cells. Later lines begin with as much space. A longer
/// word has a line of its own, unbroken: it may be a command's argument.
pub(super) fn paragraph(begin: &str, text: &str, width: usize) -> Vec<String> {
    let indent = " ".repeat(measure_text_width(begin));
    let (mut lines, mut line) = (Vec::new(), begin.to_owned());
    let mut is_empty = true;
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        let fits = measure_text_width(&line) + 1 + measure_text_width(word) <= width;
        if !is_empty && !fits {
            lines.push(std::mem::replace(&mut line, indent.clone()));
            is_empty = true;
        }
        if !is_empty {
            line.push(' ');
        }
        line.push_str(word);
        is_empty = false;
    }
    lines.push(line);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_as_wide_as_the_screen_and_hang_under_their_beginning() {
        let lines = paragraph("- ", "one two three 달빛국수 four", 11);
        assert_eq!(lines, ["- one two", "  three", "  달빛국수", "  four"]);
        assert_eq!(paragraph("- ", "unbreakable-word", 8), ["- unbreakable-word"]);
        assert_eq!(paragraph("- ", "", 8), ["- "]);
    }
}
