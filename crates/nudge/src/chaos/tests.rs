use super::*;

#[test]
fn minutes_may_be_fractions_within_bounds() {
    assert_eq!(millis("0.3"), Ok(18_000));
    assert_eq!(millis("2"), Ok(120_000));
    for text in ["0", "0.01", "-1", "NaN", "inf", "100000", "two"] {
        assert!(millis(text).is_err(), "{text}");
    }
}

#[test]
fn a_command_line_is_split_at_blanks_and_a_replay_is_given_it_again() {
    assert_eq!(words("  a  'b c'\td ").unwrap()[..], ["a", "'b", "c'", "d"]);
    assert!(words("").is_err() && words(" \t").is_err());
    let common = |line: Option<&str>| CommonArgs {
        data_dir: None,
        heal_seconds: 1,
        postgres_command: line.map(|line| words(line).unwrap()),
    };
    assert_eq!(common(None).again(), "");
    assert_eq!(common(Some("a 'b'")).again(), r" --postgres-command 'a '\''b'\'''");
    assert_eq!(common(None).databases(), Databases::Sqlite);
    assert_eq!(common(Some("a")).databases(), Databases::Postgres);
}

#[test]
fn only_an_empty_directory_is_taken() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_owned();
    assert_eq!(empty(path.clone()), Ok(path.clone()));
    assert_eq!(empty(path.join("new")), Ok(path.join("new")));
    fs::write(path.join("something"), "").unwrap();
    assert!(empty(path).unwrap_err().to_string().contains("is not empty"));
}

#[test]
fn a_plan_that_is_written_is_read_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(PLAN_FILE);
    let plan = Plan::generate(3, 60_000, Databases::Postgres, 1);
    write_plan(&plan, &path).unwrap();
    assert_eq!(Plan::read(&path), Ok(plan));
    assert!(Plan::read(&directory.path().join("none")).is_err());
}
