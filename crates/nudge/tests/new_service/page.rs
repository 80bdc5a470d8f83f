//! A page whose blocks of code are carried out.

use nudge_testbed::ports::free_port;

/// What a block begins with whose program stays.
const KEEPS_RUNNING: &str = "# In a terminal of its own:\n";

/// A block of code.
#[derive(Debug)]
pub(crate) enum Block {
    /// Commands.
    Run(String),
    /// A command that goes on.
    Keep(String),
    /// What the commands before it print.
    Prints(String),
    /// A whole file. Its first line names it.
    File { path: String, text: String },
}

/// The blocks of a page, in its order.
pub(crate) fn blocks(page: &str) -> Vec<Block> {
    // What is between two fences is a block, every other time.
    let fenced = page.split("```").skip(1).step_by(2);
    fenced.map(|block| block.split_once('\n').expect("a language")).map(block).collect()
}

fn block((language, text): (&str, &str)) -> Block {
    match language {
        "sh" => match text.strip_prefix(KEEPS_RUNNING) {
            Some(command) => Block::Keep(command.to_owned()),
            None => Block::Run(text.to_owned()),
        },
        "text" => Block::Prints(text.to_owned()),
        "rust" => {
            let (first, text) = text.split_once('\n').expect("more than one line");
            let path = first.strip_prefix("// ").expect("the file's name").to_owned();
            Block::File { path, text: text.to_owned() }
        }
        _ => panic!("nobody knows what to do with {language:?}"),
    }
}

/// The page's ports, and those that stand for them here.
pub(crate) struct Ports(Vec<(String, String)>);

impl Ports {
    /// The demo's ports begin at `base`.
    pub(crate) fn new(base: u16) -> Self {
        let demo = (0..=22).map(|offset| (7_100 + offset, base + offset));
        let own = (7_300..=7_303).map(|port| (port, free_port()));
        let text = |(page, here): (u16, u16)| (page.to_string(), here.to_string());
        Self(demo.chain(own).map(text).collect())
    }

    /// The text with every port replaced.
    pub(crate) fn replaced(&self, text: &str) -> String {
        let mut replaced = String::new();
        // Whole numbers, so that none is replaced twice.
        for piece in text.split_inclusive(|c: char| !c.is_ascii_digit()) {
            let number = piece.trim_end_matches(|c: char| !c.is_ascii_digit());
            let port = self.0.iter().find(|(page, _)| page == number);
            replaced += port.map_or(number, |(_, here)| here);
            replaced += &piece[number.len()..];
        }
        replaced
    }
}
