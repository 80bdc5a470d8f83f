//! `nudge dev --database-url`, on a real PostgreSQL server.

use std::{fs, path::Path, process::Stdio};

use nudge_runtime::database::Kind;
use nudge_testbed::{Postgres, TestDatabase, database::execute};
use sqlx::{AnyConnection, AssertSqlSafe, Connection};

use crate::dev::demo::{Demo, SERVICES, ends, eventually};

/// How many of the services' schemas there are.
const SCHEMAS: &str = "SELECT count(*)::text FROM pg_namespace \
                       WHERE nspname IN ('store_info', 'search', 'review')";

/// The one value that a query answers with, as text.
async fn value(url: &str, sql: &str) -> String {
    sqlx::any::install_default_drivers();
    let mut connection = AnyConnection::connect(url).await.unwrap();
    sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&mut connection).await.unwrap()
}

/// Whether there is a table of this name.
async fn has_table(url: &str, table: &str) -> bool {
    value(url, &format!("SELECT (to_regclass('{table}') IS NOT NULL)::text")).await == "true"
}

/// The same database with a password, which the test server does not ask for.
fn with_password(url: &str) -> String {
    url.replacen('@', ":s3cret@", 1)
}

#[tokio::test]
async fn each_service_gets_a_schema_of_its_own_and_the_parameters_it_was_given() {
    let (demo, database) = (Demo::new(), TestDatabase::of(Kind::Postgres).await);
    let given =
        "sslmode=disable&options=-c%20statement_timeout%3D12345%20-c%20search_path%3Dpublic";
    let running =
        demo.start_with(&["--database-url", &format!("{}?{given}", database.url())]).await;
    for (service, schema) in SERVICES.into_iter().zip([
        "store_info",
        "search",
        "review",
        "storefront",
        "favourites",
        "ads",
    ]) {
        let url = fs::read_to_string(demo.path(&format!("{service}.url"))).unwrap();
        assert_eq!(value(&url, "SELECT current_schema()::text").await, schema);
        assert_eq!(value(&url, "SELECT current_setting('statement_timeout')").await, "12345ms");
        assert!(url.contains("sslmode=disable"), "{url}");
    }
    demo.stop(running).await;
}

#[tokio::test]
async fn data_stays_until_fresh_drops_the_schemas_that_dev_made_and_no_other() {
    let (demo, database) = (Demo::new(), TestDatabase::of(Kind::Postgres).await);
    let url = database.url();
    let args = ["--database-url", url];
    demo.stop(demo.start_with(&args).await).await;
    let tables = ["store_info.t", "search.t", "review.t"];
    execute(url, "CREATE SCHEMA other; CREATE TABLE other.t (); CREATE TABLE public.t ()").await;
    for table in tables {
        execute(url, &format!("CREATE TABLE {table} ()")).await;
    }

    demo.stop(demo.start_with(&args).await).await;
    for table in tables {
        assert!(has_table(url, table).await, "{table}");
    }
    fs::write(demo.path("data/logs/older.log"), "").unwrap();

    demo.stop(demo.start_with(&[&args[..], &["--fresh"]].concat()).await).await;
    for table in tables {
        assert!(!has_table(url, table).await, "{table}");
    }
    assert_eq!(value(url, SCHEMAS).await, "3");
    assert!(has_table(url, "other.t").await && has_table(url, "public.t").await);
    assert!(!demo.path("data/logs/older.log").exists(), "the directory is emptied too");
}

