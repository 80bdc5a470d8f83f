//! The owner's stream, and the notifications in it.

use std::time::Duration;

use futures_util::StreamExt;
use nudge_protocol::{
    EntityId, EntityName, Notification,
    notification::{VERSION_HEADER, parse_version_header},
    subject,
};
use nudge_runtime::Broker;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use super::{
    report::{Doubt, Report, Rule, Tried, broken, ensure},
    target::{Row, Target, version},
    writes::text,
};

/// How soon a change must be published. In tests, only an owner that never does so takes all of it.
const SOON: Duration = Duration::from_secs(if cfg!(test) { 3 } else { 10 });
/// Pause between two looks at the stream.
const LOOK_PAUSE: Duration = Duration::from_millis(250);
/// Entities whose messages are looked at.
const SOME: usize = 100;
/// The entity that is written to see its notification.
const TOLD: &str = "conformance:told/. *>";
/// The deduplication of a broker, by which it swallows a message.
const MESSAGE_ID: &str = "Nats-Msg-Id";
/// Headers by which the broker says what it stores.
const BROKERS: &str = "Nats-";
/// Of a trace, and of CloudEvents: these hold no data.
const DESCRIBING: [&str; 9] = [
    "traceparent",
    "tracestate",
    "ce-specversion",
    "ce-id",
    "ce-source",
    "ce-type",
    "ce-subject",
    "ce-time",
    "ce-datacontenttype",
];

const SETTINGS: Rule = Rule {
    section: "4.1",
    rule: "the stream keeps the newest message of each subject, for ever",
    consequence: "a subscriber that was away misses changes",
};
const SUBJECTS: Rule = Rule {
    section: "4.2",
    rule: "each subject is the encoding of an ID",
    consequence: "one entity has two subjects, or none that a subscriber can read",
};
const STANDS: Rule = Rule {
    section: "5.1",
    rule: "the newest version of each entity stands in the stream",
    consequence: "subscribers are not told of a change",
};
const NO_DATA: Rule = Rule {
    section: "4.2",
    rule: "a notification is an ID and a change, without data and without Nats-Msg-Id",
    consequence: "somebody comes to rely on data that is out of date, or the broker drops a repetition that is needed",
};
const TELLS: Rule = Rule {
    section: "5.1",
    rule: "a write and a deletion are published within 10 s, on the entity's subject",
    consequence: "subscribers learn of it only when they compare themselves with the owner",
};

pub(super) async fn check(target: &Target, broker: Option<&Broker>, report: &mut Report) {
    let Some(broker) = broker else {
        for rule in [SETTINGS, SUBJECTS, STANDS, NO_DATA, TELLS] {
            report.note(rule, Err(Doubt::NotTried("it is about NATS: give --nats".to_owned())));
        }
        return;
    };
    report.note(TELLS, tells(target, broker).await);
    let info = info(broker, &target.entity).await;
    report.note(SETTINGS, info.clone().and_then(|info| settings(&target.entity, &info["config"])));
    report
        .note(SUBJECTS, info.and_then(|info| subjects(&target.entity, &info["state"]["subjects"])));
    let rows = target.some("", SOME).await.unwrap_or_default();
    report.note(STANDS, stands(target, broker, &rows).await);
    report.note(NO_DATA, no_data(target, broker, &rows).await);
}

/// What the broker says about the stream.
pub(super) async fn info(broker: &Broker, entity: &EntityName) -> Result<Value, Doubt> {
    let name = subject::stream_name(entity);
    let request = json!({"subjects_filter": ">"}).to_string();
    let answer = broker.client.request(format!("$JS.API.STREAM.INFO.{name}"), request.into()).await;
    let answer =
        answer.map_err(|error| Doubt::Broken(format!("JetStream does not answer: {error}")))?;
    let info: Value = serde_json::from_slice(&answer.payload).unwrap_or_default();
    match info["error"]["description"].as_str() {
        Some(error) => broken(format!("{name}: {error}")),
        None => Ok(info),
    }
}

/// Compares a stream's configuration with the one in the protocol.
pub(super) fn settings(entity: &EntityName, config: &Value) -> Tried {
    let needed = [
        ("subjects", json!([subject::all_subjects(entity)])),
        ("max_msgs_per_subject", json!(1)),
        ("retention", json!("limits")),
        ("max_age", json!(0)),
        ("max_msgs", json!(-1)),
        ("max_consumers", json!(-1)),
        ("discard", json!("new")),
        ("deny_delete", json!(true)),
        ("deny_purge", json!(true)),
        ("allow_direct", json!(true)),
    ];
    for (name, needed) in needed {
        let is = &config[name];
        ensure(*is == needed, || format!("{name} is {is}, not {needed}"))?;
    }
    for name in ["no_ack", "mirror", "sources", "subject_transform", "sealed"] {
        let is = &config[name];
        let unset = is.is_null() || *is == false || is.as_array().is_some_and(Vec::is_empty);
        ensure(unset, || format!("{name} is {is}"))?;
    }
    let size = config["max_msg_size"].as_i64().unwrap_or(-1);
    ensure(size == -1 || size >= 4_096, || format!("max_msg_size is {size}, less than 4096"))
}

fn subjects(entity: &EntityName, subjects: &Value) -> Tried {
    for (subject, count) in subjects.as_object().into_iter().flatten() {
        let id = subject::decode_subject(entity, subject);
        let id = id.map_err(|error| Doubt::Broken(format!("{subject}: {error}")))?;
        let needed = subject::subject(entity, &id);
        ensure(*subject == needed, || format!("{id:?} is published on {subject}, not {needed}"))?;
        ensure(*count == 1, || format!("{subject} holds {count} messages"))?;
    }
    Ok(())
}

