//! A span: something that took time, with its place in a trace.

use std::borrow::Cow;

use nudge_protocol::Timestamp;

use super::Context;

/// The part that a span has in a call or in messaging.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// None: it is about this service alone.
    Internal,
    /// It answers a request.
    Server,
    /// It is a request to another service.
    Client,
    /// It publishes a message.
    Producer,
    /// It handles a message.
    Consumer,
}

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A text.
    Text(Cow<'static, str>),
    /// A number.
    Number(i64),
}

impl From<&'static str> for Value {
    fn from(text: &'static str) -> Self {
        Self::Text(text.into())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text.into())
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

/// A span that is over.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    /// What happened: one of few names, so that spans can be grouped by it.
    pub name: Cow<'static, str>,
    /// Its part in a call or in messaging.
    pub kind: Kind,
    /// Its own context.
    pub context: Context,
    /// The span that it is part of, in the same trace.
    pub parent: Option<[u8; 8]>,
    /// When it began.
    pub start: Timestamp,
    /// When it ended.
    pub end: Timestamp,
    /// What is to be known about it.
    pub attributes: Vec<(&'static str, Value)>,
    /// Spans that it has to do with, mostly of other traces.
    pub links: Vec<Context>,
    /// Why it failed, if it did.
    pub error: Option<String>,
}

impl Span {
    /// A span that began a trace, without attributes.
    pub fn new(
        name: impl Into<Cow<'static, str>>,
        kind: Kind,
        context: Context,
        start: Timestamp,
        end: Timestamp,
    ) -> Self {
        let (attributes, links) = (Vec::new(), Vec::new());
        Self {
            name: name.into(),
            kind,
            context,
            parent: None,
            start,
            end,
            attributes,
            links,
            error: None,
        }
    }

    /// Makes it a part of `parent`.
    #[must_use]
    pub fn child_of(mut self, parent: Context) -> Self {
        self.parent = Some(parent.span);
        self
    }

    /// Adds an attribute.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.attributes.push((name, value.into()));
        self
    }
}
