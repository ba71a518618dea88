// A tab without a browser: the real scripts of a live page, on a clock that jumps from
// timer to timer, with a server that does what a test says. The page has only what the
// scripts use. The browser client is its own transport and a few lines of ours;
// TestClient_… guards what they assume.
import { readFileSync } from "node:fs";

// A script runs with the page as its global object.
const script = (file) => {
  const source = readFileSync(new URL(`../../static/${file}`, import.meta.url), "utf8");
  return new Function("page", "exports", `with (page) {${source}\n}`);
};
const scripts = ["presence.js", "status.js", "live.js", "notice.js", "number.js"].map(script);
const transport = script("node_modules/@livetemplate/client/dist/transport/websocket.js");

const settled = () => new Promise(setImmediate); // runs all microtasks

export class Clock {
  now = Date.UTC(2030, 0);
  #timers = []; // a binary heap
  #set = 0;

  set(call, delay = 0, every) {
    const timer = { call, every };
    this.#plan(timer, delay);
    return timer;
  }
  clear(timer) {
    if (timer) timer.call = undefined;
  }
  #plan(timer, delay) {
    Object.assign(timer, { at: this.now + Math.ceil(delay), nth: ++this.#set });
    const timers = this.#timers;
    let i = timers.push(timer) - 1;
    for (let up; i > 0 && sooner(timer, timers[up = (i - 1) >> 1]); i = up) timers[i] = timers[up];
    timers[i] = timer;
  }
  #take() {
    const timers = this.#timers, first = timers[0], last = timers.pop();
    if (first === last) return first;
    let i = 0;
    for (let down; (down = 2 * i + 1) < timers.length; i = down) {
      if (timers[down + 1] && sooner(timers[down + 1], timers[down])) down++;
      if (!sooner(timers[down], last)) break;
      timers[i] = timers[down];
    }
    timers[i] = last;
    return first;
  }

  async pass(milliseconds) {
    const until = this.now + Math.ceil(milliseconds);
    await settled();
    while (this.#timers[0]?.at <= until) {
      const timer = this.#take(), { call } = timer;
      if (!call) continue;
      this.now = Math.max(this.now, timer.at);
      if (timer.every) this.#plan(timer, timer.every);
      call();
      await settled();
    }
    this.now = Math.max(this.now, until);
  }
  // Time passes without anything running.
  jumps(milliseconds) {
    this.now += milliseconds;
  }
}
const sooner = (a, b) => a.at < b.at || a.at === b.at && a.nth < b.nth;

// A generator of random numbers with a seed: mulberry32.
export const random = (seed) => () => {
  seed = (seed + 0x6d2b79f5) | 0;
  let t = Math.imul(seed ^ (seed >>> 15), seed | 1);
  t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
  return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
};

// What a server does. It answers a request with a status, or "hangs", or is "away". A
// socket opens, is refused, "hangs", or is "silent": it opens and brings nothing.
const up = { health: "ok", HEAD: 200, GET: 200, POST: 200, socket: "opens" };
const servers = {
  "up": up,
  "without sockets": { ...up, socket: "refused" },
  "full": { ...up, health: "full", socket: "refused" },
  "session full": { ...up, health: "session full", socket: "refused" },
  "silent": { ...up, socket: "silent" },
  "without subprotocols": { ...up, socket: "plain" },
  "another": { health: "<h1>Please log in</h1>", HEAD: 200, GET: "html", POST: "html", socket: "refused" },
};
for (const all of ["away", "hangs", 502]) {
  servers[all] = { health: all, HEAD: all, GET: all, POST: all, socket: all === "hangs" ? all : "refused" };
}
servers.stopping = { ...servers.away, health: "stopping" };

const noServer = new TypeError("no server");

export class Server {
  counted = [];        // the actions that have reached it
  sockets = new Set(); // those that are open
  answersAfter = 0;    // milliseconds, for what comes through a socket
  tooFast = false;     // whether actions are refused as too fast
  build = "1";         // that of the pages is 1
  #hanging = [];

  constructor(clock) {
    this.clock = clock;
    Object.assign(this, up);
  }

