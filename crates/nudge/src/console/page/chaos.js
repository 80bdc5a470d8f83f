// The chaos drawer: breaks things by hand, and heals them. Only where the console offers it.

import { $, el, json, list, number, post, write } from "./common.js";
import { health } from "./picture.js";
import { onFrame, state } from "./stream.js";

const whole = (name, label, value, min, max) => ({ name, label, value, min, max });
const one = (name, label, options) => ({ name, label, options });
const demo = (fits) => () =>
  state.services
    .filter((service) => state.parts.some((part) => part.of_the_demo && part.name === service.name))
    .filter(fits)
    .map((service) => service.name);
const subscriber = one("service", "Subscriber", demo((service) => service.is_subscriber));
const owner = one("service", "Owner", demo((service) => service.owns.length > 0));
const seconds = (value) => whole("seconds", "Seconds", value, 1, 120);
const seed = whole("seed", "Seed", 1, 0, Number.MAX_SAFE_INTEGER);
const some = [
  whole("percent", "Percent", 50, 1, 100),
  whole("next", "Or all of the next (0: a share)", 0, 0, 10_000),
];
const redelivered =
  "NATS sends what was not acknowledged again after 30 s, and comparing with the owner finds it before that.";

const FAULTS = [
  {
    kind: "hold",
    title: "Hold back and shuffle notifications",
    says: "Its cells stay behind. Then all come at once, in another order, and nothing is lost: each leads to a callback.",
    fields: [subscriber, whole("count", "Until there are", 20, 1, 64), seconds(10), seed],
  },
  {
    kind: "duplicate",
    title: "Duplicate notifications",
    says: "It hears more than was published, and makes few more callbacks, if any. No row changes twice.",
    fields: [subscriber, ...some, seconds(30), seed],
  },
  {
    kind: "drop",
    title: "Drop notifications",
    says: `Its cells stay behind. ${redelivered}`,
    fields: [subscriber, ...some, seconds(30), seed],
  },
  {
    kind: "delay",
    title: "Delay callbacks",
    says: "Owners' answers come later: lag and timeline grow by that much, and changes meanwhile share a callback.",
    fields: [subscriber, whole("ms", "Milliseconds", 500, 1, 5_000), seconds(30)],
  },
  {
    kind: "owner",
    title: "Fail an owner",
    says: "Callbacks fail and are retried; then breakers open. Nothing is dropped, and no delivery is used up.",
    fields: [owner, one("answer", "Callbacks get", () => ["503", "refused"]), seconds(20)],
  },
  {
    kind: "kill",
    title: "Kill a service",
    says: "It is ended by SIGKILL, and started again after this time. It catches up from where it was.",
    fields: [one("service", "Service", demo(() => true)), seconds(10)],
  },
  {
    kind: "edit",
    title: "Edit a row of a read model",
    says:
      "No notification tells of it. Comparing with the owner finds it, and the row is written again soon. " +
      "A renamed row has the right version, so that the copies above look equal meanwhile.",
    fields: [
      subscriber,
      { name: "id", label: "Store", value: "store-001" },
      one("row", "Becomes", () => ["older", "missing", "renamed"]),
    ],
  },
];

