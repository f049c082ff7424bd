// Elements from text: nothing here or elsewhere on the page parses markup, so no text of a run can become any.

export const byId = (id) => document.getElementById(id);

/** An element with attributes and children; texts become text nodes. `{class: "x"}` sets attributes, null leaves out. */
export function el(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) element.setAttribute(key, value);
  }
  element.append(...children.flat().filter((one) => one !== null && one !== undefined));
  return element;
}

/** Replace an element's children only if the content changed: a screen reader is told of news, not of every second. */
export function show(element, children, key) {
  if (element.dataset.key === key) return;
  element.dataset.key = key;
  element.replaceChildren(...children);
}

export const number = (value, digits = 0) =>
  typeof value === "number" && Number.isFinite(value)
    ? value.toLocaleString("en", { maximumFractionDigits: digits, minimumFractionDigits: digits })
    : "–";

export const timeOfDay = (seconds) => new Date(seconds * 1000).toLocaleTimeString("en-GB");

export function duration(seconds) {
  if (typeof seconds !== "number") return "–";
  if (seconds < 100) return `${seconds.toFixed(0)} s`;
  return seconds < 6000 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

/** Call the run's API as this page; returns the answer, or throws an Error with the sentence of the refusal. */
export async function call(method, path, body) {
  const answer = await fetch(path, {
    method,
    headers: { "x-ring-async": "page", ...(body ? { "content-type": "application/json" } : {}) },
    body: body ? JSON.stringify(body) : undefined,
    credentials: "same-origin",
  });
  if (answer.status === 204) return null;
  const content = answer.headers.get("content-type")?.startsWith("application/json") ? await answer.json() : {};
  if (!answer.ok) throw Object.assign(new Error(content.detail || `refused (${answer.status})`), { status: answer.status });
  return content;
}
