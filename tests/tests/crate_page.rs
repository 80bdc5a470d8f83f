//! The first service on the kit's crate page compiles as a project outside this workspace, and runs.

use std::{
    env,
    process::{Child, Command},
};

use nudge_tests::{Nats, Services, TestDatabase, eventually, free_port};
use serde_json::json;

#[test]
fn the_page_opens_with_the_program_and_it_is_short() {
    let page = include_str!("../../crates/subscriber-kit/README.md");
    let program = include_str!("../../crates/subscriber-kit/examples/names.rs");
    assert!(page.contains(&format!("```no_run\n{program}```\n")), "the page shows another program");
    assert!(program.lines().count() <= 30);
}

/// The page's program, built as its reader would. `scripts/run-tests` builds it before the tests.
pub(crate) fn built() -> String {
    if let Ok(program) = env::var("NUDGE_OUTSIDE_PROGRAM") {
        return program;
    }
    let built = Command::new(nudge_testbed::script("outside-project")).output().unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    String::from_utf8(built.stdout).unwrap().trim().to_owned()
}

/// Ends the program even if the test fails.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_program_of_the_page_fills_itself_and_stays_in_step() {
    let nats = Nats::start().await;
    let services = Services::start(&nats).await;
    services.put_store("1", json!({"name": "달빛국수"})).await;
    let database = TestDatabase::new().await;
    let url = database.url();
    let port = free_port();
    let program = Command::new(built())
        .env("DATABASE_URL", url)
        .env("NATS_URL", nats.url())
        .env("STORE_OWNER_URL", services.store_info(""))
        .env("BIND", format!("127.0.0.1:{port}"))
        .spawn();
    let _program = Program(program.unwrap());
    let asked = format!("http://127.0.0.1:{port}/names/1");
    let named = async |expected: Option<&str>| {
        eventually("the name is kept", || async {
            let answer = services.http.get(&asked).send().await.ok()?;
            let known = match answer.status().as_u16() {
                200 => Some(answer.text().await.ok()?),
                404 => None,
                _ => return None,
            };
            (known.as_deref() == expected).then_some(())
        })
        .await;
    };
    named(Some("달빛국수")).await;
    services.put_store("1", json!({"name": "별빛우동"})).await;
    named(Some("별빛우동")).await;
    let delete = services.http.delete(services.store_info("/stores/1")).send().await.unwrap();
    assert_eq!(delete.status(), 204);
    named(None).await;
}
