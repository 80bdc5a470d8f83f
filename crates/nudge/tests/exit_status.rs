//! What scripts rely on: the exit status, and one line on standard error.

use std::process::{Command, Output};

/// A port base with nobody behind it: the reserved ports below 1024 that no test may listen on.
const NOBODY: &str = "900";

fn nudge(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nudge"));
    command.args(["--port-base", NOBODY]).args(args).output().unwrap()
}

fn check(args: &[&str], code: i32, said: &str) {
    let output = nudge(args);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
    assert!(stderr.contains(said), "{args:?}: {stderr}");
}

#[test]
fn when_nobody_answers_each_verb_fails_in_one_line_that_asks_for_the_demo() {
    for args in [
        &["status"][..],
        &["watch"],
        &["store", "get", "42"],
        &["store", "put", "42", "--name", "x"],
        &["store", "rm", "42"],
        &["store", "import", "/dev/null"],
        &["wait", "store/42@17", "--timeout-ms", "1"],
        &["dead-letters", "ls", "--json"],
    ] {
        check(args, 1, "error: nothing answers on 127.0.0.1:90");
        let stderr = nudge(args).stderr;
        assert!(stderr.ends_with(b"is \"make demo\" running?\n"), "{args:?}");
        assert_eq!(stderr.iter().filter(|byte| **byte == b'\n').count(), 1, "{args:?}");
    }
}

#[test]
fn a_command_line_that_makes_no_sense_is_told_apart() {
    check(&["store", "put", "42"], 1, "nothing answers");
    check(&["store", "get", "."], 2, "cannot be part of a URL");
    check(&["store", "get", ""], 2, "an ID must not be empty");
    check(&["wait", "store/42"], 2, "a token is");
    check(&["wait", "store/42@17", "--subscriber", "adverts"], 2, "search");
    check(&["dead-letters", "discard"], 2, "give an entity and an ID");
    check(&["dead-letters", "discard", "store", "42", "--all"], 2, "cannot be used with");
    check(&["store", "put", "42", "--open", "perhaps"], 2, "--open");
    check(&["store", "put", "42", "--menu", "국수"], 2, "국수=7000");
    check(&["store", "put", "42", "--name", "x", "--file", "-"], 2, "cannot be used with");
    check(&["praise"], 2, "praise");
    for flag in ["--token-file", "--ca-file"] {
        check(&[flag, "/nowhere", "status"], 2, &format!("error: {flag}: /nowhere: "));
    }
    check(&["--cert-file", "/nowhere", "status"], 2, "need each other");
    let both = ["--cert-file", "/nowhere", "--key-file", "/nowhere", "status"];
    check(&both, 2, "error: --cert-file: /nowhere: ");
}

/// Neither a token nor an edit goes over a network in the clear, however the address was given.
#[test]
fn another_machine_is_reached_with_tls_only() {
    let nats = ["--nats-url", "nats://nats.example"];
    let nowhere = ["conformance", "--entity", "store", "--owner", "http://127.0.0.1:900"];
    for (args, said) in [
        (&["--also", "mine=http://mine.example", "status"][..], "mine: mine.example is not"),
        (&["--also", "mine=http://mine.example", "dev"], "mine: mine.example is not"),
        (&["console", "--service", "http://10.0.0.1"], "--service: 10.0.0.1 is not"),
        (&["console", "--service", "a=http://10.0.0.1"], "a: 10.0.0.1 is not"),
        (&[&["status"], &nats[..]].concat(), "--nats-url: nats.example is not"),
        (&[&["console"], &nats[..]].concat(), "--nats-url: nats.example is not"),
        (&[&nowhere, &["--nats", nats[1]][..]].concat(), "--nats: nats.example is not"),
        (
            &[&nowhere, &["--write-url", "http://mine.example/{id}"][..]].concat(),
            "--write-url: mine.example is not",
        ),
        (
            &[&nowhere, &["--write-url", "http://{id}.mine.example"][..]].concat(),
            "--write-url: id.mine.example is not",
        ),
        (&[&nowhere[..4], &["http://mine.example"]].concat(), "--owner: mine.example is not"),
        (&[&nowhere[..4], &[" http://가게.example"]].concat(), "is not this machine"),
    ] {
        check(args, 2, said);
    }
}

#[test]
fn help_tells_the_exit_status() {
    let output = nudge(&["--help"]);
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && stdout.contains("3 timed out waiting"), "{stdout}");
}
