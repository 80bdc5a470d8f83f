//! `nudge conformance` on real owners: the one in Python, and our own.

use std::{ffi::OsString, path::Path};

use nudge_testbed::{
    Nats, Program, eventually,
    ports::free_port,
    program::{Launch, Output},
};
use tokio::process::Command;

/// A program that is an owner of stores on this port, in a directory of its own.
fn owner(exe: &str, args: &[OsString], env: Vec<(&'static str, String)>) -> Program {
    let mut launch = Launch::new("owner", exe, Output::Nowhere);
    (launch.args, launch.env) = (args.to_vec(), env);
    let mut program = Program::new(launch);
    program.start().expect("the owner starts");
    program
}

/// Runs the command on the owner on this port. Returns whether it found nothing wrong, and what it says.
async fn try_out(port: u16, nats: &Nats, more: &[&str]) -> (bool, String) {
    eventually("the owner answers", || async {
        tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok()
    })
    .await;
    let base = format!("http://127.0.0.1:{port}");
    let mut command = Command::new(env!("CARGO_BIN_EXE_nudge"));
    command.args(["conformance", "--owner", &base, "--nats", &nats.url()]);
    if !more.contains(&"--entity") {
        command.args(["--entity", "store"]);
    }
    command.args(["--write-url", &format!("{base}/stores/{{id}}")]).args(more).kill_on_drop(true);
    let output = command.output().await.expect("nudge runs");
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(said).expect("UTF-8"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_owner_in_python_and_store_info_break_no_rule_of_the_protocol() {
    let directory = tempfile::tempdir().unwrap();
    let (port, nats) = (free_port(), Nats::start().await);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/python/owner.py");
    let args = [
        script.into(),
        "--port".into(),
        port.to_string().into(),
        "--nats".into(),
        nats.url().into(),
        "--database".into(),
        directory.path().join("python.db").into(),
    ];
    let _python = owner("python3", &args, vec![("PYTHONDONTWRITEBYTECODE", "1".to_owned())]);
    let (kept, said) = try_out(port, &nats, &[]).await;
    // It offers no digests.
    assert!(kept && said.contains("0 broken, 1 not tried"), "{said}");

    let (port, nats) = (free_port(), Nats::start().await);
    let database = format!("sqlite:{}", directory.path().join("store-info.db").display());
    let env = vec![
        ("BIND", format!("127.0.0.1:{port}")),
        ("NATS_URL", nats.url()),
        ("DATABASE_URL", database),
    ];
    let _ours = owner(env!("CARGO_BIN_EXE_nudge"), &["service".into(), "store-info".into()], env);
    let (kept, said) = try_out(port, &nats, &[]).await;
    assert!(kept && said.contains("0 broken, 0 not tried"), "{said}");
    let (kept, said) = try_out(port, &nats, &["--entity", "shop"]).await;
    assert!(
        !kept && said.contains("nothing is known of shop") && said.lines().count() == 1,
        "{said}"
    );
    // Once more, on what the first time left behind, as JSON.
    let (kept, said) = try_out(port, &nats, &["--json"]).await;
    assert!(kept, "{said}");
    let report: serde_json::Value = serde_json::from_str(&said).unwrap();
    let findings = report["findings"].as_array().unwrap();
    assert!(findings.iter().all(|finding| finding["result"] == "kept"), "{said}");
}

#[tokio::test]
async fn an_owner_that_does_not_answer_is_said_to_be_away() {
    let port = free_port().to_string();
    let mut command = Command::new(env!("CARGO_BIN_EXE_nudge"));
    let owner = format!("http://127.0.0.1:{port}");
    command.args(["conformance", "--entity", "store", "--owner", &owner]);
    let output = command.output().await.unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.starts_with("error: http://127.0.0.1:") && said.contains("items"), "{said}");
}
