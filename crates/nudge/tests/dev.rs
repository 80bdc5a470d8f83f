//! `nudge dev` with a real NATS server: nothing is left behind. The services are stand-ins, but in `real`.

pub(crate) mod auth;
mod chaos;
mod charging;
pub(crate) mod demo;
mod postgres;
pub(crate) mod real;

use std::{fs, net::TcpStream};

use rustix::process::{Signal, kill_process};

use demo::{Demo, SERVICES, ends, eventually, signal};

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
        assert!(place("stopping the services") < place("stopping NATS"), "{stderr}");
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

/// It may have been killed between starting a program and saying so.
#[tokio::test]
async fn a_demo_that_is_killed_leaves_nothing_behind_of_which_it_has_not_told() {
    let demo = Demo::of_services_with_children();
    let (child, mut pids) = demo.start().await;
    pids.extend(demo.children().await);
    signal(&child, Signal::KILL);
    ends(child).await;
    demo.is_gone(pids).await;
}

/// To start a program takes files, too.
#[tokio::test]
async fn a_service_that_is_killed_while_connections_pile_up_at_the_console_is_started_again() {
    const FILES: usize = 256;
    let demo = Demo::new();
    let (child, pids) = demo.spawn(demo.command_with_files(FILES)).await;
    let address = ("127.0.0.1", demo.port_base);
    let slow: Vec<_> = (0..2 * FILES).map(|_| TcpStream::connect(address).unwrap()).collect();
    let file = demo.path(&format!("{}.pid", SERVICES[0]));
    let before = fs::read_to_string(&file).unwrap();
    kill_process(pids[0], Signal::KILL).unwrap();
    let after =
        || fs::read_to_string(&file).ok().filter(|pid| pid.ends_with('\n') && *pid != before);
    eventually("it runs again", after).await;
    drop(slow);
    signal(&child, Signal::TERM);
    assert!(ends(child).await.status.success());
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
