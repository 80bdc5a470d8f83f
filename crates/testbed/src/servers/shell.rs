//! The shells that come with the databases.

use std::{
    io::ErrorKind,
    path::PathBuf,
    process::{Command, Output, Stdio},
    sync::OnceLock,
};

/// Runs statements in the shell of the database at this URL. Panics with its message if it fails.
pub fn run(url: &str, sql: &str) {
    let output = match url.strip_prefix("sqlite:") {
        Some(path) => sqlite(path, sql),
        None => {
            let mut psql = Command::new(psql());
            psql.args(["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--command", sql, url]);
            psql.stdin(Stdio::null()).output().expect("psql runs")
        }
    };
    assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
}

/// `sqlite3` if installed; else Python, which includes SQLite.
fn sqlite(path: &str, sql: &str) -> Output {
    let mut shell = Command::new("sqlite3");
    shell.args(["-batch", "-bail", "-cmd", ".timeout 30000", path, sql]).stdin(Stdio::null());
    match shell.output() {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let program = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], timeout=30); \
                           c.executescript(sys.argv[2]); c.commit()";
            let mut python = Command::new("python3");
            python.args(["-c", program, path, sql]).output().expect("python3 runs")
        }
        done => done.expect("sqlite3 runs"),
    }
}

/// The shell that belongs to the tests' server, wherever that is installed.
pub fn psql() -> &'static PathBuf {
    static PSQL: OnceLock<PathBuf> = OnceLock::new();
    PSQL.get_or_init(|| {
        let mut find = Command::new("python3");
        let found = find.arg(super::script("postgres")).arg("find").output().expect("python3 runs");
        let found = PathBuf::from(String::from_utf8(found.stdout).expect("a path").trim());
        // It is often a link: look next to its target.
        let linked = found.join("postgres").canonicalize().unwrap_or_default();
        let beside = [found.join("psql"), linked.with_file_name("psql")];
        beside.into_iter().find(|path| path.is_file()).unwrap_or_else(|| "psql".into())
    })
}
