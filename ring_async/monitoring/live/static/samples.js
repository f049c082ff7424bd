// The second tab: groups, their responses token by token, shaded by a number of each token.
import { byId, call, el, number } from "./dom.js";
import { FATES, LEGENDS, shading } from "./shading.js";

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
  if (form.is_trained.checked) query.set("is_trained", "true");
  byId("samples-state").textContent = "reading …";
  try {
    shown = (await call("GET", `/page/samples?${query}`)).groups;
    byId("samples-state").textContent = shown.length ? `${shown.length} groups, the newest first` : "No group is kept that fits.";
  } catch (error) {
    shown = [];
    byId("samples-state").textContent = error.message;
  }
  const responses = shown.flatMap((group) => group.responses);
  const kinds = [...new Set(responses.flatMap((one) => [...Object.keys(one.per_token ?? {}), ...(one.fates ? ["fate"] : [])]))];
  const select = byId("shade");
  const before = select.value;
  select.replaceChildren(...kinds.map((kind) => el("option", { value: kind }, kind)));
  select.value = kinds.includes(before) ? before : kinds.includes("logprob") ? "logprob" : kinds[0] ?? "";
  draw();
}

function draw() {
  byId("legend").textContent = shown.length ? LEGENDS[byId("shade").value] ?? "Dark where it is high, within each response." : "";
  byId("token-figures").hidden = true;
  byId("groups").replaceChildren(...shown.map(group));
}

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
  const text = el("pre", one.tokens ? { tabindex: 0, "aria-label": "response; arrow keys read its tokens" } : {}, ...tokens(one));
  if (one.tokens) readable(text, one);
  return el("div", { class: "response" },
    el("p", { class: "meta" }, el("b", { class: one.reward > 0 ? "won" : "lost" }, `reward ${number(one.reward, 3)}`), parts ? ` (${parts})` : "",
      `, advantage ${number(one.advantage, 3)}, ${one.num_tokens} tokens, ${one.finish_reason}, version ${versions}, ${one.state}`),
    text);
}

function tokens(one) {
  if (!one.tokens) return [one.response];
  const classes = shading(one, byId("shade").value);
  return one.tokens.map((text, index) => el("span", { class: `t ${classes[index]}${isLeftOut(one, index) ? " masked" : ""}`, title: tokenWords(one, index) }, text));
}

function isLeftOut(one, index) {
  return one.per_token.mask?.[index] === 0 || ["masked", "nonfinite"].includes(one.fates?.[index]);
}

/** All that is known of one token. */
function tokenWords(one, index) {
  const words = Object.entries(one.per_token).filter(([, column]) => column[index] !== null).map(([kind, column]) => `${kind} ${column[index]}`);
  const fate = one.fates?.[index];
  return [...words, ...(fate ? [FATES[fate] ?? fate] : [])].join(", ");
}

/** A click or the arrow keys choose a token; its numbers stand below, where a screen reader hears them. */
function readable(text, one) {
  let chosen = -1;
  const choose = (index) => {
    text.children[chosen]?.classList.remove("chosen");
    chosen = Math.max(0, Math.min(text.children.length - 1, index));
    text.children[chosen]?.classList.add("chosen");
    byId("token-figures").hidden = false;
    byId("token-figures").textContent = `${JSON.stringify(one.tokens[chosen])}: ${tokenWords(one, chosen)}`;
  };
  text.addEventListener("click", (event) => {
    const index = [...text.children].indexOf(event.target);
    if (index >= 0) choose(index);
  });
  text.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    choose(Number.isFinite(step) ? chosen + step : step < 0 ? 0 : text.children.length - 1);
  });
}
