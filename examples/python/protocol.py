"""IDs, subjects and versions, as docs/protocol.md says."""

import time
import unicodedata
import urllib.parse

DAY_MICROSECONDS = 24 * 3600 * 10**6


def is_id(value):
    """Whether this is an ID: 1 to 200 bytes of UTF-8 without control characters."""
    try:
        return (isinstance(value, str) and 1 <= len(value.encode()) <= 200
                and not any(unicodedata.category(character) == "Cc" for character in value))
    except UnicodeEncodeError:
        return False


def token(entity_id):
    """An ID as the last word of a subject: everything but letters, digits, `_` and `-` is percent-encoded."""
    return urllib.parse.quote(entity_id, safe="").replace(".", "%2E").replace("~", "%7E")


def id_of(subject):
    """The ID that a notification's subject names, or None."""
    try:
        found = urllib.parse.unquote(subject.split(".", 2)[2], errors="strict")
    except UnicodeDecodeError:
        return None
    return found if is_id(found) else None


def version_of(message):
    """The version that a notification names, or None. One that is more than a day ahead of the clock would use up
    the versions of its entity, so it counts as none."""
    text = message.headers.get("nudge-version", "").strip()
    if not (text.isascii() and text.isdigit() and len(text) <= 16):
        return None
    return int(text) if int(text) <= time.time_ns() // 1000 + DAY_MICROSECONDS else None
