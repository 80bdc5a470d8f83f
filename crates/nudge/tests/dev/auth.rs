//! `nudge dev --auth`: everything asks for a token, and whoever belongs to it has one.

use std::{fs, process::Output, time::Duration};

use nudge_runtime::auth::{
    Scope,
    sign::{Grant, SigningKey},
};
use nudge_testbed::eventually;
use reqwest::Client;
use tokio::process::{Child, Command};

use crate::dev::{
    demo::{Demo, NUDGE, ends},
    real::is_ready,
};

/// A demo that asks for tokens, with all samples everywhere.
async fn start(demo: &Demo, args: &[&str]) -> (Child, Vec<rustix::process::Pid>) {
    let mut command = demo.command();
    command.arg("--auth").args(args);
    // Of the commands in this terminal. At the first start, it is not there yet.
    command.env("NUDGE_TOKEN_FILE", demo.path("data/auth/operator.token"));
    let running = demo.spawn(command).await;
    is_ready(demo).await;
    running
}

/// A token that this demo made the key for.
pub(crate) fn token(demo: &Demo, scopes: &[Scope], life: Duration) -> String {
    let key = SigningKey::at(&demo.path("data/auth/signing.key")).unwrap();
    let grant = Grant { subject: "kim".into(), scopes: scopes.into(), only: None };
    key.token("nudge", "nudge", &grant, life)
}

async fn nudge(demo: &Demo, words: &[&str], with_token: bool) -> Output {
    let mut command = Command::new(NUDGE);
    command.args(["--port-base", &demo.port_base.to_string()]).args(words);
    command.env_remove("NUDGE_TOKEN_FILE");
    if with_token {
        command.env("NUDGE_TOKEN_FILE", demo.path("data/auth/operator.token"));
    }
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    ends(command.kill_on_drop(true).spawn().unwrap()).await
}

async fn stores(demo: &Demo, token: Option<&str>) -> u16 {
    let request = Client::new().get(format!("http://127.0.0.1:{}/stores", demo.port_base + 1));
    let request = match token {
        Some(token) => request.bearer_auth(token),
        None => request,
    };
    request.send().await.unwrap().status().as_u16()
}

#[tokio::test]
async fn a_demo_with_tokens_works_for_whoever_has_one_and_says_how_to_get_one() {
    let demo = Demo::of_real_services();
    let running = start(&demo, &[]).await;
    assert_eq!(stores(&demo, None).await, 401);
    for verb in [
        &["store", "get", "store-001"][..],
        &["store", "put", "42", "--name", "가게"],
        &["review", "ls", "store-001"],
        &["status"],
        &["why", "store/store-001"],
        &["wait", "store/store-001@1"],
        &["watch", "--count", "1"],
        &["pause", "search"],
        &["resync", "--subscriber", "search"],
        &["audit"],
        &["dead-letters", "ls"],
        &["tombstones", "ls", "store"],
    ] {
        let refused = nudge(&demo, verb, false).await;
        let said = [refused.stderr, refused.stdout].concat();
        let said = String::from_utf8(said).unwrap();
        assert!(!refused.status.success() && said.contains("--token-file"), "{verb:?}: {said}");
    }
    // Each service has what it needs for its part of this.
    for verb in [
        &["store", "put", "42", "--name", "가게", "--wait"][..],
        &["review", "add", "42", "--rating", "5", "--text", "맛있어요", "--author", "kim"],
        &["resync"],
        &["status"],
        &["audit"],
        &["why", "store/42"],
        &["dead-letters", "ls"],
    ] {
        let done = nudge(&demo, verb, true).await;
        let said = [done.stderr, done.stdout].concat();
        assert!(done.status.success(), "{verb:?}: {}", String::from_utf8_lossy(&said));
    }
    let storefront = format!("http://127.0.0.1:{}/stores/42", demo.port_base + 4);
    let reader = token(&demo, &[Scope::Read], Duration::from_secs(60));
    let page = Client::new().get(&storefront).bearer_auth(&reader).send().await.unwrap();
    assert_eq!(page.status(), 200);

    let data = demo.path("data").display().to_string();
    let words = ["token", "--data-dir", &data, "--subject", "lee", "--scope", "read"];
    let made = nudge(&demo, &words, false).await;
    let made = String::from_utf8(made.stdout).unwrap();
    assert_eq!(stores(&demo, Some(made.trim())).await, 200);
    demo.stop(running).await;
}

#[tokio::test]
async fn tokens_come_and_go_with_the_flag_and_stay_good_over_a_restart() {
    let demo = Demo::of_real_services();
    let open = demo.start().await;
    is_ready(&demo).await;
    assert_eq!(stores(&demo, None).await, 200);
    demo.stop(open).await;

    let asking = start(&demo, &[]).await;
    let kim = token(&demo, &[Scope::Read], Duration::from_secs(600));
    assert_eq!((stores(&demo, None).await, stores(&demo, Some(&kim)).await), (401, 200));
    demo.stop(asking).await;
    let again = start(&demo, &[]).await;
    assert_eq!(stores(&demo, Some(&kim)).await, 200);
    demo.stop(again).await;

    let fresh = start(&demo, &["--fresh"]).await;
    assert_eq!(stores(&demo, Some(&kim)).await, 401, "the key is new, like everything else");
    demo.stop(fresh).await;
    let open = demo.start().await;
    is_ready(&demo).await;
    assert_eq!(stores(&demo, None).await, 200);
    demo.stop(open).await;
}

/// The drawer lets subscribers compare when it has healed, which is an operator's request.
#[tokio::test]
async fn what_is_broken_by_hand_heals_where_tokens_are_asked_for_too() {
    let demo = Demo::of_real_services();
    let running = start(&demo, &["--chaos"]).await;
    let dropped = ["break", "drop", "--service", "search", "--next", "1"];
    let refused = String::from_utf8(nudge(&demo, &dropped, false).await.stderr).unwrap();
    assert!(refused.contains("--token-file"), "{refused}");
    let observer = token(&demo, &[Scope::Observe], Duration::from_secs(60));
    fs::write(demo.path("observer.token"), observer).unwrap();
    let file = demo.path("observer.token").display().to_string();
    let words = [&["--token-file", &file][..], &dropped].concat();
    let refused = String::from_utf8(nudge(&demo, &words, false).await.stderr).unwrap();
    assert!(refused.contains("the scope admin"), "{refused}");
    let broken = nudge(&demo, &dropped, true).await;
    assert!(broken.status.success(), "{}", String::from_utf8_lossy(&broken.stderr));
    let put = nudge(&demo, &["store", "put", "store-001", "--name", "새 가게"], true).await;
    assert!(put.status.success(), "{}", String::from_utf8_lossy(&put.stderr));
    let written = String::from_utf8(put.stdout).unwrap();
    assert!(nudge(&demo, &["break", "heal"], true).await.status.success());
    let version = written.split("store/store-001@").nth(1).expect("it prints its token");
    let version: String = version.chars().take_while(char::is_ascii_digit).collect();
    let url = format!(
        "http://127.0.0.1:{}/nudge/v1/wait?token=store/store-001@{version}&timeout_ms=5000",
        demo.port_base + 2
    );
    let reader = token(&demo, &[Scope::Read], Duration::from_secs(600));
    eventually("search has it", || async {
        let answer = Client::new().get(&url).bearer_auth(&reader).send().await.ok()?;
        (answer.status() == 200).then_some(())
    })
    .await;
    demo.stop(running).await;
}
