// A figure's legend and switch act on all its charts; its data is a table built when it is opened.
const quote = (value) => {
  let text = String(value ?? "");
  // A spreadsheet computes a text that begins so.
  if (typeof value === "string" && /^\s*[=+\-@]/.test(text) && isNaN(text)) text = `'${text}`;
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
};
const MOST_ROWS = 500;
for (const figure of document.querySelectorAll(".figure")) {
  const nodes = [...figure.querySelectorAll(".chart")];
  const set = (name, value) => {
    for (const node of nodes) charts[node.id].then(({view}) => view.signal(name, value).runAsync()).catch(() => {});
  };
  const buttons = [...figure.querySelectorAll(".legend button")];
  for (const button of buttons) {
    button.addEventListener("click", () => {
      const pressed = button.getAttribute("aria-pressed") !== "true";
      for (const other of buttons) other.setAttribute("aria-pressed", other === button && pressed);
      set("chosen", pressed ? button.dataset.series : "");
    });
  }
  for (const radio of figure.querySelectorAll(".axis input")) {
    radio.addEventListener("change", () => set("axis", radio.value));
  }
  const details = figure.querySelector("details.data");
  details.addEventListener("toggle", () => {
    if (details.querySelector("table")) return;
    const rows = [];
    for (const node of nodes) {
      const spec = JSON.parse(document.getElementById(node.id + "-chart").textContent);
      const panel = spec.description.split(": ").length > 1 ? spec.description.split(": ")[0] : "";
      for (const [part, found] of Object.entries(spec.datasets)) {
        rows.push(...found.map((row) => ({panel, part, ...row})));
      }
    }
    const columns = [...new Set(rows.flatMap(Object.keys))];
    const lines = [columns, ...rows.map((row) => columns.map((column) => row[column]))];
    const csv = lines.map((line) => line.map(quote).join(",")).join("\n") + "\n";
    const link = details.querySelector(".csv");
    link.href = URL.createObjectURL(new Blob([csv], {type: "text/csv"}));
    link.hidden = false;
    const scroll = details.appendChild(document.createElement("div"));
    scroll.className = "scroll";
    scroll.tabIndex = 0;
    const table = scroll.appendChild(document.createElement("table"));
    for (const [number, line] of lines.slice(0, MOST_ROWS + 1).entries()) {
      const row = table.insertRow();
      for (const value of line) {
        const cell = row.appendChild(document.createElement(number ? "td" : "th"));
        if (!number) cell.scope = "col";
        cell.textContent = value ?? "";
      }
    }
    if (lines.length > MOST_ROWS + 1) {
      details.append(`The first ${MOST_ROWS} of ${lines.length - 1} rows; the file holds all.`);
    }
  }, {once: false});
}
