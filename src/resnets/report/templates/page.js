// The colours of the page are parameters of its charts, so that charts follow the colour scheme.
const colours = () => ["ink", "muted", "line", "card"].map((name) =>
  [name, getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim()]);
const scheme = window.matchMedia("(prefers-color-scheme: dark)");
const charts = {};
for (const node of document.querySelectorAll(".chart")) {
  const spec = JSON.parse(document.getElementById(node.id + "-chart").textContent);
  const values = Object.fromEntries(colours());
  for (const param of spec.params ?? []) {
    if (param.name in values) param.value = values[param.name];
  }
  // `ast`: expressions are interpreted, not compiled; styles are those of the page. So the page's
  // security policy needs no exception for Vega.
  charts[node.id] = vegaEmbed(node, spec, {actions: false, ast: true, defaultStyle: false,
    tooltip: {theme: scheme.matches ? "dark" : "light", disableDefaultStyle: true}});
  charts[node.id].then(({view}) => {
    scheme.addEventListener("change", () => {
      for (const [name, value] of colours()) view.signal(name, value);
      view.runAsync();
    });
    // A mark whose data names an element of the page leads there.
    view.addEventListener("click", (event, item) => {
      if (item?.datum?.target) location.hash = item.datum.target;
    });
  }).catch(() => node.parentElement.classList.add("undrawn"));
}
for (const block of document.querySelectorAll("pre")) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "Copy";
  button.addEventListener("click", async () => {
    const text = block.querySelector("code").textContent;
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(block.querySelector("code"));
      button.textContent = "Selected";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
  block.append(button);
}
