// Each subscriber: its lag, its work, its consistency; pause, resume, compare.

import { $, at, el, list, milliseconds, number, post, write } from "./common.js";
import { health } from "./picture.js";
import { eachCount, now, onFrame, state } from "./stream.js";

const POINTS = 60; // of a trend, one a second
const SVG = "http://www.w3.org/2000/svg";

const trends = new Map(); // "search store" → { points: the worst lag of each second, worst: of this one }

function trendOf(name) {
  if (!trends.has(name)) trends.set(name, { points: [], worst: 0 });
  return trends.get(name);
}

function note(frame) {
  for (const [name, counts] of eachCount(frame)) {
    const trend = trendOf(name);
    trend.worst = Math.max(trend.worst, counts.max_lag_ms ?? 0);
  }
  if (!frame.view) return;
  for (const { name, follows } of state.services) {
    for (const { entity } of follows) {
      const trend = trendOf(`${name} ${entity}`);
      trend.points = [...trend.points, trend.worst].slice(-POINTS);
      trend.worst = 0;
    }
  }
}

const FIGURES = [
  ["copies", (one) => number(one.applied)],
  ["waiting in NATS", (one) => number(one.stream_pending ?? 0)],
  ["queued", (one) => number(one.queued)],
  ["in work", (one) => number(one.processing)],
  ["retried", (one) => number(one.retrying)],
  ["parked", (one) => number(one.parked)],
  ["dead letters", (one) => number(one.dead_letters)],
  [
    "callbacks per 100 changes",
    ({ totals }) =>
      totals.received > 0 ? number(Math.round((100 * totals.callbacks) / totals.received)) : "–",
  ],
  ["breaker", (one) => one.breaker ?? "–"],
];

function make(item) {
  const line = document.createElementNS(SVG, "svg");
  line.setAttribute("viewBox", `0 0 ${POINTS} 20`);
  line.setAttribute("preserveAspectRatio", "none");
  line.setAttribute("aria-hidden", "true");
  line.append(document.createElementNS(SVG, "polyline"));
  const button = (label, action) => {
    const made = el("button", action, { type: "button" }, label);
    made.addEventListener("click", () => act(made, item, action));
    return made;
  };
  const title = el(
    "h3",
    "",
    {},
    item.service.name,
    el("span", "note", {}, ` copies ${item.followed.entity}`),
  );
  const trend = el("p", "trend", {}, line, el("span", "note"));
  const buttons = el("div", "buttons", {}, button("Pause", "pause"), button("Compare now", "resync"));
  return el(
    "article",
    "card",
    {},
    title,
    el("p", "state"),
    trend,
    el("dl", "figures"),
    el("p", "compared note"),
    el("details", "note", {}, el("summary"), el("ul")),
    el("p", "trouble"),
    buttons,
  );
}

async function act(button, { service, followed }, action) {
  const current = state.services.find((one) => one.name === service.name);
  const paused = current?.follows.some((one) => one.entity === followed.entity && one.paused);
  const path = action === "pause" && paused ? "resume" : action;
  const card = button.closest(".card");
  button.disabled = true;
  try {
    await post(at(service.name, `/nudge/v1/${path}`), path === "resync" ? { entity: followed.entity } : {});
    if (path === "resync") card.dataset.comparingSince = now();
  } catch (error) {
    write(card.querySelector(".trouble"), error.message);
  }
  button.disabled = false;
}

function compared(comparison, since) {
  if (!comparison) return "Not compared with its owner: that is switched off.";
  if (comparison.waits_for) return `Comparing waits: ${comparison.waits_for}`;
  const ended = Date.parse(comparison.ended_at);
  if (comparison.running || ended < since) return "Comparing with its owner…";
  if (!comparison.ended_at) return "Not compared with its owner yet.";
  const found =
    [
      comparison.differed > 0 && `${number(comparison.differed)} differed and were fetched again`,
      comparison.edited > 0 && `${number(comparison.edited)} edited by somebody and written again`,
    ]
      .filter(Boolean)
      .join(", ") || "all equal";
  return `${number(comparison.compared)} compared with the owner ${milliseconds(Math.max(0, now() - ended))} ago: ${found}.`;
}

function trendText(points) {
  const worst = Math.max(0, ...points);
  return worst === 0
    ? `no changes in ${points.length} s`
    : `${points.length} s: at most ${milliseconds(worst)}`;
}

function update(card, { service, followed }) {
  const [mark, words, kind] = health(service, followed);
  write(card.querySelector(".state"), `${mark} ${words}`, `state ${kind}`);
  const { points } = trendOf(`${service.name} ${followed.entity}`);
  const highest = Math.max(1, ...points);
  const drawn = points.map((ms, place) => `${POINTS - points.length + place},${19 - (18 * ms) / highest}`);
  card.querySelector("polyline").setAttribute("points", drawn.join(" "));
  write(card.querySelector(".trend .note"), trendText(points));
  const figures = FIGURES.map(([label, value]) => ({ label, text: value(followed) }));
  list(
    card.querySelector(".figures"),
    figures,
    (one) => one.label,
    (one) => el("div", "", {}, el("dt", "", {}, one.label), el("dd")),
    (item, one) => write(item.lastChild, one.text),
  );
  write(
    card.querySelector(".compared"),
    compared(followed.comparison, Number(card.dataset.comparingSince ?? 0)),
  );
  const [since, ...nines] = followed.comparison?.consistency ?? [];
  card.querySelector("details").hidden = !since;
  write(card.querySelector("summary"), `Consistency ${since?.replace(/:$/, "") ?? ""}`);
  list(
    card.querySelector("details ul"),
    nines,
    (line) => String(nines.indexOf(line)),
    () => el("li"),
    (item, line) => write(item, line.trim()),
  );
  write(card.querySelector(".trouble"), followed.last_error ?? "");
  write(card.querySelector(".pause"), followed.paused ? "Resume" : "Pause");
  for (const button of card.querySelectorAll("button")) {
    button.setAttribute("aria-label", `${button.textContent} ${service.name}, ${followed.entity}`);
  }
}

export function start() {
  onFrame((frame) => {
    note(frame);
    if (!frame.view) return;
    const all = state.services.flatMap((service) =>
      service.follows.map((followed) => ({ service, followed })),
    );
    list(
      $("subscribers"),
      all,
      ({ service, followed }) => `${service.name} ${followed.entity}`,
      make,
      update,
    );
  });
}
