//! For tests: stub services in this process.

use axum::Router;
use tokio::{net::TcpListener, task::JoinSet};

use crate::{
    client::{Api, Service},
    peers::Peer,
};

/// Those that may be stubbed: an owner, one that follows it, and one that does both.
const STUBBED: [Service; 3] = [Service::StoreInfo, Service::Search, Service::Review];

/// Running stubs. Dropping them stops them.
pub(crate) struct Stubs {
    pub(crate) api: Api,
    _tasks: JoinSet<()>,
}

/// Serves each router as its service, on the port where [`Stubs::api`] expects it. Nobody listens on the ports of the
/// others among [`STUBBED`]; further services there are none.
pub(crate) async fn start(services: impl IntoIterator<Item = (Service, Router)>) -> Stubs {
    let mut tasks = JoinSet::new();
    // All are bound at once, so that the ports differ.
    let mut listeners = Vec::new();
    for _ in STUBBED {
        listeners.push(TcpListener::bind("127.0.0.1:0").await.unwrap());
    }
    let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
    let at = |service: Service| Peer::of(service, port(&listeners[service as usize]));
    let peers = STUBBED.map(at).to_vec();
    let mut listeners: Vec<_> = listeners.into_iter().map(Some).collect();
    for (service, router) in services {
        let listener = listeners[service as usize].take().expect("each service once");
        tasks.spawn(async move { axum::serve(listener, router).await.unwrap() });
    }
    Stubs { api: Api::new(0).with(peers), _tasks: tasks }
}

/// Ports on which nobody listens.
pub(crate) async fn nobody() -> Api {
    start([]).await.api
}
