// Ties the page together: the way in, the stream, the tabs, the theme.
import { charts as makeCharts } from "./charts.js";
import { offerChanges, startChanges } from "./changes.js";
import { byId, call } from "./dom.js";
import { showActors, showEvents, showHead, showWhy } from "./fleet.js";
import { offerSources, startSamples } from "./samples.js";

const MAX_STEPS = 2000, MAX_EVENTS = 500;
let charts = null, stream = null, status = null, findings = [], utilisation = [], steps = [], events = [];

async function letIn() {
  const code = new URLSearchParams(location.hash.slice(1)).get("code");
  if (code) {
    history.replaceState(null, "", "/");
    await call("POST", "/page/login", { code }).catch(() => {});
  }
  try {
    await call("GET", "/v1/explain");
    start();
  } catch {
    byId("login").hidden = false;
    byId("state").textContent = "This browser is not let in yet.";
    byId("token").focus();
  }
}

byId("login").addEventListener("submit", async (event) => {
  event.preventDefault();
  try {
    await call("POST", "/page/login", { token: byId("token").value.trim() });
    byId("token").value = "";
    start();
  } catch {
    byId("login-problem").textContent = "This is not the token of this run.";
  }
});

function start() {
  byId("login").hidden = true;
  byId("content").hidden = false;
  charts ??= makeCharts();
  stream?.close();
  stream = new EventSource("/page/stream");
  stream.addEventListener("whole", (event) => { steps = []; events = []; take(JSON.parse(event.data)); });
  stream.addEventListener("news", (event) => take(JSON.parse(event.data)));
  stream.addEventListener("error", () => {
    byId("state").textContent = "The run does not answer; the page tries again.";
    if (stream.readyState === EventSource.CLOSED) setTimeout(start, 3000);
  });
}

function take(frame) {
  status = { ...status, ...frame.status };
  findings = frame.findings ?? findings;
  utilisation = frame.utilisation ?? utilisation;
  steps = [...steps, ...frame.steps].slice(-MAX_STEPS);
  events = [...events, ...frame.events].slice(-MAX_EVENTS);
  showHead(status);
  showWhy(findings);
  showActors(status, utilisation);
  showEvents(events);
  offerSources(Object.keys(status.mixture ?? {}));
  if (steps.length) charts.draw(steps, events);
}

const tabs = [...document.querySelectorAll('[role="tab"]')];
function choose(tab) {
  for (const one of tabs) {
    const isChosen = one === tab;
    one.setAttribute("aria-selected", isChosen);
    one.tabIndex = isChosen ? 0 : -1;
    byId(one.getAttribute("aria-controls")).hidden = !isChosen;
  }
  if (tab.id === "tab-fleet") charts?.resize();
  if (tab.id === "tab-changes") offerChanges(status).catch((error) => { byId("change-state").textContent = error.message; });
}
for (const tab of tabs) {
  tab.addEventListener("click", () => choose(tab));
  tab.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const next = tabs[(tabs.indexOf(tab) + step + tabs.length) % tabs.length];
    next.focus();
    choose(next);
  });
}

function theme(name) {
  document.documentElement.dataset.theme = name;
  byId("theme").textContent = name === "dark" ? "Light" : "Dark";
  charts?.recolour();
  if (steps.length) charts?.draw(steps, events);
}
byId("theme").addEventListener("click", () => {
  const next = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  localStorage.setItem("theme", next);
  theme(next);
});
theme(localStorage.getItem("theme") ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light"));

startSamples();
startChanges();
letIn();
