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
    let plan = Plan::generate(3, 60_000);
    write_plan(&plan, &path).unwrap();
    assert_eq!(Plan::read(&path), Ok(plan));
    assert!(Plan::read(&directory.path().join("none")).is_err());
}
