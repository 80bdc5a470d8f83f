// One change as a timeline: commit, published, heard, asked, applied, for each subscriber.

import { $, el, keyName, list, milliseconds, number, whenDrawn, write } from "./common.js";
import { entry, lagOf } from "./cells.js";
import { followersOf, onFrame, ownerOf } from "./stream.js";

const MAX_SHOWN_MS = 600_000; // a run that ended later was a comparison or a replay
const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 100; // of a line, in its own units
const HEIGHT = 10;

let current = null;

// The last run of a subscriber, in milliseconds since 1970.
function lastRun(mine) {
  const step = mine?.step;
  const run = mine?.runs?.at(-1);
  const ended = run ? Date.parse(run.ended_at) : 0;
  if (step && step.ended_us && step.ended_us / 1000 >= ended - 1) {
    const of = (us) => (us ? us / 1000 : null);
    const told = run && run.version === step.version ? run.notifications : null;
    return {
      heard: of(step.received_us),
      answered: of(step.fetched_us),
      ended: of(step.ended_us),
      version: step.version,
      outcome: step.kind,
      notifications: told,
    };
  }
  if (!run) return null;
  const of = (time) => (time ? Date.parse(time) : null);
  return {
    heard: of(run.since),
    asked: of(run.asked_at),
    answered: of(run.answered_at),
    ended: of(run.ended_at),
    version: run.version,
    outcome: run.outcome,
    notifications: run.notifications,
  };
}

const OUTCOMES = {
  applied: "applied",
  ignored: "had it already",
  retried: "to be retried",
  parked: "parked",
  dead_letter: "dead letter",
  dead_lettered: "dead letter",
};

// Of a run that is not known.
function without(one, service) {
  return one.by[service.name]?.version >= one.owner?.version ? "has it" : "not yet";
}

function rowsOf(one) {
  const commit = one.owner?.changedAt;
  return followersOf(one.entity).map(({ service }) => {
    const mine = one.by[service.name];
    const run = lastRun(mine);
    const late = !run || run.version !== one.owner?.version || run.ended - commit > MAX_SHOWN_MS;
    const since = (time) => (late || !time ? null : Math.max(0, time - commit));
    return {
      name: service.name,
      outcome: late ? without(one, service) : (OUTCOMES[run.outcome] ?? run.outcome),
      notifications: late ? null : run.notifications,
      heard: since(run?.heard),
      asked: since(run?.asked),
      answered: since(run?.answered),
      // The same figure as in the grid.
      ended: since(run?.ended) === null ? null : Math.max(0, lagOf(one, mine)),
    };
  });
}

function makeRow() {
  const line = document.createElementNS(SVG, "svg");
  line.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
  line.setAttribute("preserveAspectRatio", "none");
  line.setAttribute("aria-hidden", "true");
  for (const part of ["wait", "ask", "apply"]) {
    const bar = document.createElementNS(SVG, "rect");
    bar.setAttribute("class", part);
    bar.setAttribute("height", HEIGHT);
    line.append(bar);
  }
  return el(
    "tr",
    "",
    {},
    el("th", "", { scope: "row" }),
    el("td", "heard"),
    el("td", "answered"),
    el("td", "ended"),
    el("td", "bar", {}, line),
  );
}

function updateRow(line, row, longest) {
  write(line.querySelector("th"), row.name);
  const many = row.notifications > 1 ? ` (${number(row.notifications)} at once)` : "";
  write(line.querySelector(".heard"), row.heard === null ? "–" : `${milliseconds(row.heard)}${many}`);
  write(line.querySelector(".answered"), row.answered === null ? "–" : milliseconds(row.answered));
  write(
    line.querySelector(".ended"),
    row.ended === null ? row.outcome : `${milliseconds(row.ended)} ${row.outcome}`,
  );
  const from = [0, row.heard ?? 0, row.answered ?? row.heard ?? 0, row.ended ?? 0];
  for (const [number, bar] of [...line.querySelectorAll("rect")].entries()) {
    const [left, right] = [from[number], Math.max(from[number], from[number + 1])].map(
      (ms) => (WIDTH * ms) / longest,
    );
    bar.setAttribute("x", left);
    bar.setAttribute("width", row.ended === null ? 0 : Math.max(0, right - left));
  }
}

// When the notification of the owner's version went out, if the stream still has it.
function published({ message, version, changedAt }) {
  if (message?.version !== version) return "";
  const after = milliseconds(Math.max(0, Date.parse(message.published_at) - changedAt));
  return `Published ${after} after that, as message ${number(message.sequence)}. `;
}

const HEADINGS = ["", "heard of it", "owner answered", "committed its copy", "waited · asked · wrote"];

const draw = whenDrawn(() => {
  if (!current) return;
  const one = entry(current.entity, current.id);
  if (!one.owner?.version) {
    write($("timeline-note"), `No owner here has ever heard of ${keyName(current.entity, current.id)}.`);
    return $("timeline").replaceChildren();
  }
  const rows = rowsOf(one);
  const longest = Math.max(1, ...rows.map((row) => row.ended ?? 0));
  const when = one.owner.changedAt
    ? new Date(one.owner.changedAt).toLocaleTimeString([], { hour12: false })
    : "?";
  const verb = one.owner.deleted ? "deleted" : "committed";
  const committed = `${ownerOf(current.entity)?.name ?? "Its owner"} ${verb} version ${one.owner.version} at ${when}.`;
  write($("timeline-note"), `${committed} ${published(one.owner)}The times below are after the commit.`);
  if (!$("timeline").tHead) {
    const heads = HEADINGS.map((text) => (text ? el("th", "", { scope: "col" }, text) : el("td")));
    $("timeline").append(el("thead", "", {}, el("tr", "", {}, ...heads)), el("tbody"));
  }
  list(
    $("timeline").tBodies[0],
    rows,
    (row) => row.name,
    makeRow,
    (line, row) => updateRow(line, row, longest),
  );
});

export function show(chosen) {
  current = chosen;
  draw();
}

export function start() {
  onFrame((frame) => {
    if (frame.view || frame.keys.some((key) => key.id === current?.id)) draw();
  });
}
