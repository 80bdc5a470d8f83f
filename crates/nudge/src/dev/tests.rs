use super::*;

#[test]
fn the_lines_to_copy_name_other_ports_and_odd_paths() {
    let exe = Path::new("/my builds/nudge");
    let lines = welcome(exe, 7300, "here", true, Duration::from_millis(1_234)).join("\n");
    assert!(lines.starts_with("ready after 1.2 s: http://127.0.0.1:7300\n"), "{lines}");
    assert!(lines.contains("'/my builds/nudge' --port-base 7300 watch"), "{lines}");
    assert!(lines.contains("http://127.0.0.1:7302/stores"), "{lines}");
    assert!(lines.contains("'/my builds/nudge' --port-base 7300 break hold "), "{lines}");
    let lines = welcome(Path::new("/bin/nudge"), 7100, "here", false, Duration::ZERO).join("\n");
    assert!(lines.contains("  /bin/nudge watch\n"), "{lines}");
    assert!(!lines.contains("break"), "only with --chaos: {lines}");
}

#[test]
fn each_service_gets_its_own_database_and_port() {
    let temporary = tempfile::tempdir().unwrap();
    let data = DataDir::lock(temporary.path(), false).unwrap();
    let url = data.database_url("review").unwrap();
    let env = service_env(Service::Review, 7300, url, true, None);
    let env: std::collections::HashMap<_, _> = env.into_iter().collect();
    assert!(env["DATABASE_URL"].ends_with("/review.db"));
    assert_eq!(env["BIND"], "127.0.0.1:7303");
    assert_eq!(env["NATS_URL"], "nats://127.0.0.1:7322");
    assert_eq!(env["STORE_OWNER_URL"], "http://127.0.0.1:7301");
}

/// Otherwise nothing that is done to a line would change anything.
#[tokio::test]
async fn with_lines_a_service_reaches_nobody_without_them() {
    let lines = Lines::of_the_demo(7300, 7322).await.unwrap();
    for service in Service::ALL {
        let env = service_env(service, 7300, String::new(), true, Some(&lines));
        let leads =
            env.iter().filter(|(name, _)| name.ends_with("_URL") && *name != "DATABASE_URL");
        let leads: Vec<_> = leads.map(|(_, url)| url.as_str()).collect();
        assert_eq!(leads.len(), 1 + service.asks().len());
        assert!(!leads.iter().any(|url| url.contains(":73")), "{leads:?}");
    }
}
