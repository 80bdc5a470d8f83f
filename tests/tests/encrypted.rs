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
    };

    use nudge_tests::Postgres;

    use super::*;

    async fn run(database: &Database, sql: String) {
        sqlx::query(sqlx::AssertSqlSafe(sql)).execute(database.reader()).await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn postgresql_is_trusted_by_its_certificate() {
        let postgres = Postgres::start().await;
        let open = async |more: &str| {
            let separator = if postgres.url().contains('?') { '&' } else { '?' };
            let url = format!("{}{separator}{more}", postgres.url());
            Database::open(&url, Durability::Full).await
        };
        let (authority, other, files) = (Authority::new(), Authority::new(), Files::new());
        let (cert, key) = authority.sign("127.0.0.1", |_| ());
        let plain = open("sslmode=disable").await.unwrap();
        let (directory,): (String,) = sqlx::query_as("SELECT current_setting('data_directory')")
            .fetch_one(plain.reader())
            .await
            .unwrap();
        let about = std::fs::metadata(&directory).unwrap();
        for (name, text) in [("cert", cert), ("key", key)] {
            let path = format!("{directory}/server.{name}.pem");
            std::fs::write(&path, text).unwrap();
            // It reads only a key that is its own, and nobody else's.
            std::os::unix::fs::chown(&path, Some(about.uid()), Some(about.gid())).unwrap();
            std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
            run(&plain, format!("ALTER SYSTEM SET ssl_{name}_file = 'server.{name}.pem'")).await;
        }
        run(&plain, "ALTER SYSTEM SET ssl = on".to_owned()).await;
        run(&plain, "SELECT pg_reload_conf()".to_owned()).await;
        let ca = files.write("ca", &authority.pem).unwrap();
        let wrong = files.write("other", &other.pem).unwrap();
        let encrypted = format!("sslmode=verify-full&sslrootcert={}", ca.display());
        let database = eventually("it speaks TLS", || async { open(&encrypted).await.ok() }).await;
        let (is_encrypted,): (bool,) =
            sqlx::query_as("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
                .fetch_one(database.reader())
                .await
                .unwrap();
        assert!(is_encrypted);
        let refused = open(&format!("sslmode=verify-full&sslrootcert={}", wrong.display())).await;
        let refused = chain(&refused.expect_err("another authority"));
        assert!(refused.contains("certificate"), "{refused}");
        database.close().await;
        plain.close().await;
    }
}
