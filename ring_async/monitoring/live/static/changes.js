// The third tab: the changes that the command line offers, through the same calls and with the same checks.
import { byId, call, el, number } from "./dom.js";

const AUTHOR = { author: "page" };
let heldSwap = null;

export function startChanges() {
  on("scale", async (form) => {
    const status = await call("POST", "/v1/scale", { role: form.role.value, num: Number(form.num.value), ...AUTHOR });
    return `${form.role.value}: ${status.scale[form.role.value]} wanted`;
  });
  on("set", async (form) => {
    await call("POST", "/v1/knobs", { knobs: { [form.key.value]: plain(form.value.value) }, ...AUTHOR });
    return `${form.key.value} = ${form.value.value}`;
  });
  on("mixture", async () => {
    const weights = Object.fromEntries([...byId("weights").querySelectorAll("input")].map((input) => [input.name, Number(input.value)]));
    const status = await call("POST", "/v1/mixture", { mixture: weights, ...AUTHOR });
    return `mixture ${status.mixture_epoch}: ${Object.entries(status.mixture).map(([name, share]) => `${name} ${(share * 100).toFixed(0)} %`).join(", ")}`;
  });
  on("swap", async (form) => {
    const options = form.options.value.trim() ? JSON.parse(form.options.value) : {};
    const shadow = Number(form.shadow.value);
    return follow(await call("POST", `/v1/verifiers/${encodeURIComponent(form.name.value)}/swap`,
      { use: form.use.value, options, shadow, rescore: form.rescore.checked, hold: shadow > 0, ...AUTHOR }));
  });
  act("rollback", async () => follow(await call("POST", `/v1/verifiers/${encodeURIComponent(byId("swap").elements.name.value)}/rollback`, AUTHOR)));
  act("commit", async () => follow(await call("POST", `/v1/swaps/${heldSwap}/commit`), true));
  act("abort", async () => follow(await call("POST", `/v1/swaps/${heldSwap}/abort`), true));
}

/** Fill the choices of the forms from the run; called when the tab is opened. */
export async function offerChanges(status) {
  const { tunable, set } = await call("GET", "/v1/knobs");
  const select = byId("set").elements.key;
  if (!select.options.length) {
    select.append(...Object.keys(tunable).map((name) => el("option", { value: name }, name)));
    const say = () => { byId("set-when").textContent = `Takes effect: ${tunable[select.value]}.${select.value in set ? ` It was set to ${set[select.value]}.` : ""}`; };
    select.addEventListener("change", say);
    say();
  }
  const mixture = status?.mixture ?? {};
  const inputs = byId("weights");
  for (const [name, share] of Object.entries(mixture)) {
    if ([...inputs.querySelectorAll("input")].some((input) => input.name === name)) continue;
    inputs.append(el("label", {}, `${name} `, el("input", { name, type: "number", min: 0, step: "any", value: share })));
  }
}

async function follow(swap, isDecided = false) {
  byId("held").hidden = true;
  while (!["committed", "aborted"].includes(swap.state) && !(swap.state === "held" && !isDecided)) {
    tell(`${swap.swap_id}: ${swap.state}`);
    swap = await call("GET", `/v1/swaps/${swap.swap_id}?wait_s=2`);
  }
  if (swap.state === "held") {
    heldSwap = swap.swap_id;
    const { trajectories, agreement, reward_before: before, reward_after: after } = swap.shadow;
    byId("shadow").textContent = `${trajectories} trajectories judged by both: ${number(agreement * 100, 1)} % the same; mean reward ${number(before, 3)} before, ${number(after, 3)} after.`;
    byId("held").hidden = false;
    return `${swap.swap_id} waits for your decision`;
  }
  if (swap.state === "aborted") throw new Error(`nothing changed: ${swap.reason}`);
  return `${swap.verifier.name} is ${swap.verifier.use}, from epoch ${swap.verifier.epoch} on`;
}

function on(id, act) {
  byId(id).addEventListener("submit", (event) => { event.preventDefault(); run(byId(id), () => act(byId(id).elements)); });
}

function act(id, deed) { byId(id).addEventListener("click", () => run(byId("swap"), deed)); }

async function run(form, deed) {
  const buttons = form.querySelectorAll("button");
  buttons.forEach((button) => { button.disabled = true; });
  try { tell(`Done: ${await deed()}`); } catch (error) { tell(`Refused: ${error.message}`); }
  buttons.forEach((button) => { button.disabled = false; });
}

function tell(words) { byId("change-state").textContent = words; }

/** A value as the configuration would read it: a number, true, false, null, a list; else the text itself. */
function plain(text) { try { return JSON.parse(text); } catch { return text; } }
