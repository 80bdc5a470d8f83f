//! No secret is repeated: not in an error, not in a log, not by `--help`.

use std::process::Stdio;

use nudge_testbed::PATIENCE;
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    process::Command,
};

const NUDGE: &str = env!("CARGO_BIN_EXE_nudge");
const SECRET: &str = "hunter2-is-secret";

/// All that search says with these settings: until it ends, or has said something and is told to stop.
async fn said(settings: &[(&str, &str)], words: &[&str]) -> String {
    let directory = tempfile::tempdir().unwrap();
    let mut command = Command::new(NUDGE);
    command.args(["service", "search"]).args(words).current_dir(directory.path());
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.env("BIND", "127.0.0.1:0").env("STORE_OWNER_URL", "http://127.0.0.1:1");
    for (name, value) in settings {
        if let Some(text) = value.strip_prefix("file:") {
            std::fs::write(directory.path().join(name), text).unwrap();
            command.env(name, directory.path().join(name));
        } else {
            command.env(name, value);
        }
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.kill_on_drop(true).spawn().unwrap();
    let (mut out, mut err) =
        (child.stdout.take().unwrap(), BufReader::new(child.stderr.take().unwrap()));
    let pid = child.id().and_then(|id| Pid::from_raw(id.cast_signed())).unwrap();
    let all = async {
        let mut text = String::new();
        // What goes wrong is said first, or right after that it listens.
        while !["cannot", "error", "unreachable", "refused"].iter().any(|word| text.contains(word))
        {
            if err.read_line(&mut text).await.unwrap() == 0 {
                break;
            }
        }
        // It may have ended.
        let _ = kill_process(pid, Signal::TERM);
        err.read_to_string(&mut text).await.unwrap();
        out.read_to_string(&mut text).await.unwrap();
        text
    };
    let text = tokio::time::timeout(PATIENCE, all).await.unwrap_or_else(|_| {
        panic!("nothing is said of {settings:?} {words:?}");
    });
    child.wait().await.unwrap();
    assert!(!text.is_empty(), "{settings:?}");
    text
}

#[tokio::test]
async fn no_secret_is_repeated_whatever_is_wrong_with_it() {
    let sqlite = ("DATABASE_URL", "sqlite:search.db");
    let nobody = ("NATS_URL", "nats://127.0.0.1:1");
    let text = |text: &str| text.replace("SECRET", SECRET);
    // What is wrong, and a word of what is said of it.
    let cases: &[(&[(&str, &str)], &str)] = &[
        (&[("DATABASE_URL", "postgres://me:SECRET@127.0.0.1:1/d")], "DATABASE_URL"),
        (&[("DATABASE_URL", "postgres://me:SECRET@127.0.0.1:port/d")], "DATABASE_URL"),
        (&[("DATABASE_URL", "mysql://me:SECRET@h/d")], "DATABASE_URL"),
        (&[("DATABASE_URL", "SECRET")], "DATABASE_URL"),
        (&[("DATABASE_URL_FILE", "file:postgres://me:SECRET@127.0.0.1:1/d\n")], "DATABASE_URL"),
        (&[("DATABASE_URL_FILE", "file:SECRET\n")], "DATABASE_URL_FILE"),
        (
            &[sqlite, ("DATABASE_URL_FILE", "file:postgres://me:SECRET@h/d")],
            "cannot be set together",
        ),
        (&[sqlite, ("NATS_URL", "nats://me:SECRET@127.0.0.1:1")], "127.0.0.1:1"),
        (&[sqlite, ("NATS_URL", "http://me:SECRET@127.0.0.1:1")], "NATS_URL"),
        (&[sqlite, nobody, ("ALERT_WEBHOOK_URL", "ftp://hooks/SECRET")], "ALERT_WEBHOOK_URL"),
        (&[sqlite, nobody, ("ALERT_WEBHOOK_URL_FILE", "file:SECRET")], "ALERT_WEBHOOK_URL_FILE"),
        (&[sqlite, nobody, ("ALERT_WEBHOOK_URL", "http://127.0.0.1:1/SECRET")], "127.0.0.1:1"),
        (
            &[sqlite, nobody, ("ALERT_WEBHOOK_URL", "http://hooks/SECRET")],
            "hooks is not this machine",
        ),
        (
            &[sqlite, nobody, ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318")],
            "collector is not this machine",
        ),
        (&[sqlite, nobody, ("OTEL_EXPORTER_OTLP_HEADERS", "SECRET")], "OTEL_EXPORTER_OTLP_HEADERS"),
        (
            &[sqlite, nobody, ("OTEL_EXPORTER_OTLP_HEADERS_FILE", "file:SECRET")],
            "OTEL_EXPORTER_OTLP_HEADERS_FILE",
        ),
    ];
    for (settings, word) in cases {
        let filled: Vec<_> = settings.iter().map(|(name, value)| (*name, text(value))).collect();
        let filled: Vec<_> = filled.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let said = said(&[&filled[..], &[("LOG", "debug")]].concat(), &[]).await;
        assert!(said.contains(word), "{settings:?}: {said}");
        assert!(!said.contains(SECRET), "{settings:?}: {said}");
    }
}

#[tokio::test]
async fn help_shows_no_secret_of_the_environment() {
    let names = ["DATABASE_URL", "NATS_URL", "ALERT_WEBHOOK_URL", "OTEL_EXPORTER_OTLP_HEADERS"];
    let settings = names.map(|name| (name, SECRET));
    let help = said(&settings, &["--help"]).await;
    for name in names {
        assert!(help.contains(&format!("[env: {name}]")), "{name}: {help}");
        let file = format!("{name}_FILE");
        assert!(name == "NATS_URL" || help.contains(&file), "{file}: {help}");
    }
    assert!(!help.contains(SECRET), "{help}");
}