#[tokio::test]
async fn a_schema_that_dev_did_not_make_is_refused_and_nothing_is_touched() {
    let (demo, database) = (Demo::new(), TestDatabase::of(Kind::Postgres).await);
    let url = database.url();
    execute(url, "CREATE SCHEMA search; CREATE TABLE search.mine ()").await;
    for args in [&["--database-url", url][..], &["--database-url", url, "--fresh"]] {
        let refusal = demo.refusal(args, 1).await;
        assert!(refusal.contains("schema search of database"), "{refusal}");
        assert!(refusal.contains("--database-url") && refusal.contains("rename"), "{refusal}");
        assert!(has_table(url, "search.mine").await);
        assert_eq!(value(url, SCHEMAS).await, "1");
    }
    execute(url, "DROP SCHEMA search CASCADE").await;

    // The others are ours, and are not dropped either.
    demo.stop(demo.start_with(&["--database-url", url]).await).await;
    execute(
        url,
        "CREATE TABLE store_info.t (); COMMENT ON SCHEMA review IS 'made by nudge developers'",
    )
    .await;
    let refusal = demo.refusal(&["--database-url", url, "--fresh"], 1).await;
    assert!(refusal.contains("schema review of database"), "{refusal}");
    assert!(has_table(url, "store_info.t").await);
    assert!(demo.path("data/nats/jetstream").is_dir(), "the directory is as it was");
}

#[tokio::test]
async fn a_second_dev_on_the_same_database_is_refused_also_after_postgresql_was_away() {
    let server = Postgres::start().await;
    let database = TestDatabase::on(&server).await;
    let (demo, second) = (Demo::new(), Demo::new());
    let args = ["--database-url", database.url(), "--fresh"];
    let mut running = demo.start_with(&args).await;
    execute(database.url(), "CREATE TABLE search.t ()").await;
    let refusal = second.refusal(&args, 1).await;
    assert!(refusal.contains("is in use by another `nudge dev`"), "{refusal}");
    assert!(has_table(database.url(), "search.t").await);

    server.stop().await;
    server.restart().await;
    nudge_testbed::eventually("the lock is held again", || async {
        let held = "SELECT count(*)::text FROM pg_locks WHERE locktype = 'advisory'";
        (value(database.url(), held).await == "1").then_some(())
    })
    .await;
    assert!(running.0.try_wait().unwrap().is_none(), "it runs on");
    let refusal = second.refusal(&args, 1).await;
    assert!(refusal.contains("is in use by another `nudge dev`"), "{refusal}");
    demo.stop(running).await;
    second.stop(second.start_with(&args).await).await;
}

/// PostgreSQL keeps a session, and what it has locked, until it has seen that the client is gone.
#[tokio::test]
async fn a_start_waits_a_little_for_the_lock_of_a_dev_that_has_just_ended() {
    let (demo, database) = (Demo::new(), TestDatabase::of(Kind::Postgres).await);
    sqlx::any::install_default_drivers();
    let mut other = AnyConnection::connect(database.url()).await.unwrap();
    let lock = "SELECT pg_advisory_lock(x'6e75646765646576'::bigint)";
    sqlx::raw_sql(lock).execute(&mut other).await.unwrap();
    let ends = async {
        nudge_testbed::eventually("it has asked for the lock", || async {
            let asked = "SELECT count(*)::text FROM pg_stat_activity \
                         WHERE datname = current_database() AND query LIKE '%pg_try_advisory_lock($1)'";
            (value(database.url(), asked).await == "1").then_some(())
        })
        .await;
        other.close().await.unwrap();
    };
    let args = ["--database-url", database.url()];
    let (running, ()) = tokio::join!(demo.start_with(&args), ends);
    demo.stop(running).await;
}

#[tokio::test]
async fn a_data_directory_stays_with_its_database() {
    let demo = Demo::new();
    let database = TestDatabase::of(Kind::Postgres).await;
    let other = TestDatabase::of(Kind::Postgres).await;
    let (args, fresh) = (["--database-url", database.url()], "--fresh");
    demo.stop(demo.start().await).await;
    let refusal = demo.refusal(&args, 1).await;
    assert!(refusal.contains("(--data-dir) was used with SQLite files"), "{refusal}");
    assert!(refusal.contains(fresh), "{refusal}");
    assert_eq!(value(database.url(), SCHEMAS).await, "0");

    demo.stop(demo.start_with(&[args[0], args[1], fresh]).await).await;
    demo.stop(demo.start_with(&args).await).await;
    let refusal = demo.refusal(&[], 1).await;
    assert!(refusal.contains("was used with a PostgreSQL database"), "{refusal}");
    let refusal = demo.refusal(&["--database-url", other.url()], 1).await;
    assert!(refusal.contains("was used with another PostgreSQL database"), "{refusal}");
    assert_eq!(value(other.url(), SCHEMAS).await, "0");

    // The data is gone, the streams are not: no longer the same database.
    execute(
        database.url(),
        "DROP SCHEMA store_info, search, review, storefront, favourites, ads CASCADE",
    )
    .await;
    demo.refusal(&args, 1).await;
    demo.stop(demo.start_with(&[fresh]).await).await;
}

