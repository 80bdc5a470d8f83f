// The services: whether they are ready, and how much work they have.

import { $, SUBSCRIBERS, element, json, milliseconds } from "./common.js";

const STATUS_INTERVAL_MS = 1000;

const FIGURES = [
  ["applied", (e) => e.applied],
  ["lag", (e) => (e.last_progress ? milliseconds(e.lag_seconds * 1000) : "—")],
  ["queued", (e) => e.queued],
  ["working", (e) => e.processing],
  ["retrying", (e) => e.retrying + e.parked, true],
  ["dead letters", (e) => e.dead_letters, true],
];

function showState(part) {
  const state = document.querySelector(`#part-${CSS.escape(part.name)} .state`);
  if (!state) return;
  const restarts = part.restarts > 0 ? `, restarted ${part.restarts}×` : "";
  const text = (part.ready ? "ready" : "not ready") + restarts;
  // Only a real change, so that a screen reader does not repeat the same every second.
  if (state.textContent !== text) state.textContent = text;
  state.className = `state ${part.ready ? "good" : "bad"}`;
}

function showFigures(name, status) {
  const part = $(`part-${name}`);
  const entity = status?.entities?.find((one) => one.entity === "store");
  const list = part.querySelector(".figures");
  const trouble = part.querySelector(".trouble");
  list.hidden = !entity;
  if (!entity) {
    trouble.textContent = "does not answer";
    trouble.hidden = false;
    return;
  }
  list.replaceChildren(...FIGURES.map(([label, value, ought0]) => {
    const shown = value(entity);
    const item = element("div", ought0 && shown > 0 ? "notable" : "");
    item.append(element("dt", "", label), element("dd", "", shown));
    return item;
  }));
  const notes = [
    entity.paused && "paused",
    entity.breaker && entity.breaker !== "closed" && `breaker ${entity.breaker}`,
    entity.connected === false && "no connection to NATS",
    entity.last_error,
  ].filter(Boolean);
  trouble.textContent = notes.join(" · ");
  trouble.hidden = notes.length === 0;
}

export async function refreshStatus() {
  const overall = $("overall");
  let text = "the console does not answer";
  let good = false;
  try {
    const { body } = await json("api/status");
    body.parts.forEach(showState);
    for (const name of SUBSCRIBERS) showFigures(name, body.subscribers[name]);
    const missing = body.parts.filter((part) => !part.ready).map((part) => part.name);
    good = missing.length === 0;
    text = good ? "all ready" : `not ready: ${missing.join(", ")}`;
  } catch { /* Told below. */ }
  if (overall.textContent !== text) overall.textContent = text;
  overall.className = `badge ${good ? "good" : "bad"}`;
  setTimeout(refreshStatus, STATUS_INTERVAL_MS);
}

// Lights a part up for a moment.
export function light(name) {
  const part = $(`part-${name}`);
  part.classList.add("lit");
  requestAnimationFrame(() => requestAnimationFrame(() => part.classList.remove("lit")));
}
