//! TLS between services, and to PostgreSQL.

#[path = "../../crates/runtime/src/tls/authority.rs"]
mod authority;

use nudge_runtime::{
    Database,
    database::Durability,
    problem::chain,
    tls::{Tls, TlsArgs},
};
use nudge_tests::{Nats, TestDatabase, eventually};
use rcgen::date_time_ymd;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use authority::{Authority, Files, own};

/// The words that a program of ours is started with.
fn words(name: &str, nats: &Nats, database: &TestDatabase, more: &[String]) -> Vec<String> {
    let mut words = vec![
        name.to_owned(),
        "--bind=127.0.0.1:0".to_owned(),
        format!("--nats-url={}", nats.url()),
        format!("--database-url={}", database.url()),
    ];
    words.extend_from_slice(more);
    words
}

/// While the owner's certificate is not good, nothing is applied, deleted or given up, and the status says why. With a
/// good one, nobody has to be started again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_whose_certificate_expired_is_followed_again_once_it_is_renewed() {
    let (nats, stop) = (Nats::start().await, CancellationToken::new());
    let _stop = stop.clone().drop_guard();
    let (owners, search, authority) = (Files::new(), Files::new(), Authority::new());
    let databases = [TestDatabase::new().await, TestDatabase::new().await];
    let good = || authority.sign("localhost", |_| ());
    let certificates = own(&owners, good());
    let file = |path: Option<std::path::PathBuf>| path.unwrap().display().to_string();
    let more = [
        format!("--tls-cert-file={}", file(certificates.tls_cert_file)),
        format!("--tls-key-file={}", file(certificates.tls_key_file)),
    ];
    let args = <store_info::Args as clap::Parser>::parse_from(words(
        "store-info",
        &nats,
        &databases[0],
        &more,
    ));
    let owner = store_info::start(&args, stop.clone()).await.unwrap();
    let url = format!("https://localhost:{}", owner.address().port());
    let ca = search.write("ca", &authority.pem);
    let tls = TlsArgs { tls_ca_file: ca.clone(), ..TlsArgs::default() };
    let client = Tls::of(&tls).unwrap().http().no_proxy().build().unwrap();
    let put = async |name: &str| {
        let request = client.put(format!("{url}/stores/42")).json(&json!({ "name": name }));
        let answer = request.send().await.unwrap();
        answer.headers()["nudge-token"].to_str().unwrap().to_owned()
    };
    put("처음 가게").await;

    own(
        &owners,
        authority.sign("localhost", |params| params.not_after = date_time_ymd(2020, 1, 1)),
    );
    let more = [format!("--store-owner-url={url}"), format!("--tls-ca-file={}", file(ca))];
    let running = search::service()
        .start(words("search", &nats, &databases[1], &more), stop.clone())
        .await
        .unwrap();
    let at = format!("http://{}", running.address);
    let status = async || -> Value {
        reqwest::get(format!("{at}/nudge/v1/status")).await.unwrap().json().await.unwrap()
    };
    eventually("its status says why it is late", || async {
        status().await["entities"][0].to_string().contains("expired").then_some(())
    })
    .await;
    let found = reqwest::get(format!("{at}/stores?q=가게")).await.unwrap();
    let found: Value = found.json().await.unwrap();
    assert_eq!(found["ids"], json!([]));

    own(&owners, good());
    let written = put("새 가게").await;
    eventually("it is applied", || async {
        let wait = format!("{at}/nudge/v1/wait?token={written}&timeout_ms=30000");
        (reqwest::get(wait).await.ok()?.status() == 200).then_some(())
    })
    .await;
    let dead = reqwest::get(format!("{at}/nudge/v1/dead-letters")).await.unwrap();
    let dead: Value = dead.json().await.unwrap();
    assert_eq!(dead["items"], json!([]));
}

mod once {
    use std::{
        fs::Permissions,
        os::unix::fs::{MetadataExt, PermissionsExt},
        path::PathBuf,
        sync::Arc,
    };

    use nudge_runtime::{Broker, broker::NatsArgs};
    use nudge_tests::{Postgres, QUIET};
    use rcgen::CertificateParams;
    use sqlx::{AnyConnection, Connection};

    use super::*;

    fn expired(params: &mut CertificateParams) {
        params.not_after = date_time_ymd(2020, 1, 1);
    }

