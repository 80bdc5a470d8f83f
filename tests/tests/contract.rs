//! What the relay and intake rely on at their ports to the broker: one suite for JetStream and for the simulated
//! broker.

/// These do not depend on a database, so they run once, whatever database is under test.
mod once {
    use std::{future::Future, sync::Arc, time::Duration};

    use futures_util::StreamExt;
    use nudge_protocol::{EntityName, subject};
    use nudge_publisher::sink::{Message, Sink};
    use nudge_simulation::ports::SimulatedBroker;
    use nudge_subscriber_kit::{
        Settings,
        source::{Consumer, Deliveries, Delivery, Durable, Source},
    };
    use nudge_tests::{Nats, broker_by, line_to};
    use serde_json::json;
    use tokio::time::timeout;

    const ACK_WAIT: Duration = Duration::from_secs(6);
    /// Longer than any delivery takes, and shorter than the time until a redelivery.
    const QUIET: Duration = Duration::from_secs(1);
    const PATIENCE: Duration = Duration::from_secs(30);

    struct Ports {
        sink: Arc<dyn Sink>,
        source: Arc<dyn Source>,
        entity: EntityName,
        settings: Settings,
    }

    impl Ports {
        fn new(sink: Arc<dyn Sink>, source: Arc<dyn Source>) -> Self {
            let settings = Settings { ack_wait: ACK_WAIT, ..Settings::default() };
            Self { sink, source, entity: EntityName::new("thing").unwrap(), settings }
        }

        async fn publish(&self, id: &str, version: &str) -> u64 {
            self.sink.publish(&self.entity, self.message(id, version)).await.unwrap()
        }

        fn message(&self, id: &str, version: &str) -> Message {
            let subject = subject::subject(&self.entity, &nudge_tests::id(id));
            Message {
                subject,
                version: version.to_owned(),
                body: b"{}".to_vec(),
                headers: Vec::new(),
            }
        }

        async fn open(&self) -> Arc<dyn Consumer> {
            let (entity, settings) = (&self.entity, &self.settings);
            let durable = Durable {
                service: "contract",
                entity,
                read_model: "contract",
                settings,
                events: None,
            };
            self.source.open(durable).await.unwrap()
        }

        async fn opens(&self) -> bool {
            let (entity, settings) = (&self.entity, &self.settings);
            let durable = Durable {
                service: "contract",
                entity,
                read_model: "contract",
                settings,
                events: None,
            };
            self.source.open(durable).await.is_ok()
        }
    }

    /// The next message: its subject's last token, its version and its sequence.
    async fn next(deliveries: &mut Deliveries) -> (String, String, u64, Delivery) {
        let next = timeout(PATIENCE, deliveries.next()).await.expect("a message comes");
        let delivery = next.expect("it goes on").expect("no error");
        let id = delivery.subject.rsplit('.').next().unwrap().to_owned();
        (id, delivery.version.clone().unwrap_or_default(), delivery.sequence, delivery)
    }

    async fn is_quiet(deliveries: &mut Deliveries) {
        let next = timeout(QUIET, deliveries.next()).await;
        assert!(next.is_err(), "{next:?}");
    }

