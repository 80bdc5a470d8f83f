// Shared by all parts of the page: elements, figures as text, requests.

export const $ = (id) => document.getElementById(id);

// An element with a class, attributes and children.
export function el(tag, className = "", attributes = {}, ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

// Writes only what is different: nothing is read aloud, selected or focused anew without need.
export function write(node, text, className) {
  const wanted = String(text ?? "");
  if (node.textContent !== wanted) node.textContent = wanted;
  if (className !== undefined && node.className !== className) node.className = className;
}

// Makes the children of `parent` those of `items`, in their order. A child stays as long as its item does.
export function list(parent, items, keyOf, make, update) {
  const known = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  let place = parent.firstElementChild;
  for (const item of items) {
    const key = keyOf(item);
    let child = known.get(key);
    if (!child) {
      child = make(item);
      child.dataset.key = key;
    }
    known.delete(key);
    if (child === place) place = place.nextElementSibling;
    else parent.insertBefore(child, place);
    update(child, item);
  }
  for (const gone of known.values()) gone.remove();
}

export const milliseconds = (ms) => {
  if (ms === null || ms === undefined || Number.isNaN(ms)) return "";
  const size = Math.abs(ms);
  if (size < 9.95) return `${ms.toFixed(1)} ms`;
  if (size < 999.5) return `${ms.toFixed(0)} ms`;
  if (size < 59_950) return `${(ms / 1000).toFixed(1)} s`;
  if (size < 5_400_000) return `${Math.round(ms / 60_000)} min`;
  if (size < 129_600_000) return `${Math.round(ms / 3_600_000)} h`;
  return `${Math.round(ms / 86_400_000)} days`;
};

export const number = (value) => value.toLocaleString("en-US");

export const rate = (value) => {
  if (value === null || value === undefined) return "–";
  if (value === 0) return "0/s";
  return value < 9.95 ? `${value.toFixed(1)}/s` : `${number(Math.round(value))}/s`;
};

export const bytes = (size) => (size < 1000 ? `${Math.round(size)} B` : `${(size / 1000).toFixed(1)} kB`);

export const plural = (count, noun) => `${number(count)} ${noun}${count === 1 ? "" : "s"}`;

export const at = (service, path) => `api/${service}${path}`;

export const keyName = (entity, id) => `${entity}/${id}`;

// An ID in a path. `.` and `..` cannot be written there.
export const segment = (id) => encodeURIComponent(id);

// Who is told when the console wants to know who asks.
let refused = () => {};

export function onRefused(listener) {
  refused = listener;
}

export const tellRefused = () => refused();

// A request whose answer is JSON. A problem becomes an error that says which fields are wrong.
export async function json(path, options) {
  const response = await fetch(path, options);
  const text = await response.text();
  const body = text === "" ? null : JSON.parse(text);
  if (response.ok) return { body, response, bytes: text.length };
  const fields = body?.errors?.map((one) => `${one.field}: ${one.detail}`).join("; ");
  const error = new Error(fields || body?.detail || body?.title || `status ${response.status}`);
  error.status = response.status;
  if (error.status === 401) tellRefused();
  throw error;
}

export const post = (path, body, type = "application/json", method = "POST") =>
  json(path, { method, headers: { "Content-Type": type }, body: JSON.stringify(body) });

// Calls `run` at most once per animation frame, however often it is asked to.
export function whenDrawn(run) {
  let asked = false;
  return () => {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => {
      asked = false;
      run();
    });
  };
}
