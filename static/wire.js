// The panel "On the wire": what passes through the sockets of this tab. A frame names the
// method of the controller behind it, and the code of that lights up in the listing. While
// the panel is closed, this script only keeps the last five lines, to open with.
//
// Sizes are those of payloads, in bytes of UTF-8: sockets are not compressed. Pings of the
// server do not appear, because browsers answer them by themselves. This script must load
// before the client, which makes the sockets.
(() => {
  const panel = document.getElementById("wire");
  if (!panel) return;
  const kept = 5, most = 50; // lines
  const litFor = 1500; // milliseconds
  const heartbeats = ['{"action":"__ping__"}', '{"type":"error","code":"pong"}']; // of live.js

  const part = (selector) => panel.querySelector(selector);
  const list = part("ol");
  const utf8 = new TextEncoder();
  const page = performance.getEntriesByType("navigation")[0];
  const last = [];             // the lines to open with
  const open = new Map();      // the open sockets, by number, and when each opened
  const methods = new Map();   // those in the listings, by name in lower case
  const published = new Set(); // the names of those that run in other tabs
  let sockets = 0;             // so far
  let frames = 0, bytes = 0;   // received, since the first line

  document.addEventListener("socket", ({ detail: socket }) => {
    const number = ++sockets, send = socket.send, unanswered = [];
    let mounted = false; // the first frame brings what Mount has read

    function pass(line) {
      Object.assign(line, { number, at: performance.now() });
      last.push(line);
      if (last.length > kept) last.shift();
      if (panel.open) light(show(line));
      return line;
    }

    socket.send = (text) => {
      send.call(socket, text);
      if (!heartbeats.includes(text)) unanswered.push(pass({ what: "sent", text, action: actionIn(text) }));
    };
    socket.addEventListener("message", ({ data: text }) => {
      if (heartbeats.includes(text)) return;
      const action = actionIn(text);
      // The server answers in order. Two names stand for that of any action.
      const nth = action ? unanswered.findIndex((sent) => [sent.action, "slow-down", "refused"].includes(action)) : -1;
      const [press] = unanswered.splice(0, nth + 1).slice(-1);
      pass({ what: "received", text, press, action: mounted ? action : "Mount" });
      mounted = true;
    });
    socket.addEventListener("open", () => {
      open.set(number, performance.now());
      pass({ what: "opened" });
    });
    socket.addEventListener("close", ({ code }) => {
      pass({ what: open.delete(number) ? "closed" : "did not open", code });
    });
  });

  const actionIn = (text) => text.match(/"action":"([^"]*)"/)?.[1] ?? "";

  // Finds the methods in the listings. A method ends at the first brace that is not indented.
  function findMethods() {
    let method;
    for (const line of document.querySelectorAll(".listing [data-line]")) {
      const code = line.textContent.trimEnd();
      const name = code.match(/^func \([^)]*\) ([A-Z]\w*)\(/)?.[1];
      if (name) {
        methods.set(name.toLowerCase(), method = { name, lines: [] });
        line.id ||= name; // for the links to it
      }
      method?.lines.push(line);
      if (/^(func .*)?}$/.test(code)) method = undefined;
      const peer = code.match(/\.Publish\w*\(.*"(\w+)"/)?.[1];
      if (peer) published.add(peer);
    }
  }

  // Returns the method behind a frame, if the page lists it.
  function methodOf(action) {
    if (!action && published.size === 1) [action] = published; // a refresh does not tell its name
    return methods.get(action.replace(/[-_]/g, "").toLowerCase()); // as the framework does
  }

  function light(method, on = true) {
    if (!method) return;
    clearTimeout(method.lit);
    for (const line of method.lines) line.classList.toggle("lit", on);
    if (on) method.lit = setTimeout(light, litFor, method, false);
  }

  // Adds a line, and returns its method.
  function show({ what, number, at, code, text, action, press }) {
    const line = element("li", element("b", what));
    const add = (name, ...content) => line.append(" ", element(name, ...content));
    line.className = what;
    const method = text && methodOf(action), size = text && utf8.encode(text).length;
    if (method) {
      add("a", method.name);
      Object.assign(line.lastChild, { href: `#${method.lines[0].id}`, onclick: () => light(method) });
    }
    if (press) add("span", `answered in ${Math.round(at - press.at)} ms`);
    if (code) add("span", `code ${code}`);
    if (text) add("span", count(size, "byte"));
    add("span", time(at));
    add("span", `socket ${number}`);
    if (text) add("code", ...marked(text));
    list.prepend(line);
    if (list.children.length > most) list.lastChild.remove();
    if (what === "received") {
      frames++;
      bytes += size;
    }
    showTotals();
    return method;
  }

  // Splits the JSON of a frame, and marks every text in its tree except the fixed parts of
  // a template ("s") and the description of a list ("m").
  function marked(json) {
    const parts = json.match(/"(?:[^"\\]|\\.)*"|[^"]+/g) ?? []; // texts, and what is between them
    const within = []; // the keys of the open objects and lists
    let key = "";
    return parts.map((part, i) => {
      if (part[0] !== '"') {
        for (const sign of part) {
          if ("{[".includes(sign)) within.push(key);
          else if ("}]".includes(sign)) key = within.pop();
        }
        return part;
      }
      if (parts[i + 1]?.[0] === ":") {
        key = part;
        return part;
      }
      if (within[1] !== '"tree"' || within.includes('"s"') || within.includes('"m"')) return part;
      return element("mark", part);
    });
  }

  function showTotals() {
    let totals = `Received ${count(frames, "frame")}, ${count(bytes, "byte")}.`;
    let details = [...open].map(([number, at]) => `Socket ${number} has been open since ${time(at)}. `).join("") || "No socket is open. ";
    if (page.encodedBodySize) { // Safari before 16.4 does not tell
      const compressed = page.encodedBodySize < page.decodedBodySize ? "compressed " : "";
      totals += ` Whole pages would have taken ${count(frames * page.encodedBodySize, "byte")}.`;
      details += `A whole page is ${count(page.encodedBodySize, "byte")} of ${compressed}HTML.`;
    }
    part(".totals").textContent = totals;
    part(".details").textContent = details;
  }

  function element(name, ...content) {
    const made = document.createElement(name);
    made.append(...content);
    return made;
  }

  const count = (n, unit) => `${n.toLocaleString("en")} ${unit}${n === 1 ? "" : "s"}`;

  // Returns the time of day of a timestamp, which does not move when the clock is set.
  function time(at) {
    const date = new Date(Date.now() - performance.now() + at);
    return `${date.toTimeString().slice(0, 8)}.${String(date.getMilliseconds()).padStart(3, "0")}`;
  }

  function toggle() {
    part("section").hidden = !panel.open;
    for (const method of methods.values()) light(method, false);
    if (!panel.open) return;
    findMethods();
    frames = bytes = 0;
    list.replaceChildren();
    showTotals();
    for (const line of last) show(line);
  }
  panel.addEventListener("toggle", toggle);
  toggle(); // it may be open already
})();