/// A message that stands in the stream.
struct Standing {
    version: Option<String>,
    headers: Vec<String>,
    body: Vec<u8>,
}

async fn standing(target: &Target, broker: &Broker, id: &str) -> Result<Option<Standing>, Doubt> {
    let id =
        EntityId::new(id).map_err(|error| Doubt::Broken(format!("items lists {id:?}: {error}")))?;
    let (stream, subject) =
        (subject::stream_name(&target.entity), subject::subject(&target.entity, &id));
    let request = format!("$JS.API.DIRECT.GET.{stream}.{subject}");
    let found = broker.client.request(request, Vec::new().into()).await;
    let found =
        found.map_err(|error| Doubt::Broken(format!("the stream does not answer: {error}")))?;
    if found.status.is_some_and(|status| status.as_u16() == 404) {
        return Ok(None);
    }
    Ok(Some(Standing::of(&found.headers.unwrap_or_default(), found.payload.to_vec())))
}

impl Standing {
    fn of(headers: &async_nats::HeaderMap, body: Vec<u8>) -> Self {
        let version = headers.get(VERSION_HEADER).map(ToString::to_string);
        Self { version, headers: headers.iter().map(|(name, _)| name.to_string()).collect(), body }
    }
}

/// What is published may take a moment.
async fn stands(target: &Target, broker: &Broker, rows: &[Row]) -> Tried {
    for row in rows {
        let look = async {
            loop {
                let (now, standing) = (
                    version(&target.one(&row.id).await?),
                    standing(target, broker, &row.id).await?,
                );
                let named = standing.map(|standing| standing.version);
                let read =
                    |named: String| parse_version_header(&named).map_or(0, |version| version.get());
                // The header may be left out.
                if named.is_some_and(|named| named.is_none_or(|named| read(named) == now)) {
                    return Ok::<_, Doubt>(());
                }
                sleep(LOOK_PAUSE).await;
            }
        };
        if let Ok(found) = timeout(SOON, look).await {
            found?;
            continue;
        }
        match standing(target, broker, &row.id).await?.map(|standing| standing.version) {
            None => return broken(format!("the stream has nothing about {:?}", row.id)),
            Some(None) => {}
            Some(Some(named)) => {
                let how = format!(
                    "the message about {:?} names {named}, and items lists {}",
                    row.id, row.version
                );
                return broken(how);
            }
        }
    }
    Ok(())
}

async fn no_data(target: &Target, broker: &Broker, rows: &[Row]) -> Tried {
    for row in rows {
        if let Some(standing) = standing(target, broker, &row.id).await? {
            harmless(&row.id, &standing)?;
        }
    }
    Ok(())
}

/// Whether a notification is an ID and a change, and nothing else.
fn harmless(id: &str, standing: &Standing) -> Tried {
    let said = String::from_utf8_lossy(&standing.body).into_owned();
    let read = Notification::from_json(&standing.body);
    ensure(read.is_ok_and(|read| read.id.as_str() == id), || {
        format!("the message about {id:?} is {said}")
    })?;
    let members: Value = serde_json::from_slice(&standing.body).unwrap_or_default();
    let alone = members.as_object().is_some_and(|members| members.len() == 2);
    ensure(alone, || {
        format!("the message about {id:?} holds more than an ID and a change: {said}")
    })?;
    for name in &standing.headers {
        let is = |known: &str| name.eq_ignore_ascii_case(known);
        ensure(!is(MESSAGE_ID), || format!("the message about {id:?} has {MESSAGE_ID}"))?;
        let known = is(VERSION_HEADER)
            || DESCRIBING.iter().any(|known| is(known))
            || name.starts_with(BROKERS);
        ensure(known, || format!("the message about {id:?} has the header {name}"))?;
    }
    Ok(())
}

async fn tells(target: &Target, broker: &Broker) -> Tried {
    target.writes()?;
    let id = EntityId::new(TOLD).map_err(|error| Doubt::NotTried(error.to_string()))?;
    let subject = subject::subject(&target.entity, &id);
    let failed = |error: String| Doubt::NotTried(format!("NATS: {error}"));
    let mut told = broker
        .client
        .subscribe(subject::all_subjects(&target.entity))
        .await
        .map_err(|error| failed(error.to_string()))?;
    broker.client.flush().await.map_err(|error| failed(error.to_string()))?;
    for what in ["the write", "the deletion"] {
        match what {
            "the write" => target.put(TOLD, &text(1)).await?,
            _ => target.delete(TOLD).await?,
        }
        let at = version(&target.one(TOLD).await?);
        let hear = async {
            while let Some(message) = told.next().await {
                if message.subject.as_str() == subject {
                    let standing = Standing::of(
                        &message.headers.unwrap_or_default(),
                        message.payload.to_vec(),
                    );
                    harmless(TOLD, &standing)?;
                    let named = standing.version.map(|named| parse_version_header(&named));
                    if named.is_none_or(|named| named.is_ok_and(|named| named.get() >= at)) {
                        return Ok(());
                    }
                }
            }
            Err(failed("the subscription ended".to_owned()))
        };
        match timeout(SOON, hear).await {
            Ok(heard) => heard?,
            Err(_) => {
                return broken(format!("nothing came on {subject} for {what} of version {at}"));
            }
        }
    }
    Ok(())
}
