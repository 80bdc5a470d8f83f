"""An owner of stores, in Python: its writes, and the sync API that subscribers call back.

    python3 examples/python/owner.py --port 7171 --nats nats://127.0.0.1:7122 --database stores.db
    curl -X PUT localhost:7171/stores/42 -H 'Content-Type: application/json' -d '{"name": "달빛국수"}'

What it must do is in docs/protocol.md; relay.py publishes what it records. It listens on loopback only, since it
does not ask who is calling.
"""

import argparse
import contextlib
import datetime
import json
import sqlite3
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from protocol import is_id, token
from relay import TABLES, Relay, record

ENTITY, SYNC = "store", "/sync/v1/store/"
MAX_BODY_BYTES, MAX_STATE_BYTES = 1 << 20, 8 << 20
TEXTS = ("name", "category", "region", "address", "neighbourhood")
STATES = """SELECT log.id, log.version, log.change, log.changed_at, store.state FROM change_log AS log
    LEFT JOIN store ON store.id = log.id WHERE log.id IN (SELECT value FROM json_each(?)) ORDER BY log.id"""
ITEMS = "SELECT id, version, change, changed_at FROM change_log WHERE id > ? ORDER BY id LIMIT ?"


class Problem(Exception):
    """What is wrong with a request: a status, the field, and what it should be."""


class Stores:
    """The stores and their change log, in one database."""

    def __init__(self, path):
        self.path = path
        with self.writing() as db:
            db.execute("CREATE TABLE IF NOT EXISTS store (id TEXT PRIMARY KEY, state TEXT NOT NULL)")
            for statement in TABLES.split(";"):
                db.execute(statement)

    @contextlib.contextmanager
    def writing(self):
        """A transaction that locks out other writers from its beginning, so that versions rise as they commit."""
        with contextlib.closing(sqlite3.connect(self.path, timeout=30, isolation_level=None)) as db:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            finally:
                if db.in_transaction:
                    db.execute("ROLLBACK")

    def read(self, sql, *values):
        """One statement, which is one snapshot: state and version of each entity belong together."""
        with contextlib.closing(sqlite3.connect(self.path, timeout=30)) as db:
            return db.execute(sql, values).fetchall()

    def write(self, store_id, state):
        """Writes a store, or deletes it without a state. Returns the status and the version."""
        with self.writing() as db:
            known = db.execute(STATES, (json.dumps([store_id]),)).fetchone()
            (_, version, change, _, before) = known or ("", 0, "", 0, None)
            if state is None and before is None:
                raise Problem(410 if change else 404, "id", "there is no such store")
            if state == before:
                return 200, version
            if state is None:
                db.execute("DELETE FROM store WHERE id = ?", (store_id,))
                return 204, record(db, store_id, "deleted")
            db.execute("INSERT OR REPLACE INTO store VALUES (?, ?)", (store_id, state))
            return (200, record(db, store_id, "updated")) if before else (201, record(db, store_id, "created"))


def valid_id(value, field="id", status=422):
    if is_id(value):
        return value
    raise Problem(status, field, "must be 1 to 200 bytes of UTF-8 without control characters")


def state_of(store_id, body):
    """The state of a store as subscribers get it, with what a request leaves out filled in."""
    for name, value in body.items():
        if not isinstance(value, str if name in TEXTS else bool if name == "open" else ()):
            raise Problem(422, name, "must be a text (open: true or false) of a store")
    if not body.get("name"):
        raise Problem(422, "name", "must not be empty")
    state = {"id": store_id, **dict.fromkeys(TEXTS, ""), "open": True, **body}
    return json.dumps(state, ensure_ascii=False)


