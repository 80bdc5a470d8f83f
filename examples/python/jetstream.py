"""A small NATS JetStream client, with nothing but the standard library.

It speaks as much of the NATS client protocol as an owner and a subscriber of Nudge need: requests, acknowledged
publishes with many in flight, and pulling from a consumer. A connection that is lost stays lost: every call then
raises ConnectionError, and the caller connects again.
"""

import base64
import concurrent.futures
import itertools
import json
import os
import queue
import socket
import threading
import urllib.parse

TIMEOUT = 5.0  # Seconds for the broker to answer a request.


class Refused(Exception):
    """The broker answered a request with an error. `code` is JetStream's err_code, or 0."""

    def __init__(self, text, code=0):
        super().__init__(text)
        self.code = code


class Message:
    """A message from the broker. `status` is that of an answer without content, such as 404 "no messages"."""

    def __init__(self, subject, reply, head, body):
        self.subject, self.reply, self.body = subject, reply, body
        lines = head.split("\r\n")
        self.status = int(lines[0].split()[1]) if len(lines[0].split()) > 1 else 0
        pairs = (line.split(":", 1) for line in lines[1:] if ":" in line)
        self.headers = {name.strip().lower(): value.strip() for name, value in pairs}

    def delivery(self):
        """(how often this message was delivered, its sequence in the stream): from the subject of its
        acknowledgement, which has two more words in newer forms."""
        words = self.reply.split(".")
        delivered, sequence = words[4:6] if len(words) == 9 else words[6:8]
        return int(delivered), int(sequence)


class Connection:
    """One connection to a NATS server, such as `nats://user:password@127.0.0.1:4222`."""

    def __init__(self, url, name):
        place = urllib.parse.urlsplit(url)
        self._socket = socket.create_connection((place.hostname, place.port or 4222), TIMEOUT)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._file, self._lock = self._socket.makefile("rb"), threading.Lock()
        self._inbox = "_INBOX." + base64.b32encode(os.urandom(15)).decode()
        self._numbers, self._waiting, self.lost = itertools.count(2), {}, False
        self._file.readline()  # INFO
        options = {"verbose": False, "pedantic": False, "headers": True, "no_responders": True,
                   "lang": "python", "version": "1", "protocol": 1, "name": name}
        if place.username:
            options["user"] = urllib.parse.unquote(place.username)
            options["pass"] = urllib.parse.unquote(place.password or "")
        self._send(f"CONNECT {json.dumps(options)}\r\nSUB {self._inbox}.* 1\r\nPING\r\n".encode())
        if not (answer := self._file.readline()).startswith(b"PONG"):
            raise ConnectionError(answer.decode().strip() or "the broker hung up")
        self._socket.settimeout(None)
        threading.Thread(target=self._read, daemon=True).start()

    def close(self):
        """Ends the connection; whoever waits for an answer gets a ConnectionError."""
        self.lost = True
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def request(self, subject, body=b"", headers=None):
        """Sends a request, and returns a future of its answer."""
        number, future = str(next(self._numbers)), concurrent.futures.Future()
        self._waiting[number] = (future.set_result, future.set_exception)
        self._publish(subject, f"{self._inbox}.{number}", body, headers)
        return future

    def api(self, subject, request=None):
        """Asks JetStream, and returns its answer. Refused if that is an error."""
        body = b"" if request is None else json.dumps(request).encode()
        return answer_of(self.request("$JS.API." + subject, body))

    def fetch(self, stream, consumer, batch, seconds):
        """What a pull consumer has, at most `batch` messages; if it has none, the next one within `seconds`."""
        messages = self._pull(stream, consumer, {"batch": batch, "no_wait": True})
        if messages or not seconds:
            return messages
        return self._pull(stream, consumer, {"batch": 1, "expires": int(seconds * 1e9)})

    def _pull(self, stream, consumer, request):
        got, number = queue.Queue(), str(next(self._numbers))
        self._waiting[number] = (got.put, got.put)
        inbox, messages = f"{self._inbox}.pull.{number}", []
        self._send(f"SUB {inbox} {number}\r\n".encode())
        self._publish(f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}", inbox, json.dumps(request).encode(), None)
        try:
            while len(messages) < request["batch"]:
                message = got.get(timeout=request.get("expires", 0) / 1e9 + TIMEOUT)
                if isinstance(message, Exception):
                    raise message
                if message.status in (404, 408):
                    break  # There are no more.
                if message.status:
                    raise Refused(f"{consumer}: {message.status}", message.status)
                messages.append(message)
        except queue.Empty:
            raise ConnectionError("the broker does not answer") from None
        finally:
            self._waiting.pop(number, None)
            if not self.lost:
                self._send(f"UNSUB {number}\r\n".encode())
        return messages

    def answer(self, message, body=b"+ACK"):
        """Acknowledges a message; b'-NAK {"delay": NANOSECONDS}' asks for it again later."""
        self._send(b"PUB %s %d\r\n%s\r\n" % (message.reply.encode(), len(body), body))

    def _publish(self, subject, reply, body, headers):
        head = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        head = f"NATS/1.0\r\n{head}\r\n".encode() if headers else b""
        verb, sizes = ("HPUB", f"{len(head)} {len(head) + len(body)}") if headers else ("PUB", str(len(body)))
        self._send(f"{verb} {subject} {reply} {sizes}\r\n".encode() + head + body + b"\r\n")

    def _send(self, data):
        with self._lock:
            if self.lost:
                raise ConnectionError("the connection to the broker is lost")
            self._socket.sendall(data)

    def _read(self):
        try:
            while line := self._file.readline():
                verb, *words = line.decode().split()
                if verb == "PING":
                    self._send(b"PONG\r\n")
                elif verb in ("MSG", "HMSG"):
                    self._deliver(verb, words)
                elif verb == "-ERR":
                    break
        except (OSError, ValueError):
            pass
        self.close()
        for _, failed in list(self._waiting.values()):
            failed(ConnectionError("the connection to the broker is lost"))

    def _deliver(self, verb, words):
        subject, subscription, size = words[0], words[1], int(words[-1])
        head = int(words[-2]) if verb == "HMSG" else 0
        reply = words[2] if len(words) == (5 if verb == "HMSG" else 4) else ""
        data = self._file.read(size + 2)
        # Answers to requests share a subscription. A pull has one of its own, since what it gets keeps its subject.
        number = subject.rsplit(".", 1)[-1] if subscription == "1" else subscription
        answered, _ = self._waiting.get(number, (None, None))
        if subscription == "1":
            self._waiting.pop(number, None)
        if answered:
            answered(Message(subject, reply, data[:head].decode(), data[head:size]))


def answer_of(future):
    """The JSON that answers a request. Refused if nobody answered, or with an error."""
    try:
        message = future.result(TIMEOUT)
    except concurrent.futures.TimeoutError:
        raise ConnectionError("the broker does not answer") from None
    if message.status == 503:
        raise Refused("no JetStream, or no such stream", 503)
    answer = json.loads(message.body)
    if "error" in answer:
        error = answer["error"]
        raise Refused(error.get("description", "refused"), error.get("err_code", 0))
    return answer


def acknowledged(future):
    """The sequence that a published message has in its stream."""
    answer = answer_of(future)
    if answer.get("duplicate"):
        raise Refused("a duplicate proves nothing about what the stream holds")
    return answer["seq"]