    /// What each kind of bad certificate is, whoever shows it to `127.0.0.1` or comes from there.
    fn bad(authority: &Authority, other: &Authority) -> [(&'static str, (String, String)); 2] {
        [
            ("expired", authority.sign("127.0.0.1", expired)),
            ("of another authority", other.sign("127.0.0.1", |_| ())),
        ]
    }

    /// A broker that asks both sides for certificates, and a program that keeps its connection to it.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn nats_is_followed_again_once_certificates_are_renewed() {
        let (authority, other) = (Authority::new(), Authority::new());
        let (servers, clients) = (Files::new(), Files::new());
        let good = || authority.sign("127.0.0.1", |_| ());
        let ca = servers.write("ca", &authority.pem).unwrap();
        let config = format!(
            "tls {{ cert_file: {:?}, key_file: {:?}, ca_file: {ca:?}, verify: true }}",
            servers.path("cert"),
            servers.path("key"),
        );
        own(&servers, good());
        let mut nats = Nats::start_with(Some(&config)).await;
        let own_files = own(&clients, good());
        let args = NatsArgs {
            nats_ca_file: clients.write("ca", &authority.pem),
            nats_cert_file: own_files.tls_cert_file,
            nats_key_file: own_files.tls_key_file,
            ..NatsArgs::at(&nats.url())
        };
        let broker = Broker::connect_with(&args, "copies").await.unwrap();
        let enters = async || {
            eventually("it is let in", || async { broker.jetstream.query_account().await.ok() })
                .await
        };
        let stays_out = async |whose: &str, how: &str| {
            eventually("it is said", || async { broker.last_error().map(drop) }).await;
            tokio::time::sleep(QUIET).await;
            assert!(!broker.is_connected(), "{whose}: {how}");
        };
        enters().await;
        let elsewhere = ("for another name", authority.sign("nats.example", |_| ()));
        for (how, certificate) in bad(&authority, &other).into_iter().chain([elsewhere]) {
            own(&servers, certificate);
            nats.restart_with(&config).await;
            stays_out("the server's", how).await;
            own(&servers, good());
            nats.restart_with(&config).await;
            enters().await;
        }
        for (how, certificate) in bad(&authority, &other) {
            own(&clients, certificate);
            nats.restart_with(&config).await;
            stays_out("its own", how).await;
            // Nobody tells the server: the next try reads the files.
            own(&clients, good());
            enters().await;
        }
        // The server's authority is exchanged for another.
        own(&servers, other.sign("127.0.0.1", |_| ()));
        nats.restart_with(&config).await;
        stays_out("the authority's", "not known").await;
        clients.write("ca", &other.pem);
        enters().await;
    }

    /// A PostgreSQL server with TLS.
    struct Server {
        postgres: Arc<Postgres>,
        /// Without TLS.
        plain: Database,
        directory: PathBuf,
    }

    impl Server {
        async fn start(certificate: (String, String)) -> Self {
            let postgres = Postgres::start().await;
            let url = with(postgres.url(), "sslmode=disable");
            let plain = Database::open(&url, Durability::Full).await.unwrap();
            let (directory,): (String,) =
                sqlx::query_as("SELECT current_setting('data_directory')")
                    .fetch_one(plain.reader())
                    .await
                    .unwrap();
            let server = Self { postgres, plain, directory: directory.into() };
            server.show(certificate).await;
            server.set("ssl", "on").await;
            server.reload().await;
            server
        }

        /// Exchanges its certificate.
        async fn show(&self, (cert, key): (String, String)) {
            for (name, text) in [("cert", cert), ("key", key)] {
                let file = format!("server.{name}.pem");
                self.write(&file, &text);
                self.set(&format!("ssl_{name}_file"), &file).await;
            }
            self.reload().await;
        }

        /// Writes a file that is its own, and nobody else's: it reads no other key.
        fn write(&self, name: &str, text: &str) {
            let (path, about) = (self.directory.join(name), self.directory.metadata().unwrap());
            std::fs::write(&path, text).unwrap();
            std::os::unix::fs::chown(&path, Some(about.uid()), Some(about.gid())).unwrap();
            std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        }

        async fn set(&self, setting: &str, value: &str) {
            self.run(format!("ALTER SYSTEM SET {setting} = '{value}'")).await;
        }

        async fn reload(&self) {
            self.run("SELECT pg_reload_conf()".to_owned()).await;
        }

        async fn run(&self, sql: String) {
            sqlx::query(sqlx::AssertSqlSafe(sql)).execute(self.plain.reader()).await.unwrap();
        }

