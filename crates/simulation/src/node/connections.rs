//! How often a program has connected to the broker, and its tasks that watch that.

use tokio::sync::watch;

/// See the module documentation.
pub(super) struct Connections {
    count: u64,
    /// One channel for each task: tokio wakes the receivers of a single one in a random order, which no seed repeats.
    watched_by: Vec<watch::Sender<u64>>,
}

impl Connections {
    /// A program that has just started.
    pub(super) fn first() -> Self {
        Self { count: 1, watched_by: Vec::new() }
    }

    pub(super) fn watch(&mut self) -> watch::Receiver<u64> {
        let (sender, receiver) = watch::channel(self.count);
        self.watched_by.push(sender);
        receiver
    }

    /// It connects once more, and those who watch are told in the order in which they came.
    pub(super) fn again(&mut self) {
        self.count += 1;
        self.watched_by.retain(|sender| sender.send(self.count).is_ok());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parking_lot::Mutex;
    use tokio::task::yield_now;

    use super::*;

    #[tokio::test]
    async fn those_who_watch_are_told_in_the_order_in_which_they_came() {
        let order = Vec::from_iter(0..20);
        let (mut connections, told) = (Connections::first(), Arc::new(Mutex::new(Vec::new())));
        for task in order.clone() {
            let (mut watched, told) = (connections.watch(), told.clone());
            tokio::spawn(async move {
                watched.changed().await.expect("the program connects again");
                told.lock().push((task, *watched.borrow()));
            });
        }
        yield_now().await;
        connections.again();
        while told.lock().len() < order.len() {
            yield_now().await;
        }
        assert_eq!(*told.lock(), Vec::from_iter(order.into_iter().map(|task| (task, 2))));
    }
}
