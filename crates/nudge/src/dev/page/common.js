// Shared by the parts of the page.

// The subscribers that follow stores, in the order in which they were found. Only `found` adds to them.
export const subscribers = [];

const whenFound = [];

// Calls `then` with each subscriber: those that are known, and those that will be.
export function eachSubscriber(then) {
  whenFound.push(then);
  subscribers.forEach(then);
}

export function found(name) {
  if (subscribers.includes(name)) return;
  subscribers.push(name);
  for (const then of whenFound) then(name);
}

export const $ = (id) => document.getElementById(id);

export function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

export const milliseconds = (ms) =>
  ms < 99.95 ? `${ms.toFixed(1)} ms` : ms < 999.5 ? `${ms.toFixed(0)} ms` : `${(ms / 1000).toFixed(1)} s`;

export const storePath = (id) => `api/store-info/stores/${encodeURIComponent(id)}`;

// A request whose answer is JSON. A problem becomes an error with its detail.
export async function json(path, options) {
  const response = await fetch(path, options);
  const body = response.status === 204 ? null : await response.json();
  if (!response.ok) throw new Error(body?.detail ?? body?.title ?? `status ${response.status}`);
  return { body, response };
}