        /// Ends all connections but this one.
        async fn hang_up(&self) {
            let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_ssl WHERE ssl";
            self.run(sql.to_owned()).await;
        }

        /// A database whose pool makes a new connection when it needs one.
        async fn open(&self, more: &str) -> Database {
            let url = with(self.postgres.url(), more);
            let opened = || async { Database::open(&url, Durability::Full).await.ok() };
            let database = eventually("it speaks TLS", opened).await;
            assert!(is_encrypted(&database).await.unwrap());
            database
        }

        /// Why a connection is not made.
        async fn refused(&self, more: &str) -> Option<String> {
            let refused = AnyConnection::connect(&with(self.postgres.url(), more)).await.err()?;
            let refused = chain(&refused).to_string();
            let is_about_it = ["certificate", "alert"].iter().any(|word| refused.contains(word));
            assert!(is_about_it, "{refused}");
            Some(refused)
        }

        /// Ends all connections of a pool, and waits until it cannot make another, as others cannot.
        async fn cut_off(&self, database: &Database, more: &str) {
            eventually("no connection is made", || self.refused(more)).await;
            self.hang_up().await;
            eventually("its pool has none left", || async { is_encrypted(database).await.err() })
                .await;
        }
    }

    async fn is_back(database: &Database) {
        eventually("its pool has a connection again", || async {
            is_encrypted(database).await.ok()
        })
        .await;
    }

    fn with(url: &str, more: &str) -> String {
        let separator = if url.contains('?') { '&' } else { '?' };
        format!("{url}{separator}{more}")
    }

    async fn is_encrypted(database: &Database) -> Result<bool, sqlx::Error> {
        let sql = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
        let (ssl,) = sqlx::query_as(sql).fetch_one(database.reader()).await?;
        Ok(ssl)
    }

    /// A program keeps its pool: while the certificate is not good it gets no new connection, and then it does.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn postgresql_is_trusted_by_its_certificate() {
        let (authority, other, files) = (Authority::new(), Authority::new(), Files::new());
        let good = || authority.sign("127.0.0.1", |_| ());
        let server = Server::start(good()).await;
        let ca = files.write("ca", &authority.pem).unwrap();
        let encrypted = format!("sslmode=verify-full&sslrootcert={}", ca.display());
        let database = server.open(&encrypted).await;
        let elsewhere = ("for another name", authority.sign("db.example", |_| ()));
        for (_, certificate) in bad(&authority, &other).into_iter().chain([elsewhere]) {
            server.show(certificate).await;
            server.cut_off(&database, &encrypted).await;
            server.show(good()).await;
            is_back(&database).await;
        }
        // The authority is exchanged for another.
        server.show(other.sign("127.0.0.1", |_| ())).await;
        server.cut_off(&database, &encrypted).await;
        files.write("ca", &other.pem);
        is_back(&database).await;
        database.close().await;
        server.plain.close().await;
    }

    /// `sslcert` and `sslkey` of the URL, for a server that asks for a certificate.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn postgresql_lets_in_whoever_has_a_good_certificate() {
        let (authority, other, files) = (Authority::new(), Authority::new(), Files::new());
        let good = || authority.sign("127.0.0.1", |_| ());
        let server = Server::start(good()).await;
        server.write("clients.pem", &authority.pem);
        server.set("ssl_ca_file", "clients.pem").await;
        let hba = server.directory.join("pg_hba.conf");
        let rules = std::fs::read_to_string(&hba).unwrap();
        let asks = "hostssl all all 127.0.0.1/32 trust clientcert=verify-ca";
        server.write("pg_hba.conf", &format!("{asks}\n{rules}"));
        server.reload().await;
        let ca = files.write("ca", &authority.pem).unwrap();
        let without = format!("sslmode=verify-full&sslrootcert={}", ca.display());
        let own_files = own(&files, good());
        let path = |path: Option<PathBuf>| path.unwrap().display().to_string();
        let (cert, key) = (path(own_files.tls_cert_file), path(own_files.tls_key_file));
        let with = format!("{without}&sslcert={cert}&sslkey={key}");
        let database = server.open(&with).await;
        eventually("nobody else is let in", || server.refused(&without)).await;
        for (_, certificate) in bad(&authority, &other) {
            own(&files, certificate);
            server.cut_off(&database, &with).await;
            own(&files, good());
            is_back(&database).await;
        }
        database.close().await;
        server.plain.close().await;
    }
}