    async fn settled(consumer: &dyn Consumer, ack_floor: u64) {
        for _ in 0..300 {
            let now = consumer.state().await.unwrap();
            if now.ack_floor >= ack_floor && now.ack_pending == 0 && now.pending == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("never settled: {:?}", consumer.state().await);
    }

    async fn a_stream_holds_the_newest_message_of_each_subject(ports: &Ports) {
        assert!(!ports.opens().await, "there is no stream yet");
        let empty = ports.sink.ensure(&ports.entity).await.unwrap();
        assert_eq!((empty.last_seq, empty.subjects), (0, 0));
        let mut last = 0;
        for (id, version) in [("a", "1"), ("b", "2"), ("a", "3")] {
            let sequence = ports.publish(id, version).await;
            assert!(sequence > last, "places rise");
            last = sequence;
        }
        let now = ports.sink.ensure(&ports.entity).await.unwrap();
        assert_eq!((now.last_seq, now.subjects, &now.created), (last, 2, &empty.created));
    }

    async fn a_consumer_brings_each_message_until_it_is_acknowledged(ports: &Ports) {
        let consumer = ports.open().await;
        // Messages that were replaced earlier may or may not count as handled.
        assert!(consumer.opened().ack_floor <= 1);
        assert_eq!(consumer.opened().pending, 2);
        let mut deliveries = consumer.deliveries().await.unwrap();
        let mut first = vec![next(&mut deliveries).await, next(&mut deliveries).await];
        first.sort_by_key(|(.., sequence, _)| *sequence);
        let seen: Vec<_> =
            first.iter().map(|(id, version, ..)| format!("{id}@{version}")).collect();
        assert_eq!(seen, ["b@2", "a@3"]);
        let state = consumer.state().await.unwrap();
        assert_eq!((state.ack_pending, state.pending), (2, 0));
        let (.., b_sequence, b) = first.remove(0);
        b.ack.unwrap().ack().await;
        is_quiet(&mut deliveries).await;
        // Only the other one is redelivered.
        let (id, version, a_sequence, a) = next(&mut deliveries).await;
        assert_eq!((id.as_str(), version.as_str()), ("a", "3"));
        assert!(a_sequence > b_sequence);
        a.ack.unwrap().ack().await;
        settled(&*consumer, a_sequence).await;
        is_quiet(&mut deliveries).await;
    }

    async fn a_message_that_is_replaced_does_not_come_again(ports: &Ports) {
        let consumer = ports.open().await;
        let mut deliveries = consumer.deliveries().await.unwrap();
        ports.publish("c", "4").await;
        let (id, _, old, held) = next(&mut deliveries).await;
        assert_eq!(id, "c");
        let new = ports.publish("c", "5").await;
        let (id, version, sequence, delivery) = next(&mut deliveries).await;
        assert_eq!((id.as_str(), version.as_str(), sequence), ("c", "5", new));
        delivery.ack.unwrap().ack().await;
        // Nobody acknowledged the old one, and nobody needs to.
        settled(&*consumer, new).await;
        assert!(old < new);
        // A late acknowledgement is harmless.
        held.ack.unwrap().ack().await;
        is_quiet(&mut deliveries).await;
    }

    async fn what_stands_in_the_stream_can_be_read_again(ports: &Ports) {
        let consumer = ports.open().await;
        let from = consumer.opened().last_sequence;
        for (from, expected) in
            [(1, vec!["b@2", "a@3", "c@5"]), (from, vec!["c@5"]), (from + 1, vec![])]
        {
            let mut again = consumer.again_from(from).await.unwrap();
            let mut seen = Vec::new();
            while let Some(delivery) = timeout(PATIENCE, again.next()).await.expect("it ends") {
                let delivery = delivery.unwrap();
                assert!(delivery.ack.is_none() && delivery.sequence >= from);
                let id = delivery.subject.rsplit('.').next().unwrap().to_owned();
                seen.push(format!("{id}@{}", delivery.version.unwrap()));
            }
            assert_eq!(seen, expected, "from {from}");
        }
    }

    async fn an_owner_reads_what_stands_beyond_a_place(ports: &Ports) {
        let beyond = async |sequence, limit| {
            let stored = ports.sink.beyond(&ports.entity, sequence, limit).await.unwrap();
            assert!(stored.is_sorted_by_key(|stored| stored.sequence));
            assert!(stored.iter().all(|stored| stored.sequence > sequence));
            let named = stored.iter().map(|stored| {
                let id = stored.subject.rsplit('.').next().unwrap();
                format!("{id}@{}", stored.version.as_deref().unwrap())
            });
            (named.collect::<Vec<_>>(), stored.last().map(|stored| stored.sequence))
        };
        let (all, last) = beyond(0, 100).await;
        assert_eq!(all, ["b@2", "a@3", "c@5"]);
        let (first, at) = beyond(0, 2).await;
        assert_eq!(first, ["b@2", "a@3"]);
        assert_eq!(beyond(at.unwrap(), 2).await.0, ["c@5"]);
        assert_eq!(beyond(last.unwrap(), 2).await.0, [""; 0]);
    }

    async fn what_is_worked_on_does_not_come_again(ports: &Ports) {
        let consumer = ports.open().await;
        let mut deliveries = consumer.deliveries().await.unwrap();
        ports.publish("d", "6").await;
        let (id, .., d) = next(&mut deliveries).await;
        assert_eq!(id, "d");
        let ack = d.ack.unwrap();
        tokio::time::sleep(ACK_WAIT / 2).await;
        ack.progress().await;
        // It would have been redelivered by then.
        tokio::time::sleep(ACK_WAIT / 2).await;
        is_quiet(&mut deliveries).await;
        // And it is, since no further progress was reported.
        let (id, .., again) = next(&mut deliveries).await;
        assert_eq!(id, "d");
        again.ack.unwrap().ack().await;
        settled(&*consumer, again.sequence).await;
    }

    async fn no_more_is_given_out_than_may_be_unacknowledged(ports: &Ports) {
        let settings = Settings { max_ack_pending: 1, ..ports.settings };
        let durable = Durable {
            service: "narrow",
            entity: &ports.entity,
            read_model: "narrow",
            settings: &settings,
            events: None,
        };
        let narrow = ports.source.open(durable).await.unwrap();
        let mut deliveries = narrow.deliveries().await.unwrap();
        for id in ["b", "a", "c", "d"] {
            let (next, .., delivery) = next(&mut deliveries).await;
            assert_eq!(next, id);
            is_quiet(&mut deliveries).await;
            delivery.ack.unwrap().ack().await;
        }
    }

    async fn what_is_fresh_comes_past_the_backlog_with_nothing_to_acknowledge(ports: &Ports) {
        let consumer = ports.open().await;
        let mut fresh = consumer.fresh().await.unwrap();
        is_quiet(&mut fresh).await;
        // It may lose any of them, so one of several must arrive.
        for _ in 0..10 {
            ports.publish("e", "7").await;
        }
        let (id, version, _, delivery) = next(&mut fresh).await;
        assert_eq!((id.as_str(), version.as_str()), ("e", "7"));
        assert!(delivery.ack.is_none());
        drop(fresh);
        let mut deliveries = consumer.deliveries().await.unwrap();
        let (id, .., delivery) = next(&mut deliveries).await;
        assert_eq!(id, "e");
        delivery.ack.unwrap().ack().await;
        settled(&*consumer, delivery.sequence).await;
    }

    async fn a_link_that_is_made_again_is_counted(ports: &Ports, cut: impl Future<Output = ()>) {
        let (mut sink, mut source) = (ports.sink.connections(), ports.source.connections());
        let before = (*sink.borrow_and_update(), *source.borrow_and_update());
        cut.await;
        for connections in [&mut sink, &mut source] {
            timeout(PATIENCE, connections.changed())
                .await
                .expect("in time")
                .expect("it is counted");
        }
        let after = (*sink.borrow(), *source.borrow());
        assert!(after.0 > before.0 && after.1 > before.1, "{before:?} {after:?}");
        assert!(ports.source.is_connected());
        ports.sink.ensure(&ports.entity).await.expect("the link stands");
    }

    async fn another_stream_is_another_incarnation(ports: &Ports, before: String) {
        assert!(!ports.opens().await, "the stream is gone");
        assert!(ports.sink.publish(&ports.entity, ports.message("a", "6")).await.is_err());
        let after = ports.sink.ensure(&ports.entity).await.unwrap();
        assert_ne!(after.created, before);
        assert_eq!((after.last_seq, after.subjects), (0, 0));
        assert_eq!(ports.open().await.opened().created, after.created);
    }

    async fn holds(ports: &Ports) -> String {
        a_stream_holds_the_newest_message_of_each_subject(ports).await;
        a_consumer_brings_each_message_until_it_is_acknowledged(ports).await;
        a_message_that_is_replaced_does_not_come_again(ports).await;
        what_stands_in_the_stream_can_be_read_again(ports).await;
        an_owner_reads_what_stands_beyond_a_place(ports).await;
        what_is_worked_on_does_not_come_again(ports).await;
        no_more_is_given_out_than_may_be_unacknowledged(ports).await;
        what_is_fresh_comes_past_the_backlog_with_nothing_to_acknowledge(ports).await;
        ports.sink.ensure(&ports.entity).await.unwrap().created
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn jetstream_keeps_the_contract() {
        let nats = Nats::start().await;
        let line = line_to(nats.port()).await;
        let broker = Arc::new(broker_by(&line, "contract").await);
        let ports = Ports::new(broker.clone(), broker);
        let created = holds(&ports).await;
        let cut = async {
            line.cut();
            tokio::time::sleep(Duration::from_millis(200)).await;
            line.mend();
        };
        a_link_that_is_made_again_is_counted(&ports, cut).await;
        let name = subject::stream_name(&ports.entity);
        nats.jetstream().await.delete_stream(name).await.unwrap();
        another_stream_is_another_incarnation(&ports, created).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_consumer_is_what_the_design_says_field_by_field() {
        let nats = Nats::start().await;
        let broker = Arc::new(nats.broker("contract").await);
        let ports = Ports::new(broker.clone(), broker);
        ports.sink.ensure(&ports.entity).await.unwrap();
        ports.open().await;
        let stream = nats.jetstream().await;
        let stream = stream.get_stream(subject::stream_name(&ports.entity)).await.unwrap();
        let info = stream.consumer_info("contract-thing").await.unwrap();
        let config = serde_json::to_value(info.config).unwrap();
        for (field, expected) in [
            ("durable_name", json!("contract-thing")),
            ("name", json!("contract-thing")),
            ("description", json!("contract follows thing")),
            ("deliver_policy", json!("all")),
            ("ack_policy", json!("explicit")),
            ("ack_wait", json!(ACK_WAIT.as_nanos() as u64)),
            ("max_deliver", json!(-1)),
            ("max_ack_pending", json!(5_000)),
            ("replay_policy", json!("instant")),
            ("inactive_threshold", json!(Duration::from_secs(30 * 24 * 3_600).as_nanos() as u64)),
        ] {
            assert_eq!(config[field], expected, "{field} in {config:#}");
        }
        // Absent means off: every subject, no backoff instead of `ack_wait`, whole messages, on disk.
        for field in [
            "backoff",
            "filter_subject",
            "filter_subjects",
            "headers_only",
            "max_batch",
            "max_bytes",
            "max_expires",
            "mem_storage",
            "num_replicas",
            "opt_start_seq",
            "opt_start_time",
            "pause_until",
            "rate_limit_bps",
            "sample_freq",
        ] {
            assert_eq!(config[field], json!(null), "{field} in {config:#}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_simulated_broker_keeps_the_contract() {
        for seed in 0..20 {
            let broker = SimulatedBroker::new(seed);
            let ports = Ports::new(broker.sink(), broker.source());
            let created = holds(&ports).await;
            let cut = async { broker.reconnect() };
            a_link_that_is_made_again_is_counted(&ports, cut).await;
            broker.delete_stream();
            another_stream_is_another_incarnation(&ports, created).await;
        }
    }
}
