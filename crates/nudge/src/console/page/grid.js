// The grid: which version each service has of each entity.

import { $, at, el, keyName, list, milliseconds, number, post, json, whenDrawn, write } from "./common.js";
import { cell, entry, isSettled, refresh } from "./cells.js";
import { chosen, choose } from "./entity.js";
import { entities, followersOf, now, onFrame, ownerOf, state } from "./stream.js";

const MAX_ROWS = 8;
const MAX_FOUND = 8;
const ASK_MS = 1000;
const ASK_ALL_EVERY = 5; // rounds
const FIND_DELAY_MS = 150;

let kind = null;
let listed = []; // the first of the owner's, or what was found
let rows = [];
const changed = new Set(); // while we looked, and not in the grid yet

// The entities in the grid: what was found, else what changed while we looked, and what the owner has.
function chooseRows() {
  // Rows do not move under the hands of somebody who is in them.
  if (kind === null || (rows.length > 0 && $("grid-body").contains(document.activeElement))) return;
  const before = rows;
  const fresh = [...changed].filter((id) => !rows.includes(id));
  const finding = $("find").value.trim() !== "";
  const next = [...new Set(finding ? listed : [...fresh, ...rows, ...listed])];
  const pinned = next.find((id) => chosen() === keyName(kind, id));
  rows = next.slice(0, MAX_ROWS);
  if (pinned && !rows.includes(pinned)) rows[MAX_ROWS - 1] = pinned;
  changed.clear();
  const added = rows.filter((id) => !before.includes(id));
  if (added.length > 0) refresh(kind, added).then(draw);
}

async function listOwned() {
  const owner = ownerOf(kind);
  if (!owner?.answers) return;
  const answer = await post(at(owner.name, `/sync/v1/${kind}/items`), { limit: MAX_ROWS }).catch(() => null);
  if ($("find").value.trim() !== "") return;
  listed = answer?.body.items.map((item) => item.id) ?? [];
  const empty = answer && listed.length === 0 && rows.length === 0;
  $("grid-empty").hidden = !empty;
  const how =
    kind === "store"
      ? "Make one: the button above, nudge store put ID --name NAME, or nudge store import FILE"
      : `Each that is made through ${owner.name}'s own API appears here.`;
  if (empty) write($("grid-empty"), `${owner.name} has no ${kind} yet. ${how}`);
  chooseRows();
  draw();
}

// Names are known to the demo's search, and only those of stores.
const canSearch = () =>
  kind === "store" && state.services.some((service) => service.name === "search" && service.answers);

// By ID at the owner; by name at a service that can search.
async function find() {
  const wanted = $("find").value.trim();
  if (wanted === "") {
    write($("found"), "");
    return listOwned();
  }
  const owner = ownerOf(kind);
  const byId = post(at(owner.name, `/sync/v1/${kind}/batch-get`), { ids: [wanted], fields: ["name"] }).then(
    ({ body }) => body.items.filter((item) => item.status !== "unknown").map((item) => item.id),
    () => [],
  );
  const byName = canSearch()
    ? json(at("search", `/stores?limit=${MAX_FOUND}&q=${encodeURIComponent(wanted)}`)).then(
        ({ body }) => body.ids,
        () => [],
      )
    : [];
  const found = [...(await byId), ...(await byName)];
  if ($("find").value.trim() !== wanted) return;
  listed = [...new Set(found)];
  write(
    $("found"),
    listed.length === 0 ? `nothing with the name or ID “${wanted}”` : `${listed.length} found`,
  );
  rows = [];
  chooseRows();
  draw();
}

function makeRow() {
  return el("tr", "", { role: "row" });
}

function makeCell(column) {
  const made = el(column.name ? "td" : "th", column.name ? "" : "entity", {
    role: column.name ? "gridcell" : "rowheader",
    tabindex: "-1",
  });
  if (column.name) made.dataset.service = column.name;
  return made;
}

function updateCell(node, column, one) {
  if (!column.name) {
    if (!node.firstChild) node.append(el("span", "name"), el("span", "id"));
    write(node.firstChild, one.name ?? "");
    return write(node.lastChild, one.id);
  }
  const [mark, words, bad, why] = column.owner ? ownerCell(one) : cell(one, column.service, column.followed);
  write(node, `${mark} ${words}`.trim(), bad);
  if (node.title !== why) node.title = why;
}

function ownerCell(one) {
  if (!one.owner) return ["", "…", "", ""];
  if (one.owner.version === null) return ["", "unknown", "", ""];
  const since = one.owner.changedAt ? milliseconds(Math.max(0, now() - one.owner.changedAt)) : "";
  return [
    "",
    `${one.owner.deleted ? "deleted" : "changed"} ${since} ago`,
    "owned",
    `version ${one.owner.version}`,
  ];
}

