//! Tasks that have to run for as long as their program does. When one panics, the program goes on without it, and nothing
//! but a restart brings it back: so the panic is logged, counted for `/metrics`, and named for `/readyz`.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, resume_unwind},
    sync::Arc,
};

use futures_util::FutureExt;
use nudge_protocol::EntityName;
use parking_lot::Mutex;
use prometheus_client::metrics::gauge::Gauge;

/// The tasks of one entity that have panicked. Cloning is cheap and shares it.
#[derive(Clone, Debug, Default)]
pub struct DeadTasks {
    names: Arc<Mutex<Vec<&'static str>>>,
    count: Gauge,
}

impl DeadTasks {
    /// Runs a task, and notes if it panics. The panic goes on to whoever awaits it.
    pub async fn watch<T>(
        self,
        entity: EntityName,
        name: &'static str,
        task: impl Future<Output = T>,
    ) -> T {
        match AssertUnwindSafe(task).catch_unwind().await {
            Ok(ended) => ended,
            Err(panic) => {
                let error = message(&*panic);
                tracing::error!(%entity, task = name, error, "a task panicked, and stays dead until a restart");
                self.names.lock().push(name);
                self.count.inc();
                resume_unwind(panic)
            }
        }
    }

    /// Whether none has panicked.
    pub fn is_empty(&self) -> bool {
        self.names.lock().is_empty()
    }

    /// Their names, such as `store: intake`.
    pub fn named(&self, entity: &EntityName) -> Vec<String> {
        self.names.lock().iter().map(|name| format!("{entity}: {name}")).collect()
    }

    /// Their number, for a registry.
    pub fn count(&self) -> Gauge {
        self.count.clone()
    }
}

/// What a panic says.
fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_panics_is_named_and_one_that_ends_is_not() {
        let (dead, store) = (DeadTasks::default(), EntityName::new("store").unwrap());
        assert_eq!(dead.clone().watch(store.clone(), "relay", async { 7 }).await, 7);
        assert!(dead.is_empty());
        let task = dead.clone().watch(store.clone(), "intake", async { panic!("planted") });
        assert!(tokio::spawn(task).await.is_err_and(|error| error.is_panic()));
        assert_eq!((dead.named(&store), dead.count().get()), (vec!["store: intake".to_owned()], 1));
    }
}
