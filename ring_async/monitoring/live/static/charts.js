// The curves over policy versions, with a mark for each event that people or faults made.
import { byId, el, number } from "./dom.js";

const MARKED = { verifier_swapped: "swap", verifier_rolled_back: "rollback", mixture_changed: "mixture", difficulty_changed: "window",
  knobs_changed: "set", scaled: "scale", paused: "pause", resumed: "resume", actor_lost: "lost", domain_paused: "source off",
  domain_resumed: "source on", checkpoint: "checkpoint", source_added: "source", controller_started: "start", alert_raised: "alert",
  alert_cleared: "alert over", batch_skipped: "skipped", evaluator_given_up: "evaluator" };
const GRAVE = new Set(["actor_lost", "domain_paused", "alert_raised", "batch_skipped", "evaluator_given_up"]);

const PANELS = [
  { id: "reward", title: "Reward", unit: "mean of all scored, by source", digits: 3, curves: rewards },
  { id: "throughput", title: "Throughput", unit: "tokens a second", digits: 0,
    curves: fixed({ generated: "generated_tokens_per_s", trained: "tokens_per_s" }) },
  { id: "staleness", title: "Staleness", unit: "versions", digits: 1,
    curves: fixed({ mean: "staleness_mean", largest: "staleness_max" }) },
  { id: "time", title: "Learner's time", unit: "seconds a batch", digits: 2,
    curves: fixed({ training: "step_s", waiting: "wait_batch_s", publishing: "publish_s" }) },
];

function fixed(keys) {
  return (steps) => Object.entries(keys).map(([name, key]) => [name, steps.map((step) => step[key] ?? null)]);
}

function rewards(steps) {
  const sources = [...new Set(steps.flatMap((step) => Object.keys(step.reward_by_source ?? {})))].sort();
  const curves = sources.map((name) => [name, steps.map((step) => step.reward_by_source?.[name] ?? null)]);
  return curves.length === 1 ? curves : [...curves, ["all", steps.map((step) => step.reward_mean ?? null)]];
}

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

export class Charts {
  constructor(parent) {
    this.panels = PANELS.map((panel) => {
      const keys = el("ul", { "aria-label": `newest figures of ${panel.title}` });
      const place = el("div", { role: "img", id: `chart-${panel.id}` });
      parent.append(el("figure", {}, el("figcaption", {}, panel.title, el("small", {}, panel.unit)), place, keys));
      return { ...panel, place, keys, plot: null, names: "" };
    });
    new ResizeObserver(() => this.resize()).observe(parent);
  }

  /** Draw all steps; marks are the events with the version they fell into. */
  draw(steps, events) {
    byId("charts-wait").hidden = true;
    this.marks = events.filter((event) => event.kind in MARKED && event.time > (steps[0]?.time ?? 0)).map((event) => (
      { version: versionAt(steps, event.time), words: MARKED[event.kind], isGrave: GRAVE.has(event.kind) }));
    const versions = steps.map((step) => step.policy_version);
    for (const panel of this.panels) {
      const curves = panel.curves(steps);
      const names = curves.map(([name]) => name).join("\n");
      if (!panel.plot || panel.names !== names) this.make(panel, curves.map(([name]) => name));
      panel.names = names;
      panel.plot.setData([versions, ...curves.map(([, values]) => values)]);
      this.say(panel, curves, versions);
    }
  }

  say(panel, curves, versions) {
    const newest = curves.map(([name, values]) => [name, values.findLast((value) => value !== null)]);
    const words = newest.map(([name, value]) => `${name} ${number(value, panel.digits)}`).join(", ");
    panel.place.setAttribute("aria-label", `${panel.title}, ${panel.unit}; at version ${versions.at(-1) ?? "–"}: ${words}`);
    panel.keys.replaceChildren(...newest.map(([name, value], index) =>
      el("li", { class: `key k${index % 8}` }, `${name} `, el("b", {}, number(value, panel.digits)))));
  }

  make(panel, names) {
    panel.plot?.destroy();
    const whole = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000];
    const axis = { stroke: colour("--faint"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false }, font: "12px system-ui" };
    panel.plot = new window.uPlot({
      width: this.width(panel), height: 190, legend: { show: false }, cursor: { drag: { x: false, y: false } },
      scales: { x: { time: false } }, axes: [{ ...axis, incrs: whole, size: 30 }, { ...axis, size: 56 }],
      series: [{}, ...names.map((name, index) => ({
        label: name, stroke: colour(`--c${index % 8}`), width: 1.7, spanGaps: true,
        points: { show: (plot) => plot.data[0].length < 3, size: 6 },
      }))],
      hooks: { draw: [(plot) => this.mark(plot)] },
    }, [[], ...names.map(() => [])], panel.place);
  }

  mark(plot) {
    const { ctx, bbox } = plot;
    const scale = window.devicePixelRatio || 1;
    ctx.save();
    ctx.font = `${11 * scale}px system-ui`;
    let free = -Infinity;
    for (const { version, words, isGrave } of this.marks ?? []) {
      const x = plot.valToPos(version, "x", true);
      if (version === null || x < bbox.left || x > bbox.left + bbox.width) continue;
      ctx.strokeStyle = ctx.fillStyle = colour(isGrave ? "--fault" : "--faint");
      ctx.setLineDash([3 * scale, 4 * scale]);
      ctx.beginPath();
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
      if (x < free) continue; // a label would lie over the one before
      const width = ctx.measureText(words).width + 8 * scale;
      free = x + width;
      const isLast = free > bbox.left + bbox.width;
      ctx.textAlign = isLast ? "right" : "left";
      ctx.fillText(words, x + (isLast ? -4 : 4) * scale, bbox.top + 10 * scale);
    }
    ctx.restore();
  }

  width(panel) { return Math.max(200, panel.place.clientWidth || 400); }

  resize() { for (const panel of this.panels) panel.plot?.setSize({ width: this.width(panel), height: 190 }); }

  /** Take the colours of the other theme. */
  recolour() { for (const panel of this.panels) panel.names = " "; }
}

function versionAt(steps, time) {
  const before = steps.findLast((step) => step.time <= time);
  return before ? before.policy_version : steps.length ? steps[0].policy_version : null;
}

export const charts = () => new Charts(byId("charts"));
