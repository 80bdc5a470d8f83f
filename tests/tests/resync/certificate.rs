//! A certificate says what both sides have, and a program of another language recomputes it.

use std::process::{Command, Output, Stdio};

use super::*;

/// Asks for a comparison, and returns what the subscriber then certifies of its one entity.
async fn certified(copy: &Copy) -> Value {
    swept(copy).await;
    copy.get("certificates").await["certificates"][0].take()
}

/// Runs `scripts/check-certificate` on these databases.
fn check(certificate: &Value, copy: &Copy, owner: &Owner) -> Output {
    use std::io::Write;
    let mut command = Command::new("python3");
    command.arg(nudge_testbed::script("check-certificate")).arg("-");
    command.args(["--subscriber", copy.database().url(), "--owner", owner.database.url()]);
    command.arg("--psql").arg(nudge_testbed::shell::psql());
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().expect("python3 runs");
    writeln!(child.stdin.take().unwrap(), "{certificate}").unwrap();
    child.wait_with_output().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_recomputed_from_the_two_databases() {
    let world = World::start(THINGS, eager()).await;
    let World { owner, copy, .. } = &world;
    owner.delete("t007").await;
    equal(copy, owner).await;
    copy.handled(owner).await;
    let certified = certified(copy).await;
    let certificate = &certified["certificate"];
    assert_eq!(certificate["entities"], THINGS - 1, "{certified}");
    assert_eq!((&certificate["tombstones"], &certificate["in_flight"]), (&json!(1), &json!([])));
    assert_eq!(certificate["owner"], owner.url());
    let checked = check(certificate, copy, owner);
    assert!(checked.status.success(), "{checked:?}");

    // It would notice any other version, row or digest.
    for (field, value) in [
        ("digest", json!("0".repeat(64))),
        ("entities", json!(THINGS)),
        ("in_flight", json!(["t001"])),
    ] {
        let mut wrong = certificate.clone();
        wrong[field] = value;
        let checked = check(&wrong, copy, owner);
        assert_eq!(checked.status.code(), Some(1), "{field}: {checked:?}");
    }
}

/// What is a dead letter differs; a change that is in flight is named and left out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_names_what_was_in_flight_and_there_is_none_if_something_differed() {
    let World { nats: _nats, owner, copy, .. } = World::start(THINGS, eager()).await;
    copy.handled(&owner).await;
    copy.refuse(|id| (id == "t200").then(|| "it is refused".into()));
    owner.put("t200", json!({"name": "refused"})).await;
    copy.dead_letters(1).await;
    let why_not = eventually("it is set aside", || async {
        certified(&copy).await["why_not"].as_str().map(str::to_owned)
    })
    .await;
    assert!(why_not.contains("1 entities differ and are parked or dead letters"), "{why_not}");
    copy.accept();
    owner.put("t200", json!({"name": "accepted"})).await;
    equal(&copy, &owner).await;

    // Without its relay, so that the change stays in flight.
    owner.go_away().await;
    owner.come_back().await;
    owner.put("t100", json!({"name": "changed"})).await;
    let certificate = eventually("the change is named", || async {
        let certificate = certified(&copy).await["certificate"].take();
        (certificate["in_flight"] == json!(["t100"])).then_some(certificate)
    })
    .await;
    assert_eq!(certificate["entities"], THINGS - 1);
    let checked = check(&certificate, &copy, &owner);
    assert!(checked.status.success(), "{checked:?}");
    copy.stop().await;
}

/// How long a difference lasts is counted, and kept across a restart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn differences_are_counted_by_their_age() {
    let World { nats: _nats, broker, owner, copy, .. } = World::start(THINGS, eager()).await;
    copy.handled(&owner).await;
    alter(&copy.db, "UPDATE nudge_applied SET version = version - 5 WHERE id = 't002'").await;
    equal(&copy, &owner).await;
    let audit = async |copy: &Copy| copy.status().await["resync"]["audit"]["current"].take();
    let before = eventually("it is counted", || async {
        let audit = audit(&copy).await;
        let whole = audit["compared"].as_u64()? >= THINGS as u64;
        (whole && audit["differed"]["one_second"] == 1).then_some(audit)
    })
    .await;
    let copy = copy.restart(&broker, &owner).await;
    swept(&copy).await;
    let after = audit(&copy).await;
    assert_eq!(
        (&after["began_at"], &after["differed"]["one_second"]),
        (&before["began_at"], &json!(1))
    );
    assert!(after["compared"].as_u64() > before["compared"].as_u64());
    assert_eq!(after["differed"]["ten_seconds"], 0);
}