#[tokio::test]
async fn what_cannot_be_used_is_one_line_that_names_the_flag() {
    let (demo, server) = (Demo::new(), Postgres::shared().await);
    let database = TestDatabase::on(&server).await;
    let role = format!("role_of_{}", database.url().rsplit('/').next().unwrap());
    execute(database.url(), &format!("CREATE ROLE {role} LOGIN")).await;
    let (_, place) = database.url().split_once('@').unwrap();
    let of_role = format!("postgres://{role}:s3cret@{place}");
    for (url, code, why) in [
        ("postgres://me:s3cret@127.0.0.1:1/d", 1, "cannot connect: "),
        (&with_password(&server.database_url("nowhere")), 1, "\"nowhere\" does not exist"),
        (&of_role, 1, "permission denied"),
        ("mysql://me:s3cret@h/d", 2, "must begin with postgres://"),
        ("sqlite:s3cret.db", 2, "--data-dir"),
        ("postgres://me:s3cret@h:port/d", 2, "is not a URL"),
    ] {
        let refusal = demo.refusal(&["--database-url", url], code).await;
        assert!(refusal.starts_with("--database-url (NUDGE_DATABASE_URL): "), "{refusal}");
        assert!(refusal.contains(why) && !refusal.contains("s3cret"), "{refusal}");
    }

    // Schemas of ours that this role may not use: its tables would have nowhere to go.
    demo.stop(demo.start_with(&["--database-url", database.url()]).await).await;
    let refusal = demo.refusal(&["--database-url", &of_role], 1).await;
    assert!(refusal.contains("store-info does not reach its schema store_info"), "{refusal}");
    execute(database.url(), &format!("DROP ROLE {role}")).await;
}

#[tokio::test]
async fn a_password_is_neither_shown_nor_written_down() {
    let (demo, database) = (Demo::new(), TestDatabase::of(Kind::Postgres).await);
    let url = with_password(database.url());
    fs::write(demo.path("url"), format!("{url}\n")).unwrap();
    let mut command = demo.command();
    command.env("NUDGE_DATABASE_URL_FILE", demo.path("url"));
    let (child, pids) = demo.spawn(command).await;
    let own = rustix::process::Pid::from_raw(child.id().unwrap().cast_signed());
    for pid in pids.iter().copied().chain(own) {
        // There are none for a moment while a process becomes another program.
        let words = eventually("a program runs", || {
            let file = format!("/proc/{}/cmdline", pid.as_raw_nonzero());
            Some(fs::read_to_string(file).unwrap()).filter(|words| !words.is_empty())
        });
        let words = words.await;
        assert!(!words.contains("s3cret"), "{words}");
    }
    let output = demo.stop((child, pids)).await;
    assert!(!String::from_utf8_lossy(&output.stderr).contains("s3cret"));
    assert!(fs::read_to_string(demo.path("search.url")).unwrap().contains("s3cret"));
    assert!(!holds(&demo.path("data"), "s3cret"));
    assert!(holds(&demo.path("data"), "made by nudge dev"), "the search finds what is there");

    let mut help = demo.command();
    help.arg("--help").env("NUDGE_DATABASE_URL", &url).stdout(Stdio::piped());
    let help = ends(help.spawn().unwrap()).await;
    let help = String::from_utf8(help.stdout).unwrap();
    assert!(help.contains("NUDGE_DATABASE_URL") && !help.contains("s3cret"), "{help}");
}

/// Whether a file somewhere in `directory` holds `text`.
fn holds(directory: &Path, text: &str) -> bool {
    fs::read_dir(directory).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => holds(&path, text),
            false => String::from_utf8_lossy(&fs::read(&path).unwrap()).contains(text),
        }
    })
}
