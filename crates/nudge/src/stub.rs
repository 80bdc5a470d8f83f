//! For tests: stub services in this process.

use axum::Router;
use tokio::{net::TcpListener, task::JoinSet};

use crate::client::{Api, Service};

/// Running stubs. Dropping them stops them.
pub(crate) struct Stubs {
    pub(crate) api: Api,
    _tasks: JoinSet<()>,
}

/// Serves each router as its service, on the port where [`Stubs::api`] expects it. Nobody listens on
/// the other services' ports.
pub(crate) async fn start(services: impl IntoIterator<Item = (Service, Router)>) -> Stubs {
    let mut tasks = JoinSet::new();
    // All three are bound at once, so that the ports differ.
    let mut listeners = Vec::new();
    for _ in Service::ALL {
        listeners.push(TcpListener::bind("127.0.0.1:0").await.unwrap());
    }
    let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
    let ports = [port(&listeners[0]), port(&listeners[1]), port(&listeners[2])];
    let mut listeners: Vec<_> = listeners.into_iter().map(Some).collect();
    for (service, router) in services {
        let listener = listeners[service as usize].take().expect("each service once");
        tasks.spawn(async move { axum::serve(listener, router).await.unwrap() });
    }
    Stubs { api: Api::with_ports(ports), _tasks: tasks }
}

/// Ports on which nobody listens.
pub(crate) async fn nobody() -> Api {
    start([]).await.api
}