  // Requests that hang go on hanging.
  answersAs(what) {
    Object.assign(this, servers[what]);
  }
  // Requests that hang are answered too.
  becomes(what) {
    this.answersAs(what);
    for (const again of this.#hanging.splice(0)) again();
  }
  cut(code) {
    for (const socket of this.sockets) socket.end(code);
  }

  request(kind, body, { resolve, reject }) {
    const does = this[kind];
    if (does === "hangs") return this.#hanging.push(() => this.request(kind, body, { resolve, reject }));
    if (does === "away") return reject(noServer);
    const status = kind !== "health" && does !== "html" ? does : { stopping: 503, 502: 502 }[does] ?? 200;
    if (kind === "POST" && does === 200) this.counted.push(body.action);
    const json = () => does === "html" ? Promise.reject(new SyntaxError("no JSON")) : Promise.resolve({});
    const headers = new Map([["Content-Type", does === "html" ? "text/html" : "application/json"], ["Page-Build", this.build]]);
    resolve({ status, ok: status === 200, headers, text: async () => `${does}\n`, json });
  }

  meet(socket) {
    if (socket.readyState !== 0) return; // it was closed
    if (this.socket === "hangs") return this.#hanging.push(() => this.meet(socket));
    if (this.socket === "refused" || this.socket === "plain" && socket.protocols.length > 0) return socket.end();
    this.sockets.add(socket);
    socket.protocol = this.build === "1" ? socket.protocols[0] : socket.protocols[1];
    socket.opens();
    socket.silent = this.socket === "silent";
    this.#answer(socket, {});
  }
  receive(socket, { action, data }) {
    if (action !== "__ping__") {
      if (this.tooFast) return this.#answer(socket, { action: "slow-down" });
      this.counted.push(action);
    }
    if (action === "join") socket.joined = data.username;
    if (action === "leave") socket.joined = undefined;
    this.#answer(socket, action === "__ping__" ? { type: "error" } : { action });
  }
  #answer(socket, message) {
    const answer = () => {
      if (!socket.silent && socket.readyState === 1) socket.onmessage?.({ data: JSON.stringify({ joined: socket.joined, ...message }) });
    };
    if (this.answersAfter) this.clock.set(answer, this.answersAfter);
    else queueMicrotask(answer);
  }
}

// The part of the framework's client that live.js uses.
function addClient(tab) {
  const { page } = tab, { document } = page;
  const parts = {};
  transport(page, parts);
  const tell = (name, detail) => document.dispatchEvent(new CustomEvent(name, { detail }));
  let waits = false; // whether a form waits for its answer
  const take = (update) => {
    if (update.type === "error") return tell("lvt:error");
    tab.joined = update.joined;
    if (waits) tab.answered++;
    waits = false;
    tell("lvt:updated", { action: update.action });
  };
  const logger = { warn() {}, error() {} };
  const sockets = new parts.WebSocketManager({
    logger,
    options: { liveUrl: page.location.pathname },
    onConnected: () => tell("lvt:connected"),
    onDisconnected: () => tell("lvt:disconnected"),
    onMessage: take,
  });
  const submitted = (event) => {
    event.preventDefault();
    waits = true;
    const { name, username } = event.submitter;
    const message = { action: name, data: { username } };
    tell("lvt:pending", message);
    client.send(message);
  };
  const seen = () => {
    if (document.hidden) client.hiddenAt = client.isReady() ? page.Date.now() : 0;
    else if (client.hiddenAt && page.Date.now() - client.hiddenAt >= 3000) page.setTimeout(() => sockets.connect(), 500);
  };
  const client = page.liveTemplateClient = {
    useHTTP: false,
    hiddenAt: 0,
    isReady: () => client.useHTTP || sockets.getReadyState() === 1,
    async connect() {
      sockets.disconnect();
      const { usingWebSocket, initialState } = await sockets.connect();
      client.useHTTP = !usingWebSocket;
      if (initialState) take(initialState);
      document.addEventListener("submit", submitted);
      document.addEventListener("visibilitychange", seen);
    },
    disconnect() {
      sockets.disconnect();
      waits = false;
      Object.assign(client, { useHTTP: false, hiddenAt: 0 });
      document.removeEventListener("visibilitychange", seen);
    },
    send(message) {
      if (client.useHTTP) page.fetch(page.location.pathname, { method: "POST", body: message }).catch(() => {});
      else sockets.send(JSON.stringify(message));
    },
  };
  client.connect();
}

const addDocument = (page, tab) => {
  // The browser translates what the page shows.
  const shown = { "[data-lvt-id]": () => ({}), "article mark": () => ({ textContent: "Ein Mensch ist hier" }) };
  shown["article form strong"] = () => tab.joined && { textContent: `${tab.joined}, übersetzt` };
  tab.lines = { connection: { textContent: "" }, notice: { textContent: "" }, announced: { textContent: "" } };
  shown[".figure"] = () => ({ textContent: tab.figure });
  tab.button = { disabled: false, setAttribute() {}, removeAttribute() {} };
  page.document = Object.assign(new EventTarget(), {
    hidden: false,
    prerendering: tab.prerendering,
    title: "Presence",
    documentElement: { dataset: { build: "1", scripts: "run" }, toggleAttribute() {} },
    querySelector: (query) => shown[query]?.() ?? null,
    querySelectorAll: () => [tab.button],
    getElementById: (id) => tab.lines[id] ?? null,
  });
};

