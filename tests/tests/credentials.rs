//! How a program logs in to NATS: every way, on a server that lets nobody else in.

mod once {
    use std::path::{Path, PathBuf};

    use clap::Parser;
    use nudge_runtime::{Broker, broker::NatsArgs};
    use nudge_tests::{Copy, Nats, Owner, QUIET, Wire, eventually, free_port};
    use serde_json::json;
    use tempfile::{NamedTempFile, TempDir};

    /// Certificates and keys for tests only: see `tests/credentials`.
    fn of_tests(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("credentials").join(name)
    }

    fn text(name: &str) -> String {
        std::fs::read_to_string(of_tests(name)).expect("a file").trim().to_owned()
    }

    /// The arguments, parsed as a program does.
    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        nats: NatsArgs,
    }

    fn args<S: AsRef<str>>(words: &[S]) -> NatsArgs {
        let words = words.iter().map(|word| word.as_ref().to_owned());
        Program::try_parse_from(["program".to_owned()].into_iter().chain(words))
            .expect("good words")
            .nats
    }

    fn url(nats: &Nats, user: &str) -> String {
        format!("nats://{user}@127.0.0.1:{}", nats.port())
    }

    async fn enters(args: &NatsArgs) -> Broker {
        let broker = Broker::connect_with(args, "copies").await.expect("good settings");
        eventually("it is let in, and JetStream answers", || async {
            broker.jetstream.query_account().await.ok()
        })
        .await;
        broker
    }

    async fn stays_out(args: &NatsArgs, said: &str) {
        let broker = Broker::connect_with(args, "copies").await.expect("good settings");
        eventually("it is said why it is not let in", || async {
            broker.last_error()?.to_lowercase().contains(said).then_some(())
        })
        .await;
        tokio::time::sleep(QUIET).await;
        assert!(!broker.is_connected());
    }

    fn holding(text: &str) -> NamedTempFile {
        let file = NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), text).expect("it is written");
        file
    }

    fn path(file: &NamedTempFile) -> String {
        file.path().display().to_string()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_user_enters_with_the_password_of_the_url_or_of_a_file() {
        let nats =
            Nats::start_with(Some("authorization { user: \"m@e\", password: \"p:/@% 한\" }")).await;
        let right = url(&nats, "m%40e:p%3A%2F%40%25%20%ED%95%9C");
        enters(&args(&["--nats-url", &right])).await;
        stays_out(&args(&["--nats-url", &url(&nats, "m%40e:hunter2")]), "authorization violation")
            .await;
        stays_out(&args(&["--nats-url", &nats.url()]), "authorization violation").await;
        let file = holding("p:/@% 한\n");
        enters(&args(&[
            "--nats-url",
            &nats.url(),
            "--nats-user",
            "m@e",
            "--nats-password-file",
            &path(&file),
        ]))
        .await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_token_of_the_url_or_of_a_file_lets_in() {
        let nats = Nats::start_with(Some("authorization { token: \"t/ok@en\" }")).await;
        enters(&args(&["--nats-url", &url(&nats, "t%2Fok%40en")])).await;
        stays_out(&args(&["--nats-url", &url(&nats, "other")]), "authorization violation").await;
        let file = holding("t/ok@en\n");
        enters(&args(&["--nats-url", &nats.url(), "--nats-token-file", &path(&file)])).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_token_that_is_exchanged_in_its_file_is_used_at_the_next_connection() {
        let mut nats = Nats::start_with(Some("authorization { token: first }")).await;
        let file = holding("first");
        let broker =
            enters(&args(&["--nats-url", &nats.url(), "--nats-token-file", &path(&file)])).await;
        std::fs::write(file.path(), "second").expect("it is written");
        nats.restart_with("authorization { token: second }").await;
        eventually("it is let in again", || async { broker.jetstream.query_account().await.ok() })
            .await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn an_nkey_lets_in() {
        let config = format!("authorization {{ users: [ {{ nkey: {} }} ] }}", text("user.pub"));
        let nats = Nats::start_with(Some(&config)).await;
        let file = of_tests("user.nkey").display().to_string();
        enters(&args(&["--nats-url", &nats.url(), "--nats-nkey-file", &file])).await;
        stays_out(&args(&["--nats-url", &nats.url()]), "authorization violation").await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_credentials_file_lets_in() {
        let nats = Nats::start_with(Some(&text("operator.conf"))).await;
        let file = of_tests("user.creds").display().to_string();
        enters(&args(&["--nats-url", &nats.url(), "--nats-credentials-file", &file])).await;
        stays_out(&args(&["--nats-url", &nats.url()]), "authorization violation").await;
    }

    /// A server that accepts only TLS, and only clients with a certificate of the same authority.
    async fn encrypted() -> Nats {
        let [cert, key, ca] =
            ["server.pem", "server.key", "ca.pem"].map(|name| of_tests(name).display().to_string());
        let config = format!(
            "tls {{ cert_file: \"{cert}\", key_file: \"{key}\", ca_file: \"{ca}\", verify: true }}"
        );
        Nats::start_with(Some(&config)).await
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn certificates_let_in_and_those_of_others_do_not() {
        let nats = encrypted().await;
        let file = |name: &str| of_tests(name).display().to_string();
        let words = |ca: &str| {
            [
                ["--nats-url".to_owned(), nats.url()],
                ["--nats-ca-file".to_owned(), file(ca)],
                ["--nats-cert-file".to_owned(), file("client.pem")],
                ["--nats-key-file".to_owned(), file("client.key")],
            ]
            .concat()
        };
        enters(&args(&words("ca.pem"))).await;
        // The client's error says no more; the reason is in its own log, at `async_nats=debug`.
        stays_out(&args(&words("other-ca.pem")), "io error").await;
        let tls = format!("tls://127.0.0.1:{}", nats.port());
        stays_out(&args(&["--nats-url", &tls]), "io error").await;
        // The right authority, and no certificate of its own.
        let (url, ca) = (nats.url(), file("ca.pem"));
        stays_out(&args(&["--nats-url", &url, "--nats-ca-file", &ca]), "").await;
    }

    /// Nobody can pose as the server and get the password.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn who_names_an_authority_sends_nothing_in_the_clear() {
        let nats = Nats::start().await;
        let ca = of_tests("ca.pem").display().to_string();
        let words = ["--nats-url", &url(&nats, "me:hunter2"), "--nats-ca-file", &ca];
        stays_out(&args(&words), "").await;
    }

    /// The whole path, with the minimal permissions for each program.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn an_owner_and_a_subscriber_work_on_a_server_that_asks_for_passwords() {
        let nats = Nats::start_with(Some(
            "authorization { users: [ { user: things, password: one }, { user: copies, password: two } ] }",
        ))
        .await;
        let things =
            Broker::connect(&url(&nats, "things:one"), "things").await.expect("a good URL");
        let copies =
            Broker::connect(&url(&nats, "copies:two"), "copies").await.expect("a good URL");
        let owner = Owner::start(&things).await;
        let copy = Copy::start(&copies, &owner).await;
        copy.wait(&owner.put("42", json!(1)).await).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_consumer_that_may_not_be_mended_is_named_and_the_broker_is_not_away() {
        let denied = "deny: [\"$JS.API.CONSUMER.PAUSE.>\"]";
        let nats = Nats::start_with(Some(&format!(
            "authorization {{ users: [ {{ user: admin, password: all }}, \
             {{ user: copies, password: two, permissions: {{ publish: {{ {denied} }} }} }} ] }}"
        )))
        .await;
        let admin = Broker::connect(&url(&nats, "admin:all"), "admin").await.expect("a good URL");
        let copies =
            Broker::connect(&url(&nats, "copies:two"), "copies").await.expect("a good URL");
        let owner = Owner::start(&admin).await;
        let copy = Copy::start(&copies, &owner).await;
        copy.wait(&owner.put("42", json!(1)).await).await;
        let wire = Wire::on(admin.jetstream.clone()).await;
        let name = wire.consumer("copies").await;
        let later = (std::time::SystemTime::now() + std::time::Duration::from_secs(3_600)).into();
        wire.stream().pause_consumer(&name, later).await.expect("it is paused");
        eventually("it is named", || async {
            let status = copy.status().await;
            let named = status["last_error"].as_str()?.contains("it is paused at the broker");
            (named && status["connected"] == false && status["broker_connected"] == true)
                .then_some(())
        })
        .await;
        wire.stream().resume_consumer(&name).await.expect("it is resumed");
        copy.wait(&owner.put("42", json!(2)).await).await;
        eventually("all is well", || async {
            let status = copy.status().await;
            (status["last_error"].is_null() && status["connected"] == true).then_some(())
        })
        .await;
    }

    /// A separate program: what it prints when it starts, and where its settings come from.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_program_takes_them_from_its_environment_and_shows_them_nowhere() {
        let nats = Nats::start_with(Some("authorization { user: me, password: hunter2 }")).await;
        let dir = TempDir::new().expect("a directory");
        let database = format!("sqlite:{}", dir.path().join("stores.db").display());
        let port = free_port();
        let file = holding("hunter2");
        let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_program"))
            .arg("store-info")
            .env("BIND", format!("127.0.0.1:{port}"))
            .env("DATABASE_URL", database)
            .env("NATS_URL", nats.url())
            .env("NATS_USER", "me")
            .env("NATS_PASSWORD_FILE", file.path())
            .env("LOG", "trace")
            .stdin(std::process::Stdio::piped())
            .stderr(std::process::Stdio::from(
                std::fs::File::create(dir.path().join("log")).expect("a file"),
            ))
            .spawn()
            .expect("it starts");
        eventually("its relay reaches the stream", || async {
            let answer = reqwest::get(format!("http://127.0.0.1:{port}/metrics")).await.ok()?;
            let text = answer.text().await.ok()?;
            text.contains("nudge_relay_connected{entity=\"store\"} 1").then_some(())
        })
        .await;
        child.kill().expect("it ends");
        child.wait().expect("it has ended");
        let log = std::fs::read_to_string(dir.path().join("log")).expect("a log");
        assert!(log.len() > 1_000 && !log.contains("hunter2"), "{log}");
    }
}
