"use strict";
const api = JSON.parse(document.getElementById("document").textContent);
const schemas = api.components.schemas;

// All text goes through text nodes: names of features are data, never markup.
function el(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) node.setAttribute(name, value);
  node.append(...children.filter((child) => child !== null));
  return node;
}

const code = (text) => el("code", {}, text);
const faint = (text) => el("p", { class: "faint" }, text);

// JSON in which whatever fits on a line is on one.
function pretty(value, indent = "") {
  if (value === null || typeof value !== "object") return JSON.stringify(value);
  const deeper = `${indent}  `;
  const parts = Array.isArray(value)
    ? value.map((item) => pretty(item, deeper))
    : Object.entries(value).map(([key, item]) => `${JSON.stringify(key)}: ${pretty(item, deeper)}`);
  const [open, close] = Array.isArray(value) ? "[]" : "{}";
  const line = open + parts.join(", ") + close;
  if (line.length + indent.length <= 76 && !line.includes("\n")) return line;
  return `${open}\n${parts.map((part) => deeper + part).join(",\n")}\n${indent}${close}`;
}

function table(head, rows) {
  const header = el("tr", {}, ...head.map((text) => el("th", { scope: "col" }, text)));
  return el("table", {}, el("thead", {}, header), el("tbody", {}, ...rows));
}

function row(cells, attributes) {
  return el("tr", attributes, ...cells.map((cell) => el("td", {}, cell)));
}

function section(id, title, ...children) {
  return el("section", { id }, el("h2", {}, title), ...children);
}

// Schemas refer to each other; here each is shown whole.
function resolve(schema) {
  if (Array.isArray(schema)) return schema.map(resolve);
  if (schema === null || typeof schema !== "object") return schema;
  if (typeof schema.$ref === "string") return resolve(schemas[schema.$ref.split("/").pop()]);
  return Object.fromEntries(Object.entries(schema).map(([key, value]) => [key, resolve(value)]));
}

function header() {
  const links = [["#try", "Try it"], ["#features", "Features"], ["#paths", "Paths"], ["#errors", "Errors"], ["openapi.json", "openapi.json"]];
  return el("header", {},
    el("h1", {}, api.info.title, el("small", {}, api.info.version)),
    el("nav", {}, ...links.map(([href, text]) => el("a", { href }, text))));
}

function tryIt(paths) {
  const options = (names) => names.map((name) => el("option", { value: name }, name));
  const examples = paths[0][1].post.requestBody.content["application/json"].examples;
  const path = el("select", { id: "path" }, ...options(paths.map(([name]) => name)));
  const form = el("select", { id: "form" }, ...options(Object.keys(examples)));
  const body = el("textarea", { id: "body", spellcheck: "false", "aria-label": "Request body" });
  const send = el("button", {}, "Send");
  const outcome = el("span", { role: "status" });
  const curl = el("pre", { class: "wrap" });
  const answer = el("pre", { id: "answer", class: "wrap", hidden: "" });
  const target = () => new URL(path.value.slice(1), document.baseURI).href;
  const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

  function showCurl() {
    curl.textContent = `curl ${quoted(target())} -H 'Content-Type: application/json' -d ${quoted(body.value)}`;
  }

  function fill() {
    body.value = pretty(examples[form.value].value);
    body.rows = Math.min(body.value.split("\n").length, 24);
    showCurl();
  }

  async function submit() {
    send.disabled = true;
    outcome.className = "";
    outcome.textContent = "Waiting…";
    const started = performance.now();
    try {
      const headers = { "Content-Type": "application/json" };
      const response = await fetch(target(), { method: "POST", headers, body: body.value });
      answer.textContent = await response.text();  // as it came: parsing would round large integers
      outcome.className = response.ok ? "good" : "bad";
      outcome.textContent = `${response.status} in ${(performance.now() - started).toFixed(1)} ms`;
    } catch (error) {
      outcome.className = "bad";
      outcome.textContent = "No answer";
      answer.textContent = String(error);
    }
    answer.hidden = false;
    send.disabled = false;
  }

  form.addEventListener("change", fill);
  path.addEventListener("change", showCurl);
  body.addEventListener("input", showCurl);
  body.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) submit();
  });
  const view = el("form", { class: "card" },
    el("div", { class: "bar" }, el("label", {}, "Path", path), el("label", {}, "Form", form)),
    body,
    el("div", { class: "bar" }, send, faint("or Ctrl+Enter"), outcome),
    answer,
    curl);
  view.addEventListener("submit", (event) => {
    event.preventDefault();
    submit();
  });
  fill();
  return section("try", "Try it", view);
}

function features() {
  const names = api["x-features"];
  if (!names) {
    const width = schemas.row?.maxItems ?? schemas.record?.maxProperties;
    const count = width ? `The model takes ${width} features. ` : "";
    return section("features", "Features", faint(`${count}The names of the features are not known.`));
  }
  const takes = (name) => schemas.record?.properties[name].$ref.endsWith("/value") ? "number, string or null" : "number or null";
  const rows = names.map((name, index) => row([String(index), code(name), takes(name)]));
  return section("features", "Features", table(["position", "name", "takes"], rows));
}

function paths() {
  const all = Object.entries(api.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => detail(path, method, operation)));
  return section("paths", "Paths", ...all);
}

function detail(path, method, operation) {
  const content = operation.requestBody?.content["application/json"];
  const forms = content?.schema.oneOf.map(({ $ref }) => $ref.split("/").pop()) ?? [];
  const responses = Object.entries(operation.responses).map(([status, response]) => {
    const whole = response.$ref ? api.components.responses[status] : response;
    return row([code(status), whole.description, Object.keys(whole.content).join(", ")]);
  });
  return el("details", {},
    el("summary", {}, el("span", { class: "method" }, method.toUpperCase()), code(path), faint(operation.summary)),
    el("div", {},
      forms.length ? faint("The body is JSON in one of these forms:") : null,
      ...forms.map((form) => el("details", {},
        el("summary", {}, code(form)),
        el("div", {}, el("pre", {}, pretty(content.examples[form].value)), faint("JSON schema:"), el("pre", {}, pretty(resolve(schemas[form])))))),
      table(["status", "meaning", "type"], responses)));
}

function errors() {
  const rows = api["x-errors"].map(({ code: name, status, title }) =>
    row([code(name), String(status), title], { id: `errors-${name}` }));
  return section("errors", "Errors",
    faint("An error is application/problem+json. Its detail says what is wrong; its type links to a line here."),
    table(["code", "status", "meaning"], rows));
}

const predictions = Object.entries(api.paths).filter(([, methods]) => methods.post);
document.body.append(el("main", {}, header(), predictions.length ? tryIt(predictions) : null, features(), paths(), errors()));
if (location.hash) location.replace(location.hash);  // its target was not there when the page came