export class Tab {
  states = ["connecting"]; // as live.js tells them
  told = [];            // what it reports about presses: "unanswered", or why one is uncounted
  did = [];             // the requests, sockets and messages of the page: { what, at }
  reloads = 0;          // forms that the browser has sent
  answered = 0;         // forms that the client considers answered: any update will do
  joined = undefined;   // as whom, on the page
  figure = "";          // what the page shows
  outdated = [];        // what live.js tells of the build of the server
  clockIsWrongBy = 0;   // milliseconds

  constructor(server, { luck = () => 0.5, storage = new Map(), prerendering = false } = {}) {
    const tab = this, { clock } = server;
    Object.assign(this, { server, prerendering });
    const page = this.page = new EventTarget();
    Object.assign(page, {
      window: page, top: page, name: "", location: new URL("http://here/page"), history: {}, CloseEvent: Event,
      setTimeout: (call, delay, ...args) => clock.set(() => call(...args), delay),
      setInterval: (call, delay) => clock.set(call, delay, delay),
      clearTimeout: clock.clear, clearInterval: clock.clear,
      Date: Object.assign(function () {}, { now: () => clock.now + tab.clockIsWrongBy }),
      performance: { now: () => clock.now },
      Math: Object.assign(Object.create(Math), { random: luck }),
      AbortSignal: {}, // as in browsers that have no AbortSignal.timeout
      matchMedia: () => ({ matches: true }),
      fetch: (url, { method = "GET", signal, body } = {}) => new Promise((resolve, reject) => {
        const kind = url === "/healthz" ? "health" : method;
        tab.note(kind);
        if (signal?.aborted) reject(signal.reason);
        signal?.addEventListener("abort", () => reject(signal.reason));
        server.request(kind, body, { resolve, reject });
      }),
      WebSocket: class extends EventTarget {
        static OPEN = 1;
        static CLOSED = 3;
        readyState = 0;
        constructor(_, protocols) {
          super();
          this.protocols = protocols;
          tab.note("socket");
          queueMicrotask(() => server.meet(this));
        }
        opens() {
          this.readyState = 1;
          this.dispatchEvent(new Event("open"));
          this.onopen?.();
        }
        end(code = 1006) { // by the server or the network
          const before = this.readyState;
          this.close();
          this.dispatchEvent(Object.assign(new Event("close"), { code }));
          if (before === 0) this.onerror?.();
          this.onclose?.();
        }
        close() {
          this.readyState = 3;
          server.sockets.delete(this);
        }
        send(message) {
          const { action, data } = JSON.parse(message);
          tab.note(action);
          server.receive(this, { action, data });
        }
      },
    });
    const kept = () => {
      if (storage === "blocked") throw new DOMException("blocked", "SecurityError");
      return {
        getItem: (key) => storage.get(key) ?? null,
        removeItem: (key) => storage.delete(key),
        setItem: (key, value) => { storage.set(key, String(value)); },
      };
    };
    Object.defineProperties(page, { localStorage: { get: kept }, sessionStorage: { get: kept } });
    addDocument(page, this);
    page.document.addEventListener("live", ({ detail }) => { if (detail !== this.state) this.states.push(detail); });
    page.document.addEventListener("uncounted", ({ detail }) => this.told.push(detail));
    page.document.addEventListener("outdated", ({ detail }) => this.outdated.push(detail));
    page.document.addEventListener("unanswered", () => this.told.push("unanswered"));
    for (const run of scripts) run(page);
    page.dispatchEvent(new Event("DOMContentLoaded"));
    addClient(this);
  }

  note(what) {
    this.did.push({ what, at: this.server.clock.now });
  }
  get state() {
    return this.states.at(-1);
  }
  get says() {
    return this.lines.connection.textContent;
  }

  // Dispatches an event on the window, then on the document.
  happens(name, detail = {}) {
    for (const target of [this.page, this.page.document]) target.dispatchEvent(Object.assign(new Event(name), detail));
  }
  hide() {
    this.page.document.hidden = true;
    this.happens("visibilitychange");
  }
  show() {
    this.page.document.hidden = false;
    this.happens("visibilitychange");
  }
  leave() {
    this.happens("pagehide");
  }
  comeBack() {
    this.happens("pageshow", { persisted: true });
  }
  hearsOfAnother(key = "live-again") {
    this.happens("storage", { key });
  }

  press(name = "increment", username = "") {
    const form = { isConnected: true, closest: () => form, elements: { username: { value: username } } };
    const button = { form, name, username, click: () => submit(button) };
    const submit = (submitter) => {
      const event = Object.assign(new Event("submit", { cancelable: true }), { submitter });
      Object.defineProperty(event, "target", { value: form });
      this.page.document.dispatchEvent(event);
      if (!event.defaultPrevented) this.reloads++;
    };
    button.click();
    return form;
  }
}
