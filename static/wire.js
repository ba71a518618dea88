// Fills the panel "On the wire": the frames of this tab while the panel is open, what
// they add up to, and which sockets they pass through. panel.js loads it when the
// panel is first opened. While the panel is closed, nothing is recorded.
//
// Sizes are those of payloads, in bytes of UTF-8: sockets are not compressed. Pings of
// the server do not appear, because browsers answer them by themselves.
(() => {
  const most = 50; // lines
  const heartbeats = ['{"action":"__ping__"}', '{"type":"error","code":"pong"}']; // of live.js

  const panel = document.getElementById("wire");
  const part = (selector) => panel.querySelector(selector);
  const list = part("ol");
  const utf8 = new TextEncoder();
  const page = performance.getEntriesByType("navigation")[0];

  let recording; // an AbortController, while the panel is open
  let totals;

  function start() {
    recording = new AbortController();
    totals = { received: { frames: 0, bytes: 0 }, sent: { frames: 0, bytes: 0 }, heartbeats: { frames: 0, bytes: 0 } };
    list.replaceChildren();
    for (const socket of window.openSockets) watch(socket);
    document.addEventListener("socket", (event) => watch(event.detail), { signal: recording.signal });
    showSockets();
    showTotals();
  }

  function stop() {
    recording?.abort();
    for (const socket of window.openSockets) delete socket.send;
  }

  // A watched socket has its own send, which hides the browser's.
  function watch(socket) {
    const { signal } = recording;
    const send = WebSocket.prototype.send;
    socket.send = (data) => {
      send.call(socket, data);
      record(socket, "sent", data);
    };
    socket.addEventListener("message", ({ data }) => record(socket, "received", data), { signal });
    socket.addEventListener("open", () => {
      add("opened", now(), `socket ${socket.number}`);
      showSockets();
    }, { signal });
    socket.addEventListener("close", ({ code }) => {
      add(socket.openedAt ? "closed" : "did not open", now(), `code ${code}`, `socket ${socket.number}`);
      showSockets();
    }, { signal });
  }

  function record(socket, direction, text) {
    const bytes = utf8.encode(text).length;
    const isHeartbeat = heartbeats.includes(text);
    const total = totals[isHeartbeat ? "heartbeats" : direction];
    total.frames++;
    total.bytes += bytes;
    showTotals();
    if (isHeartbeat) return;
    const code = element("code", ...direction === "received" ? marked(text) : [text]);
    add(direction, now(), `${number(bytes)} bytes`, `socket ${socket.number}`, code);
  }

  // Adds a line. A text becomes a text node, and never markup.
  function add(...cells) {
    const line = element("li");
    line.className = cells[0]; // what has happened
    for (const cell of cells) line.append(typeof cell === "string" ? element("span", cell) : cell, " ");
    list.prepend(line);
    if (list.children.length > most) list.lastChild.remove();
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

  function showSockets() {
    const open = [...window.openSockets].filter((socket) => socket.readyState === WebSocket.OPEN);
    const names = open.map((socket) => `socket ${socket.number}, opened ${time(socket.openedAt)}`);
    part(".sockets").textContent = open.length > 0 ? `Open now: ${names.join("; ")}.` : "No socket is open.";
  }

  function showTotals() {
    const { received, sent, heartbeats } = totals;
    row(".received", received.frames, received.bytes);
    row(".sent", sent.frames, sent.bytes);
    if (page.encodedBodySize) row(".pages", received.frames, received.frames * page.encodedBodySize);
    part(".heartbeats").textContent = `Heartbeats, not listed: ${number(heartbeats.frames)} frames, ${number(heartbeats.bytes)} bytes.`;
  }

  function row(selector, frames, bytes) {
    const cells = part(selector).querySelectorAll("td");
    cells[0].textContent = number(frames);
    cells[1].textContent = number(bytes);
  }

  function element(name, ...content) {
    const made = document.createElement(name);
    made.append(...content);
    return made;
  }

  const number = (n) => n.toLocaleString("en");
  const time = (date) => date.toTimeString().slice(0, 8);
  const now = () => {
    const date = new Date();
    return `${time(date)}.${String(date.getMilliseconds()).padStart(3, "0")}`;
  };

  if (!page.encodedBodySize) part(".pages").remove(); // Safari before 16.4 does not tell
  else part(".page").textContent = `As whole pages: had each frame received been this page as it was delivered, ` +
    `${number(page.encodedBodySize)} bytes of HTML, ${page.encodedBodySize < page.decodedBodySize ? "" : "not "}compressed. ` +
    `No size includes headers.`;
  part("[hidden]").hidden = false;

  panel.addEventListener("toggle", () => {
    stop();
    if (panel.open) start();
  });
  if (panel.open) start();
})();
