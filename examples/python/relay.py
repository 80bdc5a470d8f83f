"""The change log of an owner, and the relay that publishes it.

The log has one row for each entity: its newest version, which is also its tombstone, and which version of it stands in
the stream, at which sequence. Rows whose version does not stand there are published, until it does.
"""

import json
import sys
import threading
import time

from jetstream import Connection, Refused, acknowledged
from protocol import id_of, token, version_of

TABLES = """
CREATE TABLE IF NOT EXISTS change_log (
    id TEXT PRIMARY KEY, version INTEGER NOT NULL, change TEXT NOT NULL, changed_at INTEGER NOT NULL,
    published_version INTEGER NOT NULL DEFAULT 0, published_seq INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS pending ON change_log (version) WHERE version <> published_version;
"""
# One message for each subject, kept forever; a full stream refuses new messages instead of dropping old ones.
SETTINGS = {"retention": "limits", "max_msgs_per_subject": 1, "max_msgs": -1, "max_age": 0, "discard": "new",
            "max_consumers": -1, "allow_direct": True, "deny_delete": True, "deny_purge": True}
BATCH, LOOK_SECONDS, NO_STREAM = 500, 5.0, 10059


def record(db, entity_id, change, above=0):
    """Gives an entity a new version, in the transaction of the change: the clock's microseconds, but more than its
    last version and more than `above`."""
    now = time.time_ns() // 1000
    sql = """INSERT INTO change_log (id, version, change, changed_at) VALUES (?1, max(?2, ?4 + 1), ?3, ?2)
        ON CONFLICT (id) DO UPDATE SET version = max(excluded.version, change_log.version + 1),
        change = excluded.change, changed_at = excluded.changed_at RETURNING version"""
    return db.execute(sql, (entity_id, now, change, above)).fetchone()[0]


def mark(db, entity_id, version, seq):
    """Notes what stands in the stream: only what has a higher sequence than what is noted stands there still."""
    sql = """UPDATE change_log SET published_version = ?2, published_seq = ?3
        WHERE id = ?1 AND published_seq < ?3"""
    db.execute(sql, (entity_id, version, seq))


class Relay(threading.Thread):
    """Publishes what `record` wrote. `writing` opens a transaction on the owner's database."""

    def __init__(self, url, entity, writing):
        super().__init__(daemon=True)
        self.url, self.entity, self.stream, self.writing = url, entity, f"CHANGES_{entity}", writing
        self.wake = threading.Event()  # Set after each commit.

    def run(self):
        while True:
            broker = None
            try:
                broker = Connection(self.url, f"owner of {self.entity}")
                self.session(broker)
            except (OSError, Refused) as error:
                print(f"relay: {error}; trying again", file=sys.stderr, flush=True)
                time.sleep(0.5)
            finally:
                if broker:
                    broker.close()

    def session(self, broker):
        """On each connection, what stands in the stream decides what is published: the broker may have lost what it
        acknowledged, and the owner's database may be an older copy of itself."""
        self.make_stream(broker)
        everything = {"deliver_policy": "all", "ack_policy": "none", "headers_only": True, "mem_storage": True,
                      "inactive_threshold": int(60e9)}
        request = {"stream_name": self.stream, "config": everything}
        reader = broker.api(f"CONSUMER.CREATE.{self.stream}", request)["name"]
        anew, look_at = True, 0.0
        while True:
            if time.monotonic() >= look_at:
                self.look(broker, reader, anew)
                anew, look_at = False, time.monotonic() + LOOK_SECONDS
            self.wake.clear()
            while self.publish(broker):
                pass
            self.wake.wait(LOOK_SECONDS / 10)

    def make_stream(self, broker):
        wanted = {"name": self.stream, "subjects": [f"changes.{self.entity}.*"], **SETTINGS}
        try:
            found = broker.api(f"STREAM.INFO.{self.stream}")["config"]
        except Refused as refused:
            if refused.code != NO_STREAM:
                raise
            broker.api(f"STREAM.CREATE.{self.stream}", {"storage": "file", "max_msg_size": 4096, **wanted})
        else:
            if any(found.get(name) != value for name, value in wanted.items()):
                broker.api(f"STREAM.UPDATE.{self.stream}", {**found, **wanted})

    def look(self, broker, reader, anew):
        """Notes what stands in the stream, whoever published it; `anew`: and nothing else."""
        if anew:
            with self.writing() as db:
                db.execute("UPDATE change_log SET published_version = 0, published_seq = 0")
        while messages := broker.fetch(self.stream, reader, BATCH, 0):
            with self.writing() as db:
                for message in messages:
                    if entity_id := id_of(message.subject):
                        self.take(db, entity_id, version_of(message) or 0, message.delivery()[1])

    def take(self, db, entity_id, version, seq):
        known = db.execute("SELECT version, change FROM change_log WHERE id = ?", (entity_id,)).fetchone()
        if version > (known[0] if known else 0):
            # The database was restored from a backup, and subscribers may have that version: they need a higher one.
            # What the log does not know at all is deleted now.
            record(db, entity_id, known[1] if known else "deleted", above=version)
        mark(db, entity_id, version, seq)

    def publish(self, broker):
        """Publishes some of what does not stand in the stream, all at once. Returns how much."""
        with self.writing() as db:
            sql = "SELECT id, version, change FROM change_log WHERE version <> published_version LIMIT ?"
            rows = db.execute(sql, (BATCH,)).fetchall()
        sent = [self.notify(broker, *row) for row in rows]
        acknowledgements = [acknowledged(future) for future in sent]
        with self.writing() as db:
            for (entity_id, version, _), seq in zip(rows, acknowledgements):
                mark(db, entity_id, version, seq)
        return len(rows)

    def notify(self, broker, entity_id, version, change):
        """An ID and the kind of change, and nothing else."""
        body = json.dumps({"id": entity_id, "change": change}, ensure_ascii=False, separators=(",", ":"))
        subject = f"changes.{self.entity}.{token(entity_id)}"
        return broker.request(subject, body.encode(), {"Nudge-Version": version})
