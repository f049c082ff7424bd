// The second tab: groups, their responses token by token, shaded by a number of each token.
import { byId, call, el, number } from "./dom.js";

const NUMBERS = ["min_reward", "max_reward", "min_staleness", "max_staleness", "min_tokens", "max_tokens", "num"];
let shown = [];

export function startSamples() {
  byId("filters").addEventListener("submit", (event) => { event.preventDefault(); load(); });
  byId("shade").addEventListener("change", draw);
}

export function offerSources(names) {
  const select = byId("filters").elements.source;
  const have = [...select.options].map((option) => option.value);
  for (const name of names) if (!have.includes(name)) select.append(el("option", { value: name }, name));
}

async function load() {
  const form = byId("filters").elements;
  const query = new URLSearchParams();
  if (form.source.value) query.set("source", form.source.value);
  for (const name of NUMBERS) if (form[name].value.trim() !== "") query.set(name, form[name].value.trim());
  byId("samples-state").textContent = "reading …";
  try {
    shown = (await call("GET", `/page/samples?${query}`)).groups;
    byId("samples-state").textContent = shown.length ? `${shown.length} groups, the newest first` : "No group is kept that fits.";
  } catch (error) {
    shown = [];
    byId("samples-state").textContent = error.message;
  }
  const kinds = [...new Set(shown.flatMap((group) => group.responses.flatMap((one) => Object.keys(one.per_token ?? {}))))];
  const select = byId("shade");
  const before = select.value;
  select.replaceChildren(...kinds.map((kind) => el("option", { value: kind }, kind)));
  select.value = kinds.includes(before) ? before : kinds.includes("logprob") ? "logprob" : kinds[0] ?? "";
  draw();
}

function draw() { byId("groups").replaceChildren(...shown.map(group)); }

function group(one) {
  const judged = one.verifier ? `${one.verifier.name} ${one.verifier.version.slice(0, 8)} epoch ${one.verifier.epoch}` : "not judged";
  return el("section", { class: "group", "aria-label": `group ${one.group_id}` },
    el("h2", {}, `${one.source} · ${one.group_id}`),
    el("p", { class: "meta" }, `${judged}, ${one.engine_id}, temperature ${one.temperature}, mixture ${one.mixture_epoch}`),
    el("pre", {}, one.prompt), ...one.responses.map(response));
}

function response(one) {
  const parts = Object.entries(one.reward_parts ?? {}).map(([name, value]) => `${name} ${number(value, 3)}`).join(", ");
  const versions = [...new Set(one.policy_versions)].join(" → ");
  return el("div", { class: "response" },
    el("p", { class: "meta" }, el("b", {}, `reward ${number(one.reward, 3)}`), parts ? ` (${parts})` : "",
      `, advantage ${number(one.advantage, 3)}, ${one.num_tokens} tokens, ${one.finish_reason}, version ${versions}, ${one.state}`),
    el("pre", {}, ...tokens(one)));
}

function tokens(one) {
  if (!one.tokens) return [one.response];
  const values = one.per_token[byId("shade").value] ?? [];
  const low = Math.min(...values), high = Math.max(...values);
  return one.tokens.map((text, index) => {
    const words = Object.entries(one.per_token).map(([kind, column]) => `${kind} ${column[index]}`).join(", ");
    // a log-probability is marked where it is low, any other number where it is high
    const share = high > low ? (values[index] - low) / (high - low) : 0;
    const level = Math.round(4 * (byId("shade").value === "logprob" ? 1 - share : share));
    const masked = one.per_token.mask?.[index] === 0 ? " masked" : "";
    return el("span", { class: `t s${high > low ? level : 0}${masked}`, title: words }, text);
  });
}