const quoted = (text) => (/^[\w./:-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);

const valuesOf = (form, { fields }) =>
  fields.map(({ name, min }) => {
    const field = form.elements[name];
    return [name, min === undefined ? field.value : field.valueAsNumber];
  });

function commandOf(form, fault) {
  const flags = valuesOf(form, fault).map(([name, value]) => `--${name} ${quoted(String(value))}`);
  return `${state.chaos.command} break ${fault.kind} ${flags.join(" ")}`;
}

function input({ name, label, value, min, max, options }) {
  const bounds = min === undefined ? {} : { type: "number", min, max };
  const made = options
    ? el("select", "", { name })
    : el("input", "", { name, value, required: "", autocomplete: "off", ...bounds });
  return el("label", "", {}, label, made);
}

function makeForm(fault) {
  const copy = el("button", "", { type: "button" }, "Copy");
  const code = el("code");
  const form = el(
    "form",
    "card",
    {},
    el("h3", "", {}, fault.title),
    el("p", "note", {}, fault.says),
    el("div", "fields", {}, ...fault.fields.map(input)),
    el("p", "command", {}, code, copy),
    el("div", "buttons", {}, el("button", "main", { type: "submit" }, "Break it")),
  );
  for (const button of form.querySelectorAll("button")) {
    button.setAttribute("aria-label", `${button.textContent}: ${fault.title}`);
  }
  form.addEventListener("input", () => write(code, commandOf(form, fault)));
  form.addEventListener("submit", (happened) => {
    happened.preventDefault();
    ask(() => post(`api/chaos/${fault.kind}`, Object.fromEntries(valuesOf(form, fault))));
  });
  copy.addEventListener("click", () => {
    getSelection().selectAllChildren(code);
    navigator.clipboard?.writeText(code.textContent).then(
      () => write($("chaos-said"), "Copied.", "note"),
      () => {},
    );
  });
  return form;
}

function updateForm(form, fault) {
  for (const { name, options } of fault.fields) {
    if (!options) continue;
    list(form.elements[name], options(), String, (value) => el("option", "", { value }, value), () => {});
  }
  write(form.querySelector("code"), commandOf(form, fault));
}

async function ask(request) {
  write($("chaos-said"), "");
  try {
    const { body } = await request();
    if (body.broken) state.chaos = body;
    show();
  } catch (error) {
    write($("chaos-said"), error.message, "bad");
  }
}

const clock = (time) => new Date(time).toLocaleTimeString([], { hour12: false });

function showBanner({ broken }) {
  const each = broken.map(
    ({ words, since, until }) => `${words} (since ${clock(since)}, until ${clock(until)} at the latest)`,
  );
  write($("broken"), each.length > 0 ? `⚠ Broken on purpose: ${each.join("; ")}` : "");
  $("heal").hidden = each.length === 0;
}

let settled = null; // the healing after which everything was equal

// Who has not compared since this time, or has something left to do.
const unsettled = (healed) =>
  state.services
    .flatMap((service) => service.follows.map((followed) => ({ service, followed })))
    .filter(({ service, followed }) => {
      const compared = !followed.comparison || Date.parse(followed.comparison.began_at) >= healed;
      return health(service, followed)[2] !== "good" || !compared;
    })
    .map(({ service, followed }) => `${service.name} (${followed.entity})`);

function showHealed({ healed_at }) {
  if (!healed_at) return write($("healed"), "");
  const left = settled === healed_at ? [] : unsettled(Date.parse(healed_at));
  if (left.length === 0) settled = healed_at;
  const text =
    left.length === 0
      ? "✓ Equal again: every subscriber has compared itself with its owners since, and has nothing left to do."
      : `… Comparing with the owners: ${left.join(", ")}`;
  write($("healed"), `Healed at ${clock(healed_at)}. ${text}`, left.length === 0 ? "good" : "warn");
}

function show() {
  const { chaos } = state;
  $("chaos").hidden = !chaos;
  if (!chaos) return;
  showBanner(chaos);
  showHealed(chaos);
  list($("faults"), FAULTS, (fault) => fault.kind, makeForm, updateForm);
  const figures = [
    ["held back now", chaos.held],
    ["came in another order", chaos.reordered],
    ["came twice", chaos.duplicated],
    ["lost", chaos.dropped],
  ];
  list(
    $("disturbed"),
    figures,
    ([label]) => label,
    ([label]) => el("div", "", {}, el("dt", "", {}, label), el("dd")),
    (item, [, count]) => write(item.lastChild, number(count)),
  );
  write($("heal-command"), `${chaos.command} break heal`);
}

export function start() {
  $("heal").addEventListener("click", () => ask(() => json("api/chaos", { method: "DELETE" })));
  onFrame((frame) => {
    if (frame.view) show();
  });
}
