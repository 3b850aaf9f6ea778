"use strict";
(() => {
  const root = document.documentElement;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const button = document.querySelector("button.theme");
  const charts = JSON.parse(document.getElementById("charts").textContent);
  const drawn = new Map();
  let choice = "auto";
  try { choice = localStorage.getItem("sglang-blend-theme") || "auto"; } catch (e) { /* a file without storage */ }

  const palettes = {
    light: {
      ink: "#1b1d21", soft: "#5d636d", rule: "#d5d7dc", grid: "#ecedf0", card: "#ffffff", accent: "#2563c9", quiet: "#b9c4d6",
      category: ["#2563c9", "#e07b1f", "#1f8a5b", "#7a4fc0"], heatmap: ["#dbe6f8", "#5b8fdd", "#12356f"],
      diverging: ["#b8560b", "#f2b06b", "#d9d9d9", "#86b3ef", "#1c4fa3"],
    },
    dark: {
      ink: "#e7e9ec", soft: "#9aa1ab", rule: "#3a3f46", grid: "#272b30", card: "#1a1d20", accent: "#7fb0ff", quiet: "#47505e",
      category: ["#6ea4ff", "#f5a04f", "#58c48f", "#b493f0"], heatmap: ["#22344f", "#4b83d6", "#cfe1ff"],
      diverging: ["#ffab57", "#b06a25", "#5a5d63", "#3f70bd", "#8dbaff"],
    },
  };

  const config = (p) => ({
    background: "transparent",
    font: getComputedStyle(document.body).fontFamily,
    view: { stroke: null },
    axis: {
      labelColor: p.soft, titleColor: p.soft, gridColor: p.grid, domainColor: p.rule, tickColor: p.rule,
      labelFontSize: 11.5, titleFontSize: 11.5, titleFontWeight: 400, labelPadding: 5, titlePadding: 8, tickSize: 4,
    },
    axisY: { domain: false, ticks: false, minExtent: 40 },
    legend: {
      labelColor: p.ink, titleColor: p.soft, labelFontSize: 12, titleFontSize: 11.5, titleFontWeight: 400, symbolType: "square",
      symbolSize: 90, symbolStrokeWidth: 2.5, columnPadding: 16, gradientLength: 120, gradientThickness: 10,
    },
    range: { ordinal: [p.accent, p.quiet], category: p.category, heatmap: p.heatmap, diverging: p.diverging },
    mark: { color: p.category[0] },
    style: {
      tail: { color: p.soft, opacity: 0.1 },
      limit: { color: p.soft },
      "limit-label": { color: p.soft, fontSize: 11.5 },
      restart: { color: p.ink, opacity: 0.6 },
      hover: { color: p.ink, strokeWidth: 1 },
      prefix: { stroke: p.card, strokeWidth: 0.4 },
    },
  });

  const rowsOf = (columns) => {
    const names = Object.keys(columns);
    return columns[names[0]].map((_, i) => Object.fromEntries(names.map((name) => [name, columns[name][i]])));
  };

  const theme = () => (choice === "auto" ? (dark.matches ? "dark" : "light") : choice);

  // One after the other, so that the first is there soon.
  let last = Promise.resolve();
  const draw = (index) => {
    if (!drawn.has(index)) drawn.set(index, null);
    last = last.then(() => drawNow(index));
  };

  const drawNow = async (index) => {
    const { spec, columns, height } = charts[index];
    const place = document.getElementById(`chart-${index}`);
    const shown = { ...spec, height, datasets: { ...spec.datasets, table: rowsOf(columns) } };
    shown.autosize = { type: "fit-x", contains: "padding" };
    const before = drawn.get(index);
    const chosen = theme();
    const made = await vegaEmbed(place, shown, { actions: false, renderer: "canvas", config: config(palettes[chosen]) });
    drawn.set(index, made);
    if (before) before.finalize();
    place.dataset.drawn = chosen;
  };

  const apply = () => {
    root.dataset.theme = theme();
    button.textContent = { auto: "Theme: auto", light: "Theme: light", dark: "Theme: dark" }[choice];
    for (const index of drawn.keys()) draw(index);
  };

  button.addEventListener("click", () => {
    choice = { auto: "light", light: "dark", dark: "auto" }[choice] || "auto";
    try { localStorage.setItem("sglang-blend-theme", choice); } catch (e) { /* as above */ }
    apply();
  });
  dark.addEventListener("change", apply);
  apply();

  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      seen.unobserve(entry.target);
      draw(Number(entry.target.id.slice("chart-".length)));
    }
  }, { rootMargin: "600px" });
  charts.forEach((_, index) => seen.observe(document.getElementById(`chart-${index}`)));
  addEventListener("beforeprint", () => charts.forEach((_, index) => drawn.has(index) || draw(index)));
})();
