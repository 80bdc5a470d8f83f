//! The publisher on a real nats-server: change log, relay, repair, sync API.

mod batch_get;
mod change_log;
mod compare;
mod doubled;
mod notifications;
mod one_and_all;
mod outages;
mod repair;
mod restored;
mod several_relays;
mod strangers;
mod stream;
pub(crate) mod support;
mod unreadable;
