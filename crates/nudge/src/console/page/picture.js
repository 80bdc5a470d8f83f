// The picture: owners, those that follow them, and what flows between them in both directions.

import { $, bytes, el, list, milliseconds, number, plural, rate, write } from "./common.js";
import { eachCount, onFrame, state } from "./stream.js";

const FLOW_MS = 400; // how long an arrow stays lit

// How a subscriber is with what it follows: a mark and words, and how bad it is.
export function health(service, followed) {
  if (!service.answers) return ["✕", "does not answer", "bad"];
  if (followed.paused) return ["‖", "paused", "warn"];
  if (followed.breaker && followed.breaker !== "closed")
    return ["✕", `breaker ${followed.breaker}: its owner fails`, "bad"];
  if (followed.connected === false) return ["✕", "no connection to NATS", "bad"];
  if (followed.dead_letters > 0) return ["✕", plural(followed.dead_letters, "dead letter"), "bad"];
  const retried = followed.retrying + followed.parked;
  if (retried > 0) return ["↻", `${number(retried)} retried`, "warn"];
  if (!followed.caught_up) return ["…", "catching up", "warn"];
  const behind = followed.queued + followed.processing + (followed.stream_pending ?? 0);
  if (behind > 0) return ["…", `${number(behind)} behind`, "warn"];
  return ["✓", "up to date", "good"];
}

function arrow(kind) {
  const line = (side) => el("span", `line ${side}`, { "aria-hidden": "true" });
  return el("p", `arrow ${kind}`, {}, line("left"), el("span", "what"), line("right"));
}

function makeLane(item) {
  const who = el("div", "node", {}, el("strong", "", {}, item.service.name), el("span", "state"));
  return el("li", "lane", {}, el("div", "wires", {}, arrow("notify"), arrow("ask")), who);
}

function updateLane(lane, { service, followed, owner }) {
  const flow = followed.per_second;
  const [mark, words, kind] = health(service, followed);
  write(lane.querySelector(".state"), `${mark} ${words}${lagOf(followed)}`, `state ${kind}`);
  const size = wireBytes.get(`${service.name} ${followed.entity}`);
  const each = size ? ` · ${bytes(size)} each` : "";
  write(lane.querySelector(".notify .what"), flow ? `${rate(flow.received)} notified${each}` : "notified");
  const shared = flow?.callbacks > 0 ? ` · ${(flow.fetched / flow.callbacks).toFixed(1)} entities each` : "";
  write(
    lane.querySelector(".ask .what"),
    flow ? `${rate(flow.callbacks)} asked ${owner}${shared}` : `asks ${owner}`,
  );
}

const lagOf = (followed) =>
  followed.lag_ms > 0 ? ` · its last change took ${milliseconds(followed.lag_ms)}` : "";

function makeOwner() {
  const node = el("div", "node owner", {}, el("strong"), el("span", "note owns"), el("span", "state"));
  return el("div", "owner-flow", {}, node, el("ul", "lanes"));
}

function relayState(service, owned) {
  if (!service.answers) return ["✕ does not answer", "state bad"];
  if (owned.connected === false) return ["✕ cannot publish: no stream", "state bad"];
  if (owned.pending > 0) return [`… ${number(owned.pending)} to publish`, "state warn"];
  return [`✓ ${rate(owned.published_per_second)} published`, "state good"];
}

function updateOwner(block, { service, owned, followers }) {
  write(block.querySelector("strong"), service.name);
  write(block.querySelector(".owns"), `owns ${owned.entity}`);
  write(block.querySelector(".state"), ...relayState(service, owned));
  const lanes = followers.map((one) => ({ ...one, owner: service.name }));
  list(
    block.querySelector(".lanes"),
    lanes,
    (one) => `${one.service.name} ${one.followed.entity}`,
    makeLane,
    updateLane,
  );
}

const wireBytes = new Map(); // "search store" → mean bytes of the notifications that it got last
const litUntil = new Map(); // "search store notify" → when its arrow goes out

function light(frame) {
  const until = performance.now() + FLOW_MS;
  for (const [lane, counts] of eachCount(frame)) {
    if (counts.received > 0) {
      wireBytes.set(lane, counts.wire_bytes / counts.received);
      litUntil.set(`${lane} notify`, until);
    }
    if (counts.fetched > 0) litUntil.set(`${lane} ask`, until);
  }
}

function showLit() {
  const time = performance.now();
  for (const lane of document.querySelectorAll("#flow .lane")) {
    for (const kind of ["notify", "ask"]) {
      lane
        .querySelector(`.${kind}`)
        .classList.toggle("lit", litUntil.get(`${lane.dataset.key} ${kind}`) > time);
    }
  }
}

function show() {
  const owners = state.services.flatMap((service) =>
    service.owns.map((owned) => ({
      service,
      owned,
      followers: state.services.flatMap((other) =>
        other.follows
          .filter((one) => one.entity === owned.entity)
          .map((followed) => ({ service: other, followed })),
      ),
    })),
  );
  if (owners.length === 0) {
    const text =
      state.services.length === 0
        ? "No services yet. Start the demo: make demo. Or show your own: nudge console --service http://127.0.0.1:PORT"
        : "None of these services owns anything. Name an owner, too: --service http://127.0.0.1:PORT";
    return $("flow").replaceChildren(el("p", "empty", {}, text));
  }
  $("flow").querySelector(":scope > .empty")?.remove();
  list($("flow"), owners, (one) => `${one.service.name} ${one.owned.entity}`, makeOwner, updateOwner);
}

function showOverall() {
  const nats = state.parts.find((part) => part.name === "NATS");
  write(
    $("nats"),
    nats ? `NATS ${nats.ready ? "✓ ready" : "✕ away"}` : "",
    `note ${nats?.ready === false ? "bad" : ""}`,
  );
  if (!state.connected) return write($("overall"), "✕ the console does not answer; trying again", "bad");
  const missing = state.parts.filter((part) => !part.ready).map((part) => part.name);
  const restarts = state.parts
    .filter((part) => part.restarts > 0)
    .map((part) => `${part.name} restarted ${part.restarts}×`);
  const text =
    missing.length > 0 ? `✕ not ready: ${missing.join(", ")}` : `✓ all ${state.parts.length} ready`;
  write($("overall"), [text, ...restarts].join(" · "), missing.length > 0 ? "bad" : "good");
}

export function start() {
  onFrame((frame) => {
    light(frame);
    if (frame.view) show();
    showLit();
    showOverall();
  });
  setInterval(showLit, FLOW_MS);
}
