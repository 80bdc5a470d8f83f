use std::os::unix::fs::PermissionsExt;

use super::*;

/// A directory as a demo leaves it.
fn used() -> tempfile::TempDir {
    let temporary = tempfile::tempdir().unwrap();
    let data = DataDir::lock(temporary.path(), false).unwrap();
    data.prepare().unwrap();
    for file in ["search.db", "search.db-wal", "store-info.db", "logs/search.log"] {
        fs::write(temporary.path().join(file), "x").unwrap();
    }
    fs::create_dir_all(data.nats().join("jetstream/$G")).unwrap();
    temporary
}

fn refusal(path: &Path) -> String {
    DataDir::lock(path, true).unwrap_err().to_string()
}

#[test]
fn nobody_else_may_look_into_it() {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("new/data");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let data = DataDir::lock(&path, false).unwrap();
    data.prepare().unwrap();
    data.give_to("somebody").unwrap();
    for (inside, expected) in
        [("", 0o700), ("logs", 0o700), ("nats", 0o700), (LOCK_FILE, 0o600), (OWNER_FILE, 0o600)]
    {
        assert_eq!(mode(&path.join(inside)), expected, "{inside}");
    }
    drop(data);
    // As earlier releases made it.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    DataDir::lock(&path, false).unwrap();
    assert_eq!(mode(&path), 0o700);
    // Somebody's own directory stays as it is.
    let own = temporary.path().join("own");
    fs::create_dir(&own).unwrap();
    fs::set_permissions(&own, fs::Permissions::from_mode(0o755)).unwrap();
    DataDir::lock(&own, false).unwrap();
    assert_eq!(mode(&own), 0o755);
}

#[test]
fn a_lock_that_is_a_link_is_refused_and_not_written_through() {
    let temporary = tempfile::tempdir().unwrap();
    let (path, precious) = (temporary.path().join("data"), temporary.path().join("precious"));
    fs::create_dir(&path).unwrap();
    fs::write(&precious, "text").unwrap();
    for file in [LOCK_FILE, OWNER_FILE] {
        std::os::unix::fs::symlink(&precious, path.join(file)).unwrap();
        let refused = DataDir::lock(&path, false).and_then(|data| data.give_to("somebody"));
        assert!(refused.unwrap_err().to_string().contains(file));
        assert_eq!(fs::read_to_string(&precious).unwrap(), "text");
        fs::remove_file(path.join(file)).unwrap();
    }
}

#[test]
fn fresh_deletes_what_the_demo_made_and_keeps_the_lock() {
    let used = used();
    let data = DataDir::lock(used.path(), true).unwrap();
    data.clear().unwrap();
    assert_eq!(names(used.path()).unwrap(), [LOCK_FILE]);
}

#[test]
fn fresh_refuses_a_directory_that_holds_anything_else() {
    for stranger in ["notes.txt", "search.db.bak", "logs/thesis.tex", "nats/accounts", "search"] {
        let used = used();
        fs::write(used.path().join(stranger), "mine").unwrap();
        let refusal = refusal(used.path());
        assert!(refusal.contains(stranger), "{refusal}");
        assert!(used.path().join("search.db").exists(), "{stranger}");
    }
}

#[test]
fn fresh_refuses_a_directory_without_the_mark_and_does_not_mark_it() {
    let foreign = tempfile::tempdir().unwrap();
    fs::create_dir(foreign.path().join("logs")).unwrap();
    let refusal = refusal(foreign.path());
    assert!(refusal.contains("was not created by `nudge dev`"), "{refusal}");
    assert_eq!(names(foreign.path()).unwrap(), ["logs"]);
}

#[test]
fn fresh_takes_a_link_away_and_leaves_what_it_points_to() {
    let (used, elsewhere) = (used(), tempfile::tempdir().unwrap());
    fs::write(elsewhere.path().join("kept.log"), "x").unwrap();
    fs::remove_dir_all(used.path().join("logs")).unwrap();
    std::os::unix::fs::symlink(elsewhere.path(), used.path().join("logs")).unwrap();
    DataDir::lock(used.path(), true).unwrap().clear().unwrap();
    assert!(elsewhere.path().join("kept.log").exists());
    assert!(!used.path().join("logs").exists());
}

#[test]
fn fresh_in_a_place_that_does_not_exist_is_just_a_start() {
    let temporary = tempfile::tempdir().unwrap();
    let data = DataDir::lock(&temporary.path().join("new"), true).unwrap();
    data.clear().unwrap();
    data.prepare().unwrap();
    assert!(data.logs().is_dir());
}

#[test]
fn a_second_one_is_refused_until_every_handle_is_gone() {
    let temporary = tempfile::tempdir().unwrap();
    let first = DataDir::lock(temporary.path(), false).unwrap();
    let shared = first.share_lock().unwrap();
    let refused = || DataDir::lock(temporary.path(), false).map(drop);
    let line = refused().unwrap_err().to_string();
    assert!(line.contains(&format!("(process {})", std::process::id())), "{line}");
    drop(first);
    assert!(refused().is_err());
    drop(shared);
    refused().unwrap();
}

#[test]
fn a_database_url_survives_odd_paths() {
    let temporary = tempfile::tempdir().unwrap();
    let data = DataDir::lock(&temporary.path().join("50% off?"), false).unwrap();
    let url = data.database_url("search").unwrap();
    assert!(url.ends_with("/50%25 off%3F/search.db"), "{url}");
}
