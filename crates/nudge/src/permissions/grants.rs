//! What each user needs. Pure.
//!
//! A permission names whole tokens of a subject. So each consumer has one of a few fixed names; nobody but the operator
//! may create one whose name only the request's body says, since that could be the name of somebody else's.

use nudge_protocol::{
    EntityName,
    subject::{all_subjects, consumer_names, reading_names, stream_name},
};
use nudge_publisher::stream::READER;
use nudge_runtime::broker::inbox_prefix;

use super::{Events, OPERATOR, Roles, Services};

/// The subjects that a user may publish to and subscribe to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Grants {
    pub(super) publish: Vec<String>,
    pub(super) subscribe: Vec<String>,
}

/// What a guest may do: everything but this.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Denials(pub(super) Grants);

/// The names with which the verbs of `nudge` connect.
const OPERATORS: [&str; 5] = ["dev", "status", "console", "chaos", "conformance"];
/// What a guest must not do to a stream that is not his own, as the last tokens of JetStream's subjects.
const ALTERS: [&str; 9] = [
    "CREATE",
    "UPDATE",
    "DELETE",
    "PURGE",
    "SNAPSHOT",
    "RESTORE",
    "MSG.DELETE",
    "PEER.REMOVE",
    "LEADER.STEPDOWN",
];

/// Where an entity's notifications come from.
struct Source {
    stream: String,
    subjects: String,
    /// What a consumer names if not all of the stream is meant.
    filter: Option<String>,
}

impl Roles {
    fn source(&self, entity: &EntityName) -> Source {
        match self.cloud_events.get(entity) {
            Some(Events { stream, subjects }) => Source {
                stream: stream.clone(),
                subjects: subjects.clone(),
                filter: Some(subjects.clone()),
            },
            None => {
                Source { stream: stream_name(entity), subjects: all_subjects(entity), filter: None }
            }
        }
    }
}

impl Grants {
    /// What a service needs.
    pub(super) fn of_service(name: &str, roles: &Roles) -> Self {
        let mut grants = Self::default();
        grants.subscribe.push(inbox(name));
        roles.owns.iter().for_each(|entity| grants.owns(entity));
        roles.follows.iter().for_each(|entity| grants.follows(name, entity, &roles.source(entity)));
        grants.publish.sort();
        grants.publish.dedup();
        grants
    }

    fn owns(&mut self, entity: &EntityName) {
        let stream = stream_name(entity);
        self.publish.push(all_subjects(entity));
        let verbs =
            ["STREAM.INFO", "STREAM.CREATE", "STREAM.UPDATE", "STREAM.MSG.GET", "DIRECT.GET"];
        self.publish.extend(verbs.map(|verb| format!("$JS.API.{verb}.{stream}")));
        self.reads(&stream, READER);
    }

    fn follows(&mut self, name: &str, entity: &EntityName, source: &Source) {
        let Source { stream, subjects, filter } = source;
        self.subscribe.push(subjects.clone());
        self.publish.push(format!("$JS.API.STREAM.INFO.{stream}"));
        self.publish.push(format!("$JS.API.CONSUMER.NAMES.{stream}"));
        for consumer in consumer_names(name, entity) {
            let verbs = ["CREATE", "INFO", "DELETE", "PAUSE", "MSG.NEXT"];
            let api = verbs.map(|verb| format!("$JS.API.CONSUMER.{verb}.{stream}.{consumer}"));
            self.publish.extend(api);
            // The request to create one with a filter names the filter, too.
            let created = filter
                .iter()
                .map(|filter| format!("$JS.API.CONSUMER.CREATE.{stream}.{consumer}.{filter}"));
            self.publish.extend(created);
            self.publish.extend(acknowledgements(stream, &consumer));
        }
        self.reads(stream, &format!("{name}-{entity}"));
    }

    /// The temporary consumers with which it rereads.
    fn reads(&mut self, stream: &str, reader: &str) {
        for consumer in reading_names(reader) {
            let verbs = ["CREATE", "INFO", "DELETE", "MSG.NEXT"];
            let api = verbs.map(|verb| format!("$JS.API.CONSUMER.{verb}.{stream}.{consumer}"));
            self.publish.extend(api);
        }
    }

    /// What the operator needs.
    pub(super) fn of_operator() -> Self {
        let changes = "changes.>".to_owned();
        Self {
            publish: vec!["$JS.API.>".to_owned(), changes.clone()],
            subscribe: operators_inboxes().chain([changes]).collect(),
        }
    }
}

impl Denials {
    /// What a guest may not do beside these services.
    pub(super) fn beside(services: &Services) -> Self {
        let inboxes: Vec<_> = services.names().map(inbox).chain(operators_inboxes()).collect();
        // Requests to the server, and whatever names a consumer only in its body.
        let mut publish = vec!["$SYS.>".to_owned()];
        publish.extend(inboxes.clone());
        for (name, roles) in &services.services {
            for entity in &roles.owns {
                let stream = stream_name(entity);
                publish.push(all_subjects(entity));
                publish.extend(ALTERS.map(|verb| format!("$JS.API.STREAM.{verb}.{stream}")));
                publish.push(format!("$JS.API.CONSUMER.CREATE.{stream}"));
                publish.extend(reading_names(READER).flat_map(|reader| consumer(&stream, &reader)));
            }
            for entity in &roles.follows {
                let Source { stream, .. } = roles.source(entity);
                publish.push(format!("$JS.API.CONSUMER.CREATE.{stream}"));
                let reading = reading_names(&format!("{name}-{entity}"));
                for name in consumer_names(name, entity).chain(reading) {
                    publish.extend(consumer(&stream, &name));
                    publish.push(format!("$JS.ACK.{stream}.{name}.>"));
                    publish.push(format!("$JS.ACK.*.*.{stream}.{name}.>"));
                }
            }
        }
        // The same in a JetStream domain.
        let rest =
            |subject: &String| Some(format!("$JS.*.API.{}", subject.strip_prefix("$JS.API.")?));
        let in_domains: Vec<_> = publish.iter().filter_map(rest).collect();
        publish.extend(in_domains);
        publish.sort();
        publish.dedup();
        // Requests name the inboxes that replies go to.
        let requests = ["$SYS.>", "$JS.API.>", "$JS.*.API.>", "$JS.ACK.>"].map(str::to_owned);
        let subscribe = inboxes.into_iter().chain(requests).collect();
        Self(Grants { publish, subscribe })
    }
}

/// The replies to a client of this name.
fn inbox(name: &str) -> String {
    format!("{}.>", inbox_prefix(name))
}

fn operators_inboxes() -> impl Iterator<Item = String> {
    OPERATORS.into_iter().map(|verb| inbox(&format!("{OPERATOR}-{verb}")))
}

/// Acknowledgements of what a consumer delivers. Newer servers put a domain and an account before the stream. The number of
/// tokens tells the two apart: without it, a subject of the first form with the names in the places of the second would
/// be about another consumer.
fn acknowledgements(stream: &str, consumer: &str) -> [String; 2] {
    [
        format!("$JS.ACK.{stream}.{consumer}.*.*.*.*.*"),
        format!("$JS.ACK.*.*.{stream}.{consumer}.*.*.*.*.>"),
    ]
}

/// Every request about a consumer; `CREATE` may have a filter at its end.
fn consumer(stream: &str, consumer: &str) -> [String; 3] {
    [
        format!("$JS.API.CONSUMER.*.{stream}.{consumer}"),
        format!("$JS.API.CONSUMER.*.{stream}.{consumer}.>"),
        format!("$JS.API.CONSUMER.*.*.{stream}.{consumer}"),
    ]
}