def time_of(micros):
    instant = datetime.datetime.fromtimestamp(micros // 10**6, datetime.timezone.utc)
    return f"{instant:%Y-%m-%dT%H:%M:%S}.{micros % 10**6:06}Z"


def item(row, fields):
    """An entity in an answer to batch-get."""
    store_id, version, change, changed_at, state = row
    known = {"id": store_id, "version": version, "changed_at": time_of(changed_at)}
    if change == "deleted":
        return {**known, "status": "deleted"}
    state = {name: value for name, value in json.loads(state).items() if fields is None or name in fields}
    return {**known, "status": "live", "state": state}


class Handler(BaseHTTPRequestHandler):
    protocol_version, disable_nagle_algorithm = "HTTP/1.1", True
    timeout = 60  # Seconds that an idle connection is kept.

    def log_message(self, *_):
        pass

    def send_error(self, code, message=None, explain=None):
        self.close_connection = True
        self.answer(code, {"status": code, "title": message or "Error"}, {"Connection": "close"})

    def answer(self, status, body=None, headers=None):
        data = b"" if body is None else json.dumps(body, ensure_ascii=False).encode()
        kind = "application/problem+json" if "title" in (body or {}) else "application/json"
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Cache-Control": "no-store", **(headers or {})}.items():
            self.send_header(name, value)
        if status not in (204, 304):
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def body(self, allowed=None):
        """The JSON object in the request; with `allowed`, it may have only these fields."""
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > MAX_BODY_BYTES:
            self.close_connection = True  # The body is not read.
            raise Problem(413 if length.isdecimal() else 411, "body", f"must be at most {MAX_BODY_BYTES} bytes long")
        data = self.rfile.read(int(length))
        if self.headers.get_content_type() != "application/json":
            raise Problem(415, "Content-Type", "must be application/json")
        try:
            body = json.loads(data.decode())
        except (ValueError, RecursionError) as error:
            raise Problem(400, "body", f"must be JSON: {error}") from None
        if not isinstance(body, dict):
            raise Problem(422, "body", "must be an object")
        for name in body if allowed else ():
            if name not in allowed:
                raise Problem(422, name, "is not a field of this request")
        return body

    def handle_one(self):
        try:
            status, body, headers = self.route(urllib.parse.urlsplit(self.path).path)
            self.answer(status, body, headers)
        except Problem as problem:
            status, field, detail = problem.args
            title = self.responses.get(status, ("Error",))[0]
            errors = [{"field": field, "detail": detail}]
            self.answer(status, {"status": status, "title": title, "detail": f"{field}: {detail}", "errors": errors})
        except sqlite3.OperationalError as error:  # Busy, or its disk is full.
            self.answer(503, {"status": 503, "title": "Service Unavailable", "detail": str(error)}, {"Retry-After": "1"})

    do_GET = do_POST = do_PUT = do_DELETE = handle_one

    def route(self, path):
        call = self.command, path
        if call == ("POST", SYNC + "batch-get"):
            return self.batch_get(self.body(("ids", "fields")))
        if call == ("POST", SYNC + "items"):
            return self.items(self.body(("after", "limit")))
        for method, start, handle in (("GET", SYNC, self.get), ("PUT", "/stores/", self.write),
                                      ("DELETE", "/stores/", self.write)):
            if self.command == method and path.startswith(start) and "/" not in path[len(start):]:
                try:
                    store_id = urllib.parse.unquote(path[len(start):], errors="strict")
                except UnicodeDecodeError:
                    raise Problem(400, "id", "must be percent-encoded UTF-8") from None
                return handle(valid_id(store_id, status=400))
        self.close_connection = True  # There may be a body, which is not read.
        raise Problem(404, "path", "there is nothing here")

    def batch_get(self, request):
        ids, fields = request.get("ids"), request.get("fields")
        if not isinstance(ids, list) or not 1 <= len(ids) <= 512:
            raise Problem(422, "ids", "must contain 1 to 512 IDs")
        if fields is not None and not (isinstance(fields, list) and len(fields) <= 64):
            raise Problem(422, "fields", "must hold at most 64 names")
        ids = {valid_id(one, f"ids[{place}]") for place, one in enumerate(ids)}
        rows, size, items = self.stores.read(STATES, json.dumps(sorted(ids))), 0, []
        items = [{"id": one, "status": "unknown"} for one in ids - {row[0] for row in rows}]
        for row in rows:
            size += len(row[4] or "")
            if size > MAX_STATE_BYTES and items:
                break  # The rest is asked for again.
            items.append(item(row, fields))
        return 200, {"items": items}, {}

    def items(self, request):
        after, limit = request.get("after"), request.get("limit")
        limit = 500 if limit is None else limit
        if type(limit) is not int or not 1 <= limit <= 1000:
            raise Problem(422, "limit", "must be from 1 to 1000")
        rows = self.stores.read(ITEMS, "" if after is None else valid_id(after, "after"), limit + 1)
        items = [{"id": store_id, "version": version, "deleted": change == "deleted", "changed_at": time_of(changed_at)}
                 for store_id, version, change, changed_at in rows[:limit]]
        return 200, {"items": items, "next": items[-1]["id"] if len(rows) > limit else None}, {}

    def get(self, store_id):
        rows = self.stores.read(STATES, json.dumps([store_id]))
        if not rows:
            raise Problem(404, "id", "there never was such a store")
        found = item(rows[0], None)
        if found.pop("status") == "deleted":
            return 410, {"id": store_id, "version": found["version"], "deleted": True}, {}
        etag = f'"{found["version"]}"'
        if etag in self.headers.get("If-None-Match", ""):
            return 304, None, {"ETag": etag}
        return 200, found, {"ETag": etag}

    def write(self, store_id):
        state = state_of(store_id, self.body()) if self.command == "PUT" else None
        status, version = self.stores.write(store_id, state)
        self.relay.wake.set()
        headers = {"ETag": f'"{version}"', "Nudge-Token": f"{ENTITY}/{token(store_id)}@{version}"}
        return status, None if status == 204 else json.loads(state), headers


def main():
    arguments = argparse.ArgumentParser(description="Owns stores.")
    arguments.add_argument("--port", type=int, default=7171)
    arguments.add_argument("--nats", default="nats://127.0.0.1:7122")
    arguments.add_argument("--database", default="stores.db")
    chosen = arguments.parse_args()
    Handler.stores = Stores(chosen.database)
    Handler.relay = Relay(chosen.nats, ENTITY, Handler.stores.writing)
    Handler.relay.start()
    ThreadingHTTPServer(("127.0.0.1", chosen.port), Handler).serve_forever()


if __name__ == "__main__":
    main()
