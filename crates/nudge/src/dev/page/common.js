// Shared by the parts of the page.

export const SUBSCRIBERS = ["search", "review"];

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
