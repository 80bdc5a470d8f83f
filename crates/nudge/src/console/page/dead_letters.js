// What could not be applied: parked keys, which are retried, and dead letters, which wait for somebody.

import { $, at, el, list, milliseconds, number, plural, post, json, segment, write } from "./common.js";
import { eachCount, now, onFrame, state } from "./stream.js";

const MAX_SHOWN = 50;
const PAGE = 200;
const AT_A_TIME = 4;
const ASK_MS = 2000;

let letters = [];
let more = false;
let told = "";
let asking = false;

const waiting = () =>
  state.services.filter(
    (service) => service.answers && service.follows.some((one) => one.dead_letters + one.parked > 0),
  );

// One page of a subscriber's, from where the last ended.
async function page(service, next) {
  const query = new URLSearchParams({ limit: PAGE });
  if (next) {
    query.set("entity", next.entity);
    query.set("after", next.after);
  }
  const { body } = await json(at(service.name, `/nudge/v1/dead-letters?${query}`));
  return { items: body.items.map((item) => ({ ...item, service: service.name })), next: body.next };
}

const wanted = () => $("dead-find").value.trim().toLowerCase();

const fits = (letter) =>
  [letter.service, letter.entity, letter.id, letter.error].some((text) =>
    text.toLowerCase().includes(wanted()),
  );

async function ask() {
  if (asking) return;
  asking = true;
  const pages = await Promise.all(
    waiting().map((service) => page(service).catch(() => ({ items: [], next: null }))),
  );
  letters = pages.flatMap((one) => one.items);
  more = pages.some((one) => one.next !== null);
  asking = false;
  draw();
}

// By query where a path cannot hold the ID.
async function act(letter, verb) {
  const { service, entity, id } = letter;
  const base = "/nudge/v1/dead-letters";
  const dots = id === "." || id === "..";
  const query = new URLSearchParams({ entity, id });
  const path = dots
    ? `${base}/${verb}?${query}`
    : `${base}/${entity}/${segment(id)}${verb === "replay" ? "/replay" : ""}`;
  const method = verb === "replay" || dots ? "POST" : "DELETE";
  await json(at(service, path), { method }).catch((error) => {
    // It was applied meanwhile.
    if (error.status !== 404) throw error;
  });
}

const DONE = { replay: "put back on the queue", discard: "discarded" };

// However many there are: page by page, of every subscriber, those that the filter lets through.
async function actOnAll(verb) {
  let done = 0;
  let failed = "";
  for (const service of waiting()) {
    let next = null;
    do {
      const one = await page(service, next);
      const meant = one.items.filter(fits);
      async function worker() {
        for (let letter = meant.pop(); letter; letter = meant.pop()) {
          await act(letter, verb).then(
            () => {
              done += 1;
            },
            (error) => {
              failed = error.message;
            },
          );
        }
      }
      await Promise.all(Array.from({ length: AT_A_TIME }, worker));
      tell(`${number(done)} ${DONE[verb]}…`);
      next = one.next;
    } while (next);
  }
  tell(`${number(done)} ${DONE[verb]}${failed && `; others failed: ${failed}`}.`);
  ask();
}

function tell(text) {
  told = text;
  draw();
}

function makeRow(letter) {
  const button = (verb, label) => {
    const made = el(
      "button",
      verb,
      { type: "button", "aria-label": `${label} ${letter.entity}/${letter.id} at ${letter.service}` },
      label,
    );
    made.addEventListener("click", async () => {
      made.disabled = true;
      await act(letter, verb).then(
        () => tell(`${letter.entity}/${letter.id} ${DONE[verb]}.`),
        (error) => tell(error.message),
      );
      ask();
    });
    return made;
  };
  const cells = ["subscriber", "which", "tried", "next", "error"].map((name) => el("td", name));
  return el(
    "tr",
    "",
    {},
    ...cells,
    el("td", "buttons", {}, button("replay", "Replay"), button("discard", "Discard")),
  );
}

function updateRow(line, letter) {
  const next = letter.next_at
    ? `in ${milliseconds(Math.max(0, Date.parse(letter.next_at) - now()))}`
    : "only by replay";
  const texts = [letter.service, `${letter.entity}/${letter.id}`, `${letter.attempts}×`, next, letter.error];
  texts.forEach((text, place) => write(line.children[place], text));
}

function draw() {
  const shown = letters.filter(fits).slice(0, MAX_SHOWN);
  const none = letters.length === 0;
  $("dead-table").hidden = shown.length === 0;
  [$("dead-filter").hidden, $("dead-all").hidden] = [none && wanted() === "", none];
  list($("dead-body"), shown, (one) => `${one.service} ${one.entity}/${one.id}`, makeRow, updateRow);
  const many = `${more ? "More than " : ""}${plural(letters.length, "key")} could not be applied.`;
  const others = more || letters.filter(fits).length > shown.length;
  const state = none
    ? "Nothing: every notification has led to the owner's state, or is about to."
    : `${many}${others ? " Not all are listed; the buttons above mean all." : ""}`;
  write($("dead-note"), [told, state].filter(Boolean).join(" "));
}

// Nothing is thrown away by one click too many.
function twice(button, action) {
  const label = button.textContent;
  let armed = null;
  button.addEventListener("click", async () => {
    if (armed === null) {
      write(button, `${label}: ${number(letters.filter(fits).length)}${more ? "+" : ""}, sure?`);
      armed = setTimeout(() => {
        armed = null;
        write(button, label);
      }, 4000);
      return;
    }
    clearTimeout(armed);
    armed = null;
    write(button, label);
    button.disabled = true;
    await action().catch((error) => tell(error.message));
    button.disabled = false;
  });
}

export function start() {
  $("replay-all").addEventListener("click", () => actOnAll("replay").catch((error) => tell(error.message)));
  twice($("discard-all"), () => actOnAll("discard"));
  $("dead-find").addEventListener("input", draw);
  let asked = 0;
  onFrame((frame) => {
    const appeared = eachCount(frame).some(([, counts]) => counts.dead_lettered > 0);
    const due = performance.now() - asked > ASK_MS && (waiting().length > 0 || letters.length > 0);
    if (!appeared && !due) return;
    asked = performance.now();
    ask();
  });
  draw();
}
