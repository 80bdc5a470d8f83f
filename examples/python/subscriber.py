"""A subscriber of stores, in Python: a table that follows its owner, however messages arrive.

    python3 examples/python/subscriber.py --owner http://127.0.0.1:7101 --nats nats://127.0.0.1:7122 --database copy.db
    sqlite3 copy.db 'SELECT id, name, open FROM store WHERE NOT deleted'

It is as small as it can be while it converges: it takes one batch at a time, waits out whatever fails, keeps no dead
letters, and shows no metrics. What a subscriber must do is in docs/protocol.md.
"""

import argparse
import contextlib
import http.client
import json
import sqlite3
import sys
import time
import urllib.error
import urllib.request
import uuid

from jetstream import Connection, Refused
from protocol import id_of, version_of

BATCH, COMPARE_SECONDS, MOST_DELIVERIES = 256, 600, 20
BAD_ANSWER = (OSError, http.client.HTTPException, ValueError, KeyError, TypeError, AttributeError)
TABLES = """CREATE TABLE IF NOT EXISTS store (id TEXT PRIMARY KEY, version INTEGER NOT NULL, deleted INTEGER NOT NULL,
    name TEXT, open INTEGER); CREATE TABLE IF NOT EXISTS identity (text TEXT NOT NULL)"""
# The guard: an answer may come late, and another replica may have applied a newer one.
APPLY = """INSERT INTO store VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (id) DO UPDATE SET version = excluded.version,
    deleted = excluded.deleted, name = excluded.name, open = excluded.open WHERE excluded.version > store.version"""


class Subscriber:
    def __init__(self, owner, entity, database):
        self.api, self.stream = f"{owner}/sync/v1/{entity}/", f"CHANGES_{entity}"
        self.db = sqlite3.connect(database, timeout=30)
        self.db.executescript(TABLES)
        with self.db:
            self.db.execute("INSERT INTO identity SELECT ? WHERE NOT EXISTS (SELECT 1 FROM identity)", (uuid.uuid4().hex,))
        # The consumer belongs to the database: an emptied one has another identity, and reads everything again.
        (identity,) = self.db.execute("SELECT text FROM identity").fetchone()
        self.consumer, self.compare_at = f"python-{entity}-{identity}", 0.0

    def run(self, nats):
        while True:
            try:
                with contextlib.closing(Connection(nats, self.consumer)) as broker:
                    self.session(broker)
            except (Refused, *BAD_ANSWER) as error:
                print(f"subscriber: {error!r}; trying again", file=sys.stderr, flush=True)
                time.sleep(0.5)

    def session(self, broker):
        config = {"durable_name": self.consumer, "deliver_policy": "all", "ack_policy": "explicit", "max_deliver": -1,
                  "ack_wait": int(30e9), "max_ack_pending": 5000}
        request = {"stream_name": self.stream, "config": config}
        broker.api(f"CONSUMER.DURABLE.CREATE.{self.stream}.{self.consumer}", request)
        while True:
            if time.monotonic() >= self.compare_at:
                self.compare()
                self.compare_at = time.monotonic() + COMPARE_SECONDS
            messages = broker.fetch(self.stream, self.consumer, BATCH, seconds=5)
            try:
                answered = self.refresh({id_of(message.subject) for message in messages} - {None})
            except BAD_ANSWER as error:  # It counts against no key: all of them are asked for again in a second.
                print(f"subscriber: {error!r}; asking again", file=sys.stderr, flush=True)
                for message in messages:
                    broker.answer(message, b'-NAK {"delay": 1000000000}')
                time.sleep(0.5)
                continue
            for message in messages:
                self.end(broker, message, answered)

    def end(self, broker, message, answered):
        """Acknowledges what is applied in the version that the message names, or in a later one."""
        (delivered, _), version, entity_id = message.delivery(), version_of(message), id_of(message.subject)
        if entity_id in answered:
            # Without a version, the answer may come from before the change: a second look settles it.
            done = delivered > 1 if version is None else answered[entity_id] >= version
        else:
            # Unknown is not deleted: it may become known. A later message or comparison starts over.
            done = entity_id is None or delivered >= MOST_DELIVERIES
        delay = min(2 ** min(delivered - 1, 6), 60) * 10**9
        broker.answer(message, b"+ACK" if done else b'-NAK {"delay": %d}' % delay)

    def refresh(self, ids):
        """Asks the owner for these, and applies what it says. Returns the versions that it answered."""
        left, answered = list(ids), {}
        while left:
            items = [item for item in self.states(left[:BATCH]) if item["id"] in ids]
            with self.db:
                for item in items:
                    if item["status"] != "unknown":
                        state, deleted = item.get("state", {}), item["status"] == "deleted"
                        row = item["id"], item["version"], deleted, state.get("name"), state.get("open")
                        self.db.execute(APPLY, row)
                        answered[item["id"]] = item["version"]
            # The owner may answer fewer than it is asked for, and is asked for the rest; but not none.
            done = {item["id"] for item in items} or set(left[:BATCH])
            left = [entity_id for entity_id in left if entity_id not in done]
        return answered

    def states(self, ids):
        """What the owner says about these. One for which it fails, or which it refuses, must not hold up the others:
        it is left out, and asked for again later."""
        try:
            return self.ask("batch-get", {"ids": ids})["items"]
        except urllib.error.HTTPError as error:
            if error.code in (401, 403, 404, 405, 501) or "Retry-After" in error.headers:
                raise  # That is about the owner.
            half = len(ids) // 2
            return self.states(ids[:half]) + self.states(ids[half:]) if half else []

    def compare(self):
        """What the owner lists in a newer version than it is here was never told, or the message was lost."""
        after = ""
        while after is not None:
            page = self.ask("items", {"after": after or None, "limit": 1000})
            ours = dict(self.db.execute("SELECT id, version FROM store"))
            self.refresh({item["id"] for item in page["items"] if ours.get(item["id"], 0) < item["version"]})
            after = page["next"]

    def ask(self, call, request):
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.api + call, json.dumps(request).encode(), headers)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)


def main():
    arguments = argparse.ArgumentParser(description="Follows stores.")
    arguments.add_argument("--owner", default="http://127.0.0.1:7101")
    arguments.add_argument("--entity", default="store")
    arguments.add_argument("--nats", default="nats://127.0.0.1:7122")
    arguments.add_argument("--database", default="copy.db")
    chosen = arguments.parse_args()
    Subscriber(chosen.owner, chosen.entity, chosen.database).run(chosen.nats)


if __name__ == "__main__":
    main()
