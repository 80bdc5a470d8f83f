"""What no schema can say, for scripts/openapi-fuzz: such requests are not made."""

import re
from urllib.parse import unquote

import schemathesis

# In bytes; a schema counts characters.
MAX_ID_BYTES = 200
TOKEN = re.compile(r"[a-z][a-z0-9_-]{0,39}/([A-Za-z0-9._~-]|%[0-9A-Fa-f]{2})+@[0-9]{1,16}")
ENTITY = re.compile(r"[a-z][a-z0-9_-]{0,39}")
CURSOR = re.compile(r"([0-9a-f]{2})*")


@schemathesis.serializer("application/x-ndjson")
def lines(context, value):
    """What is no line of JSON must do no harm either."""
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")


@schemathesis.hook
def before_load_schema(context, raw_schema):
    """The services of this demo ask nobody for a token: crates/nudge/tests/security.rs tries those that do."""
    for path in raw_schema.get("paths", {}).values():
        for operation in path.values():
            if isinstance(operation, dict):
                operation.pop("security", None)


def texts(value):
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for one in value:
            yield from texts(one)


def id_in_path(case, name="id"):
    """The id as it is meant: in a path, it is percent-encoded."""
    named = (case.path_parameters or {}).get(name)
    return unquote(named) if isinstance(named, str) else named


def followed(case):
    """An entity that the service follows."""
    title = case.operation.schema.raw_schema["info"]["title"]
    return "station" if "charging" in title else "store"


def chargers(case):
    """The ids of the chargers of a station that is sent."""
    sent = case.body.get("chargers") if isinstance(case.body, dict) else None
    return [one.get("id") for one in sent if isinstance(one, dict)] if isinstance(sent, list) else []


def ids(case):
    """The ids that a request names."""
    yield from texts([id_in_path(case), id_in_path(case, "charger"), chargers(case)])
    if isinstance(case.query, dict):
        yield from texts([case.query.get(name) for name in ("id", "after") if name in case.query])
    if isinstance(case.body, dict):
        yield from texts([case.body.get(name) for name in ("id", "after", "ids") if name in case.body])


def whole(value):
    """JSON Schema takes 7.0 for a whole number; who sends a fraction of money has a unit wrong."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {name: whole(one) for name, one in value.items()}
    return [whole(one) for one in value] if isinstance(value, list) else value


@schemathesis.hook
def before_call(context, case, kwargs):
    case.body = whole(case.body)
    # To wait for a write that never was takes seconds, and is told with 504 each time.
    for name in [name for name in case.headers or {} if name.lower() == "nudge-token"]:
        del case.headers[name]
    query = case.query if isinstance(case.query, dict) else {}
    if case.path.endswith("/wait"):
        asked = query.get("timeout_ms", 0)
        if isinstance(asked, int) and not isinstance(asked, bool) and asked in range(60_001):
            query["timeout_ms"] = min(asked, 20)
        # Only stores have writes that every service knows of.
        if TOKEN.fullmatch(str(query.get("token"))):
            query["token"] = "store/42@17"
    # Another entity than those that are followed is no page of nothing.
    if "dead-letters" in case.path and ENTITY.fullmatch(str(query.get("entity"))):
        query["entity"] = followed(case)
    # What `next` says is made by the service alone.
    if CURSOR.fullmatch(str(query.get("cursor"))):
        del query["cursor"]


@schemathesis.hook
def filter_case(context, case):
    if any(len(one.encode("utf-8", "surrogatepass")) > MAX_ID_BYTES for one in ids(case)):
        return False
    # No two chargers of a station have the same one.
    named = [str(one) for one in chargers(case)]
    if len(set(named)) < len(named):
        return False
    # A body may repeat the id in its path, and name no other.
    if case.method in ("PUT", "PATCH") and isinstance(case.body, dict) and "id" in case.body:
        return case.body["id"] == id_in_path(case)
    return True
