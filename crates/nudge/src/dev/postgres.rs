//! The services' data in PostgreSQL: a schema for each in one database, in place of SQLite files.
//!
//! A schema that `nudge dev` created says so in its comment, its *mark*. Only such a schema is
//! used, and only such a schema is dropped. The mark ends in an ID, created with the schemas, by which a
//! data directory recognizes its database: no URL, and so no password, is ever stored.

use std::{
    fmt::Write,
    sync::Once,
    time::{Duration, Instant},
};

use reqwest::Url;
use sqlx::{AnyConnection, AssertSqlSafe, Connection, Executor};

use super::talk::Talk;
use crate::{client::Service, failure::Failure};

/// The setting's name in messages.
pub(crate) const SETTING: &str = "--database-url (NUDGE_DATABASE_URL)";
/// How the comment on each schema of ours begins.
const MARK: &str = "made by nudge dev";
/// The advisory lock that a running `nudge dev` holds: "nudgedev" in ASCII. PostgreSQL keeps such
/// locks for each database apart.
const LOCK: i64 = 0x6e75_6467_6564_6576;
/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for the lock: PostgreSQL may still have the session of a `nudge dev` that has just
/// ended.
const LOCK_PATIENCE: Duration = Duration::from_secs(3);
/// Interval between attempts to get it.
const LOCK_INTERVAL: Duration = Duration::from_millis(50);
/// Interval between checks of whether the lock is still held.
const KEEP_INTERVAL: Duration = Duration::from_secs(2);

/// Checks the scheme of `text`, which is never repeated: it may hold a password.
pub(crate) fn parse(text: &str) -> Result<Url, Failure> {
    let usage = |line: &str| Err(Failure::Usage(format!("{SETTING}: {line}")));
    if text.starts_with("sqlite:") {
        return usage("SQLite files are in --data-dir and need no URL; leave this out");
    }
    if !["postgres://", "postgresql://"].iter().any(|scheme| text.starts_with(scheme)) {
        return usage("must begin with postgres://");
    }
    match Url::parse(text) {
        Ok(url) => match url.query_pairs().find(|(key, _)| is_strange_password(key)) {
            Some((key, _)) => usage(&format!("has an unknown parameter {key}")),
            None => Ok(url),
        },
        Err(error) => usage(&format!(
            "is not a URL ({error}); percent-encode special characters in a password"
        )),
    }
}

/// sqlx logs a parameter that it does not know, with its value.
fn is_strange_password(key: &str) -> bool {
    key != "password" && key.to_lowercase().contains("pass")
}

/// A database that no other `nudge dev` uses while this value lives.
pub(crate) struct Postgres {
    url: Url,
    name: String,
    connection: AnyConnection,
    /// The existing schemas of ours.
    schemas: Vec<&'static str>,
    /// The mark on the owner's schema: whose data this is.
    mark: Option<String>,
}

impl Postgres {
    /// Connects, locks the database, and refuses it if one of the schemas exists and is not
    /// ours. Nothing is changed yet.
    pub(crate) async fn lock(url: Url) -> Result<Self, Failure> {
        let mut connection = connect(&url).await?;
        let began = Instant::now();
        while !try_lock(&mut connection).await? {
            if began.elapsed() < LOCK_PATIENCE {
                tokio::time::sleep(LOCK_INTERVAL).await;
                continue;
            }
            let hint = "stop it, or use another database, --data-dir and --port-base";
            return Err(refused(format!("is in use by another `nudge dev`: {hint}")));
        }
        let name: String = sqlx::query_scalar("SELECT current_database()::text")
            .fetch_one(&mut connection)
            .await
            .map_err(|error| failed("cannot be read", &error))?;
        let mut postgres = Self { url, name, connection, schemas: Vec::new(), mark: None };
        for service in Service::ALL {
            postgres.look_at(service).await?;
        }
        Ok(postgres)
    }

    async fn look_at(&mut self, service: Service) -> Result<(), Failure> {
        let schema = service.schema();
        let comment = "SELECT coalesce(obj_description(oid, 'pg_namespace'), '') \
                       FROM pg_namespace WHERE nspname = $1::text";
        let comment: Option<String> = sqlx::query_scalar(comment)
            .bind(schema)
            .fetch_optional(&mut self.connection)
            .await
            .map_err(|error| failed("cannot be read", &error))?;
        let Some(comment) = comment else {
            return Ok(());
        };
        let after = comment.strip_prefix(MARK);
        if !after.is_some_and(|id| id.is_empty() || id.starts_with(", ")) {
            let (name, hint) = (&self.name, "rename that schema, or use another database");
            return Err(refused(format!(
                "the schema {schema} of database {name} was not created by `nudge dev`: {hint}"
            )));
        }
        self.schemas.push(schema);
        if service == Service::StoreInfo {
            self.mark = Some(comment);
        }
        Ok(())
    }

    /// Whose data this is; `None` while there is none.
    pub(crate) fn mark(&self) -> Option<&str> {
        self.mark.as_deref()
    }

    /// For people.
    pub(super) fn describe(&self) -> String {
        let schemas = Service::ALL.map(Service::schema).join(", ");
        format!("PostgreSQL, database {}, schemas {schemas}", self.name)
    }

