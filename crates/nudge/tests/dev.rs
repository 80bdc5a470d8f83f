//! `nudge dev` with a real NATS server: nothing is left behind. The services are stand-ins, but for one test.

mod demo;
mod postgres;
mod real;

use std::fs;

use rustix::process::Signal;

use demo::{Demo, SERVICES, ends, signal};

#[tokio::test]
async fn a_signal_stops_everything_in_order_and_is_a_success() {
    let demo = Demo::new();
    for sent in [Signal::INT, Signal::TERM] {
        let (child, pids) = demo.start().await;
        signal(&child, sent);
        let output = ends(child).await;
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(0), "{stderr}");
        let place = |text: &str| stderr.find(text).unwrap_or_else(|| panic!("{text}: {stderr}"));
        assert!(place("stopping store-info") < place("stopping NATS"), "{stderr}");
        demo.is_gone(pids).await;
        for service in SERVICES {
            fs::remove_file(demo.path(&format!("{service}.pid"))).unwrap();
        }
    }
    assert!(demo.path("data/nats/jetstream").is_dir(), "the data is kept");
}

#[tokio::test]
async fn a_demo_that_is_killed_leaves_no_child_behind() {
    let demo = Demo::new();
    let (child, pids) = demo.start().await;
    signal(&child, Signal::KILL);
    ends(child).await;
    demo.is_gone(pids).await;
}

#[tokio::test]
async fn a_second_start_on_the_same_data_or_ports_is_refused_before_it_touches_anything() {
    let demo = Demo::new();
    let (child, pids) = demo.start().await;

    let output = ends(demo.command().arg("--fresh").spawn().unwrap()).await;
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(
        stderr.lines().last().unwrap().contains("is in use by another `nudge dev`"),
        "{stderr}"
    );

    let output = ends(demo.command_in("other").spawn().unwrap()).await;
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    let taken = format!("port {} (NATS) is already in use", demo.port_base + 22);
    assert!(stderr.contains(&taken) && stderr.contains("--port-base"), "{stderr}");
    assert!(!demo.path("other/nats").exists(), "it stopped before it made anything");

    signal(&child, Signal::TERM);
    assert!(ends(child).await.status.success());
    demo.is_gone(pids).await;
}
