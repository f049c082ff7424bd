// What happened, in words: the details of each kind of event as people say them.
import { number } from "./dom.js";

const SAY = {
  verifier_swapped: swapped,
  verifier_rolled_back: swapped,
  verifier_reconfigured: swapped,
  mixture_changed: ({ before, after }) => shares(before, after),
  knobs_changed: ({ before, after }) => Object.keys(after ?? {}).map((key) => `${key}: ${plain(before?.[key])} → ${plain(after[key])}`).join(", "),
  scaled: ({ role, before, after }) => `${role}: ${before} → ${after}`,
  alert_raised: ({ what }) => what,
  alert_cleared: ({ what }) => what,
  actor_lost: ({ actor, notice }) => `${actor}: ${plain(notice)}`,
  checkpoint_saved: ({ policy_version: version, path }) => `version ${plain(version)}, ${path}`,
  joined: ({ host, pid, incarnation }) => `on ${host}, process ${pid}${incarnation ? `, start ${incarnation + 1}` : ""}`,
  controller_started: ({ is_resumed: isResumed }) => (isResumed ? "the run goes on" : "a new run"),
};

function swapped({ verifier, before, after, cause }) {
  return `${verifier}: ${before?.use ?? "–"} → ${after?.use ?? "–"}, epoch ${after?.epoch ?? "–"}${cause ? ` (${cause})` : ""}`;
}

function shares(before, after) {
  const names = [...new Set([...Object.keys(before ?? {}), ...Object.keys(after ?? {})])];
  const share = (value) => (typeof value === "number" ? `${number(value * 100)} %` : "–");
  return names.map((name) => `${name} ${share(before?.[name])} → ${share(after?.[name])}`).join(", ");
}

function plain(value) { return typeof value === "object" ? JSON.stringify(value) : String(value ?? "–"); }

/** The details of an event in words; of a kind that has none here, every detail by its name. */
export function eventWords(event) {
  const details = event.details ?? {};
  if (event.kind in SAY) return SAY[event.kind](details);
  return Object.entries(details).map(([key, value]) => `${key.replaceAll("_", " ")}: ${plain(value)}`).join(", ");
}