    /// Creates the missing schemas; with `fresh`, drops the existing ones first. Either
    /// all of that happens or nothing.
    pub(crate) async fn prepare(&mut self, fresh: bool) -> Result<(), Failure> {
        let done = self.prepare_in_a_transaction(fresh).await;
        done.map_err(|error| failed("cannot create the services' schemas", &error))?;
        for service in Service::ALL {
            self.check_leads_to_its_schema(service).await?;
        }
        Ok(())
    }

    async fn prepare_in_a_transaction(&mut self, fresh: bool) -> Result<(), sqlx::Error> {
        let mut tx = self.connection.begin().await?;
        // Wait for readers of a schema that is to be dropped, but not forever.
        let mut sql = "SET LOCAL lock_timeout = '10s';".to_owned();
        if fresh {
            for schema in self.schemas.drain(..) {
                let _ = write!(sql, "DROP SCHEMA {} CASCADE;", identifier(schema));
            }
            self.mark = None;
        }
        let mark = match self.mark.take() {
            Some(mark) => mark,
            None => {
                let id = sqlx::query_scalar("SELECT gen_random_uuid()::text");
                let id: String = id.fetch_one(&mut *tx).await?;
                format!("{MARK}, {id}")
            }
        };
        for schema in Service::ALL.map(Service::schema) {
            if !self.schemas.contains(&schema) {
                let (name, text) = (identifier(schema), literal(&mark));
                let _ = write!(sql, "CREATE SCHEMA {name}; COMMENT ON SCHEMA {name} IS {text};");
            }
        }
        tx.execute(AssertSqlSafe(sql)).await?;
        tx.commit().await?;
        self.mark = Some(mark);
        Ok(())
    }

    /// Without this, a pooler that drops the parameter `options` would have all services share
    /// one schema, and their tables of the same name.
    async fn check_leads_to_its_schema(&self, service: Service) -> Result<(), Failure> {
        let url = Url::parse(&self.service_url(service)).expect("it is made from a URL");
        let mut connection = connect(&url).await?;
        let found: String = sqlx::query_scalar("SELECT coalesce(current_schema()::text, '')")
            .fetch_one(&mut connection)
            .await
            .map_err(|error| failed("cannot be read", &error))?;
        // Its answer is here; how the connection ends no longer matters.
        let _ = connection.close().await;
        let schema = service.schema();
        match found == schema {
            true => Ok(()),
            false => Err(refused(format!(
                "a connection of {} does not reach its schema {schema}: check that the role may use it, \
                 and that no pooler drops the parameter `options`",
                service.name()
            ))),
        }
    }

    /// The URL for a service, which finds every table that it names in its own schema.
    pub(crate) fn service_url(&self, service: Service) -> String {
        service_url(&self.url, service)
    }

    /// Keeps the lock, forever. When PostgreSQL goes away the lock is lost, and is taken again
    /// once it is back.
    pub(super) async fn keep(mut self, talk: Talk) {
        let mut told = false;
        loop {
            tokio::time::sleep(KEEP_INTERVAL).await;
            if self.connection.ping().await.is_ok() {
                continue;
            }
            let again = async {
                let mut connection = connect(&self.url).await?;
                let locked = try_lock(&mut connection).await?;
                Ok::<_, Failure>((connection, locked))
            };
            match again.await {
                Ok((connection, true)) => (self.connection, told) = (connection, false),
                Ok((_, false)) if !told => {
                    told = true;
                    let line = "PostgreSQL is back, but another session has locked this database";
                    talk.say(&format!("{line}: is another `nudge dev` using it?"));
                }
                // It is still away, as the services' logs say.
                Ok((_, false)) | Err(_) => {}
            }
        }
    }
}

/// `url` with another `options`: sqlx passes on all of them, and for PostgreSQL the last wins.
fn service_url(url: &Url, service: Service) -> String {
    let ours = format!("options=-c%20search_path%3D{}", service.schema());
    let given = url.query().filter(|given| !given.is_empty());
    let mut url = url.clone();
    url.set_query(Some(&given.map_or(ours.clone(), |given| format!("{given}&{ours}"))));
    url.into()
}

async fn connect(url: &Url) -> Result<AnyConnection, Failure> {
    static DRIVERS: Once = Once::new();
    DRIVERS.call_once(sqlx::any::install_default_drivers);
    let connecting = AnyConnection::connect(url.as_str());
    match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
        Ok(connected) => connected.map_err(|error| failed("cannot connect", &error)),
        Err(_) => Err(refused(format!("no answer within {} s", CONNECT_TIMEOUT.as_secs()))),
    }
}

/// Whether the connection has the lock.
async fn try_lock(connection: &mut AnyConnection) -> Result<bool, Failure> {
    let locked = sqlx::query_scalar("SELECT pg_try_advisory_lock($1)").bind(LOCK);
    let locked = locked.fetch_one(connection).await;
    locked.map_err(|error| failed("cannot be locked", &error))
}

fn refused(why: String) -> Failure {
    Failure::failed(format!("{SETTING}: {why}"))
}

fn failed(what: &str, error: &sqlx::Error) -> Failure {
    let why = nudge_runtime::problem::chain(error);
    refused(format!("{what}: {}", why.split_whitespace().collect::<Vec<_>>().join(" ")))
}

fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Quotes any text: a person may have edited the mark.
fn literal(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

#[cfg(test)]
mod tests;
