// The services: whether they are ready, and how much work they have.

import { $, element, found, json, milliseconds } from "./common.js";

const STATUS_INTERVAL_MS = 1000;

const FIGURES = [
  ["applied", (e) => e.applied],
  ["lag", (e) => (e.last_progress ? milliseconds(e.lag_seconds * 1000) : "—")],
  ["queued", (e) => e.queued],
  ["working", (e) => e.processing],
  ["retrying", (e) => e.retrying + e.parked, true],
  ["dead letters", (e) => e.dead_letters, true],
];

function partOf(name) {
  return $(`part-${name}`);
}

// The card of a service, made when it is first seen.
function card(name, into) {
  const known = partOf(name);
  if (known) return known;
  const made = element("article", "part");
  made.id = `part-${name}`;
  const state = element("p", "state", "…");
  state.setAttribute("role", "status");
  const trouble = element("p", "trouble");
  trouble.hidden = true;
  const figures = element("div", "entities");
  made.append(element("h2", "", name), state, element("p", "role"), figures, trouble);
  $(into).append(made);
  return made;
}

function showState(part) {
  const state = partOf(part.name)?.querySelector(".state");
  if (!state) return;
  const restarts = part.restarts > 0 ? `, restarted ${part.restarts}×` : "";
  const text = (part.ready ? "ready" : "not ready") + restarts;
  // Only a real change, so that a screen reader does not repeat the same every second.
  if (state.textContent !== text) state.textContent = text;
  state.className = `state ${part.ready ? "good" : "bad"}`;
}

function showOwned(part, owned) {
  // What it owned before it went away, it still owns.
  if (owned) part.querySelector(".role").textContent = `owns ${owned.map((one) => one.entity).join(", ")}`;
}

function figuresOf(entity) {
  const list = element("dl", "figures");
  list.setAttribute("aria-label", entity.entity);
  list.append(...FIGURES.map(([label, value, ought0]) => {
    const shown = value(entity);
    const item = element("div", ought0 && shown > 0 ? "notable" : "");
    item.append(element("dt", "", label), element("dd", "", shown));
    return item;
  }));
  return list;
}

function notesOf(entity) {
  return [
    entity.paused && "paused",
    entity.breaker && entity.breaker !== "closed" && `breaker ${entity.breaker}`,
    entity.connected === false && "no connection to NATS",
    entity.last_error,
  ].filter(Boolean);
}

function showFollowed(part, status) {
  const figures = part.querySelector(".entities");
  const trouble = part.querySelector(".trouble");
  const entities = status?.entities ?? [];
  figures.hidden = entities.length === 0;
  const several = entities.length > 1;
  figures.replaceChildren(...entities.flatMap((entity) => [
    ...(several ? [element("p", "entity", entity.entity)] : []),
    figuresOf(entity),
  ]));
  const notes = status ? entities.flatMap(notesOf) : ["does not answer"];
  trouble.textContent = notes.join(" · ");
  trouble.hidden = notes.length === 0;
}

function show({ parts, owners, subscribers }) {
  for (const { name } of parts.filter((part) => part.name in subscribers)) {
    const status = subscribers[name];
    showFollowed(card(name, "followers"), status);
    if (status === null || status.entities?.some((one) => one.entity === "store")) found(name);
  }
  for (const [name, owned] of Object.entries(owners)) showOwned(card(name, "owners"), owned);
  parts.forEach(showState);
}

export async function refreshStatus() {
  const overall = $("overall");
  let text = "the console does not answer";
  let good = false;
  try {
    const { body } = await json("api/status");
    show(body);
    const missing = body.parts.filter((part) => part.of_the_demo && !part.ready).map((part) => part.name);
    good = missing.length === 0;
    text = good ? "all ready" : `not ready: ${missing.join(", ")}`;
  } catch { /* Told below. */ }
  if (overall.textContent !== text) overall.textContent = text;
  overall.className = `badge ${good ? "good" : "bad"}`;
  setTimeout(refreshStatus, STATUS_INTERVAL_MS);
}

// Lights a part up for a moment.
export function light(name) {
  const part = partOf(name);
  if (!part) return;
  part.classList.add("lit");
  requestAnimationFrame(() => requestAnimationFrame(() => part.classList.remove("lit")));
}
