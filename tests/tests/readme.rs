//! Every promise in the README names a test that is there.

use std::{fs, path::Path};

#[test]
fn each_promise_names_a_test_that_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let readme = fs::read_to_string(root.join("README.md")).expect("the README");
    let promises = readme.split("\n## ").find(|part| part.starts_with("Promises"));
    let rows =
        promises.expect("a chapter of promises").lines().filter(|line| line.starts_with("| "));
    let rows: Vec<_> = rows.filter(|row| !row.starts_with("| promise")).collect();
    assert!(rows.len() >= 15, "the table was not found");
    for row in rows {
        let named: Vec<_> = row.split('`').skip(1).step_by(2).collect();
        let [test, file] = named[..] else { panic!("a test and its file in backquotes: {row}") };
        let source = fs::read_to_string(root.join(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
        assert!(source.contains(&format!("fn {test}(")), "{file} has no test {test}");
    }
}