const draw = whenDrawn(() => {
  if (kind === null) return;
  const owner = ownerOf(kind);
  const columns = [
    { key: "entity", title: kind },
    { key: "owner", name: owner?.name ?? "owner", title: `${owner?.name ?? "?"} (owner)`, owner: true },
    ...followersOf(kind).map(({ service, followed }) => ({
      key: service.name,
      name: service.name,
      title: service.name,
      service,
      followed,
    })),
  ];
  const heading = () => el("th", "", { scope: "col", role: "columnheader" });
  list(
    $("grid-head"),
    columns,
    (column) => column.key,
    heading,
    (node, column) => write(node, column.title),
  );
  list(
    $("grid-body"),
    rows,
    (id) => id,
    makeRow,
    (line, id) => {
      const one = entry(kind, id);
      line.setAttribute("aria-selected", String(chosen() === keyName(kind, id)));
      list(
        line,
        columns,
        (column) => column.key,
        makeCell,
        (node, column) => updateCell(node, column, one),
      );
    },
  );
  const more =
    state.moreKeys > 0 ? `${number(state.moreKeys)} more changed in the last tenth of a second` : "";
  if ($("find").value.trim() === "") write($("found"), more);
  if (!document.querySelector('#grid-body [tabindex="0"]')) {
    document.querySelector("#grid-body [tabindex]")?.setAttribute("tabindex", "0");
  }
});

const MOVES = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

function onKey(event) {
  const here = event.target.closest("[role=gridcell], [role=rowheader]");
  if (!here) return;
  if (event.key === "Enter" || event.key === " ") {
    event.preventDefault();
    return choose(kind, here.parentElement.dataset.key);
  }
  const lines = [...$("grid-body").children];
  let line = lines.indexOf(here.parentElement);
  let column = [...here.parentElement.children].indexOf(here);
  if (MOVES[event.key]) {
    line += MOVES[event.key][0];
    column += MOVES[event.key][1];
  } else if (event.key === "Home") column = 0;
  else if (event.key === "End") column = here.parentElement.children.length - 1;
  else return;
  event.preventDefault();
  const there = lines[line]?.children[column];
  if (there) move(there);
}

function move(there) {
  document.querySelector('#grid-body [tabindex="0"]')?.setAttribute("tabindex", "-1");
  there.setAttribute("tabindex", "0");
  there.focus();
}

function showKinds() {
  const kinds = entities();
  if (kinds.length === 0) return;
  const of = (name) => el("option", "", { value: name }, name);
  list(
    $("kind"),
    kinds,
    (name) => name,
    of,
    () => {},
  );
  const hint = `${canSearch() ? "name or ID" : "ID"}   ( / )`;
  if ($("find").placeholder !== hint) $("find").placeholder = hint;
  if (kind === null || !kinds.includes(kind)) {
    const wanted = location.hash.slice(1).split("/")[0];
    setKind(kinds.includes(wanted) ? wanted : kinds[0]);
  }
}

function setKind(name) {
  kind = name;
  $("kind").value = name;
  $("new").hidden = name !== "store";
  [rows, listed] = [[], []];
  changed.clear();
  listOwned();
}

export const shownKind = () => kind;

let round = 0;

// What is not as it should be is asked for every second, the rest now and then.
async function askAgain() {
  round += 1;
  if (kind !== null && document.visibilityState === "visible" && state.connected) {
    if (round % ASK_ALL_EVERY === 0 && listed.length === 0) await listOwned();
    const all = round % ASK_ALL_EVERY === 0;
    await refresh(
      kind,
      rows.filter((id) => all || !isSettled(entry(kind, id))),
    ).catch(() => {});
    chooseRows();
    draw();
  }
  setTimeout(askAgain, ASK_MS);
}

export function start() {
  onFrame((frame) => {
    if (frame.view) showKinds();
    for (const key of frame.snapshot ? [] : frame.keys) {
      if (key.entity === kind && !rows.includes(key.id)) changed.add(key.id);
    }
    draw();
  });
  let finding;
  $("find").addEventListener("input", () => {
    clearTimeout(finding);
    finding = setTimeout(find, FIND_DELAY_MS);
  });
  $("kind").addEventListener("change", () => setKind($("kind").value));
  $("grid-body").addEventListener("keydown", onKey);
  $("grid-body").addEventListener("click", (event) => {
    const here = event.target.closest("[role=gridcell], [role=rowheader]");
    if (!here) return;
    move(here);
    choose(kind, here.parentElement.dataset.key);
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "/" || event.target.closest("input, textarea, select")) return;
    event.preventDefault();
    $("find").focus();
  });
  setTimeout(askAgain, ASK_MS);
}
