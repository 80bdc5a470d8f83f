use super::{welcome::WaysIn, *};

fn welcome(exe: &str, port_base: u16, chaos: bool, ways_in: Option<&WaysIn>) -> String {
    let welcome = Welcome { exe: Path::new(exe), port_base, kept: "here", chaos, ways_in };
    welcome.lines(Duration::from_millis(1_234)).join("\n")
}

#[test]
fn the_lines_to_copy_name_other_ports_and_odd_paths() {
    let lines = welcome("/my builds/nudge", 7300, true, None);
    assert!(lines.starts_with("ready after 1.2 s: http://127.0.0.1:7300\n"), "{lines}");
    assert!(lines.contains("'/my builds/nudge' --port-base 7300 watch"), "{lines}");
    assert!(lines.contains("http://127.0.0.1:7302/stores"), "{lines}");
    assert!(lines.contains("'/my builds/nudge' --port-base 7300 break hold "), "{lines}");
    let lines = welcome("/bin/nudge", 7100, false, None);
    assert!(lines.contains("  /bin/nudge watch\n"), "{lines}");
    assert!(!lines.contains("break"), "only with --chaos: {lines}");
    assert!(!lines.contains("token"), "only with --auth: {lines}");
}

#[test]
fn with_tokens_the_lines_to_copy_name_the_files() {
    let temporary = tempfile::tempdir().unwrap();
    let data = DataDir::lock(&temporary.path().join("my data"), false).unwrap();
    let tokens = Tokens::prepare(&data).unwrap();
    let lines = welcome("/bin/nudge", 7300, false, Some(&WaysIn::of(&tokens)));
    let auth = data.path().join("auth").display().to_string();
    assert!(lines.contains(&format!("export NUDGE_TOKEN_FILE='{auth}/operator.token'")), "{lines}");
    let token = format!("nudge --port-base 7300 token --key '{auth}/signing.key' --subject ");
    assert!(lines.contains(&token), "{lines}");
    assert!(lines.contains(&format!(". '{auth}/guest.env'")), "{lines}");
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
