// The first tab: what is the matter, the actors with how they spend their time, and what happened.
import { byId, duration, el, number, show, timeOfDay } from "./dom.js";
import { eventWords } from "./events.js";

const WORDS = { work: "at work", reservation: "waits for a reservation", commit: "waits for judging or commit", weights: "waits for weights",
  batch: "waits for a batch", tokens: "waits for tokens", disk: "waits for disk space", slot: "engine is full", group: "waits for a group",
  paused: "paused", publish: "waits for publishing", place: "waits for a place", other: "other" };
const GOOD = new Set(["running", "done", "finished"]);

export function showHead(status) {
  byId("run").textContent = status.run;
  document.title = `${status.run}: ring-async`;
  const left = typeof status.remaining_s === "number" && status.state === "running" ? `, ${duration(status.remaining_s)} left` : "";
  const words = `${status.state}${status.reason ? ` (${status.reason})` : ""}, version ${number(status.policy_version)} of ${number(status.policy_versions)}${left}`;
  if (byId("state").textContent !== words) byId("state").textContent = words;
  byId("progress").value = (status.policy_version ?? 0) / Math.max(1, status.policy_versions ?? 1);
}

export function showWhy(findings) {
  const lines = findings.map((one) => el("p", { class: one.gravity }, el("b", {}, `${one.gravity}: `), one.what, " ", el("em", {}, one.remedy)));
  show(byId("why"), lines, JSON.stringify(findings.map((one) => [one.cause, one.what])));
}

export function showActors(status, utilisation) {
  const parts = new Map(utilisation.map((one) => [one.actor_id, one.parts]));
  byId("actors").replaceChildren(...(status.actors ?? []).map((actor) => {
    const silent = actor.silent_s;
    const waits = actor.waiting_for ? `${actor.waiting_for}, ${duration(actor.waited_s ?? 0)}` : "–";
    const restarts = actor.incarnation ? ` (start ${actor.incarnation + 1})` : "";
    return el("tr", {},
      el("th", { scope: "row" }, actor.actor_id + restarts),
      el("td", { class: GOOD.has(actor.state) ? null : "bad" }, actor.state ?? "–"),
      el("td", {}, bar(parts.get(actor.actor_id))),
      el("td", {}, waits),
      el("td", {}, number(actor.policy_version)),
      el("td", { class: silent === 0 ? null : "bad" }, silent === 0 ? "now" : typeof silent === "number" ? `${duration(silent)} ago` : "never"));
  }));
}

function bar(parts) {
  if (!parts) return el("span", {}, "–");
  const shares = Object.entries(parts).filter(([, share]) => share >= 0.005);
  const words = shares.map(([cause, share]) => `${WORDS[cause] ?? cause} ${(share * 100).toFixed(0)} %`).join(", ");
  const strip = el("div", { class: "bar", role: "img", "aria-label": words, title: words });
  for (const [cause, share] of shares) {
    const piece = el("i", { class: `part-${cause in WORDS ? cause : "other"}` });
    piece.style.width = `${share * 100}%`;
    strip.append(piece);
  }
  return el("div", {}, strip, el("small", {}, words));
}

export function showEvents(events) {
  const lines = events.slice(-100).reverse().map((event) => {
    return el("li", { class: event.kind === "alert_raised" || event.kind === "actor_lost" ? "grave" : null },
      el("time", {}, timeOfDay(event.time)), el("b", {}, event.kind.replaceAll("_", " ")), ` ${eventWords(event)}`,
      event.author ? el("small", {}, ` ${event.author}`) : null);
  });
  show(byId("events"), lines, `${events.length} ${events.at(-1)?.time}`);
}
