//! Every promise names a test that exists.

use std::{fs, path::Path};

#[test]
fn each_promise_names_a_test_that_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let page = fs::read_to_string(root.join("docs/promises.md")).expect("the page of promises");
    let rows: Vec<_> = page
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| promise"))
        .collect();
    assert!(rows.len() >= 15, "the tables were not found");
    let bugs = fs::read_to_string(root.join("docs/broker-bugs.md")).expect("the page of bugs");
    let shown: Vec<_> = bugs.lines().filter(|line| line.contains("` in `tests/")).collect();
    assert!(shown.len() >= 5, "the table was not found");
    for row in rows.into_iter().chain(shown) {
        let named: Vec<_> = row.split('`').skip(1).step_by(2).collect();
        let [test, file] = named[..] else { panic!("a test and its file in backquotes: {row}") };
        let source = fs::read_to_string(root.join(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
        assert!(source.contains(&format!("fn {test}(")), "{file} has no test {test}");
    }
}
