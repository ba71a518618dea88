// Keeps a page live: opens its socket again whenever it is lost, and tells the rest of
// the page by events on the document.
//
//   "live"       The state of the page has changed. The detail is "up" while it has a
//                socket; "down" while the server is away; "off" while the server
//                answers but no socket opens; "full" while the server has no room for
//                a socket, and "crowded" while it has none for this browser. In the
//                last three the client sends requests instead.
//   "unanswered" Something the person did may not have counted: no answer has come.
//   "uncounted"  Something the person did has not counted. The detail is "too fast",
//                "refused" or "not sent".
//   "outdated"   Nothing that the person did waits for an answer, and the detail tells
//                whether the server is of another build than the page. While it is, this
//                comes with every answer of the server.
//   "socket"     The page has made a socket, which is the detail. window.openSockets
//                has all that are not closed.
//
// This script does all the reconnecting, because the client gives up after one attempt
// that fails. The layout switches the client's own heartbeat off. This script must load
// before the client, because it bounds the client's requests and watches its sockets.
// docs/framework.md lists the behaviour of the client that it answers.
(() => {
  if (!document.querySelector("[data-lvt-id]")) return; // nothing on this page is live

  // All in milliseconds.
  const firstWait = 250, longestWait = 5000; // between two attempts
  const sharedWait = 1000;    // the first, after a break that may be everybody's
  const calmWait = 15000;     // the longest while the page works by requests
  const stopWait = 500;       // the longest while the server is stopping
  const heartbeat = 5000;     // between two pings
  const answerWithin = 5000;  // for a ping: a slow network may hold it up for seconds
  const actionWithin = 10000; // for an action, or a ping behind it: the server may wait for Redis
  const offlineWithin = 2000; // for a ping while the browser takes itself for offline, rightly or not
  const late = 1000;          // a timer that fires so late was held up, and the whole page with it
  const socketWithin = 75000; // for a trial: Firefox holds back sockets that failed, for up to 60 s
  const leavingFor = 5000;    // from the start of a navigation until a browser has closed the sockets

  const goingAway = 1001; // the code with which a server that stops closes a socket
  const news = "live-again"; // the key of localStorage by which tabs tell each other

  // What the server says of itself when it answers, and why it would refuse a socket.
  // Whatever else answers is not the server: a login, or a page about maintenance.
  const room = new Map([["ok", ""], ["full", "full"], ["session full", "crowded"]]);

  const client = () => window.liveTemplateClient;
  const now = () => performance.now(); // which no change of the clock moves
  let ours = false;       // the client's first attempt has ended; all others are ours
  let state = "";         // as told
  let since = now();      // when the page was last up, or the server said that it is stopping
  let open = false;       // the socket; the page is up with the first update it brings
  let refused = "";       // why the server would refuse a socket: "full", "crowded"
  let attempting;         // the AbortController of the attempt that is under way
  let connecting = false; // that attempt has the client open a socket, and the client takes no action
  let left = false;       // the page was left; the Back button may bring it back
  let leaving = -Infinity; // when a navigation began last
  let pending = 0;        // actions on their way through the socket
  let held = [];          // buttons that were pressed while the client took no action
  let closedBy;           // the code with which the last socket was closed
  let outdated = false;   // the server is of another build than the page
  let toldOutdated = false;
  let retrying, deadline; // timers

  const tell = (name, detail) => document.dispatchEvent(new CustomEvent(name, { detail }));
  const on = (name, listener) => document.addEventListener(name, listener, true); // the client's events do not bubble

  function become(next) {
    if (state === next) return;
    if (state === "" || state === "up") since = now();
    state = next;
    tell("live", state);
    release();
    if (state === "up") tellOtherTabs();
  }

  function tellOtherTabs() {
    try {
      localStorage.setItem(news, Math.random()); // other tabs hear of a change
    } catch {
      // The browser blocks site data.
    }
  }

  function release() {
    if (state === "down") return;
    const buttons = held;
    held = [];
    for (const { form, button } of buttons) {
      if (form.isConnected && button?.form === form) button.click();
      else tell("uncounted", "not sent"); // an update has taken the form away
    }
  }

  // Full jitter: up to the time that has passed already, within bounds.
  function retry(atLeast = firstWait) {
    clearTimeout(retrying);
    const passed = Math.max(now() - since, atLeast);
    retrying = setTimeout(reconnect, Math.random() * Math.min(passed, served() ? calmWait : longestWait));
  }

  const served = () => ["off", "full", "crowded"].includes(state);

  function reconnect() {
    clearTimeout(retrying);
    if (!document.hidden && !open) attempt();
  }

  // Looks for the server at once. An attempt that is under way may hang: it begins anew.
  function hurry() {
    if (!ours) return;
    if (attempting) attempting.abort("anew");
    else reconnect();
  }

  async function attempt() {
    if (attempting || left) return;
    attempting = new AbortController();
    const { signal } = attempting;
    const says = await ask(attempting);
    refused = room.get(says) ?? "";
    const stopping = says === "stopping", answers = room.has(says);
    if (stopping) since = now(); // the server is not away yet
    if (answers && state === "") become(refused || "off");
    if (answers && !(refused && served()) && (state !== "off" || await socketOpens(signal))) {
      connecting = true;
      client().disconnect(); // otherwise the page that comes counts as the answer to what is pending
      await client().connect().catch(() => {});
    }
    attempting = undefined;
    connecting = false;
    if (left) return;
    if (open) return release();
    if (signal.reason === "anew") return attempt();
    become(answers ? refused || "off" : "down");
    retry(stopping ? stopWait : firstWait);
    release();
  }

  // Returns what the server says of itself, or nothing while it is away. Without this
  // question, a network that drops everything makes the client wait for long. A slow
  // network is given more time the longer the page has been down.
  async function ask(attempt) {
    const within = Math.min(Math.max(now() - since, answerWithin), actionWithin);
    const timer = setTimeout(() => attempt.abort("late"), within);
    try {
      const answer = await fetch("/healthz", { cache: "no-store", signal: attempt.signal });
      return (await answer.text()).trim();
    } catch {
      return "";
    } finally {
      clearTimeout(timer);
    }
  }

  // While live updates are off, a socket is tried without the client, which would draw
  // the page anew and remove what the person was just told or has typed.
  const socketOpens = (signal) => new Promise((resolve) => {
    const socket = new WebSocket(location.origin.replace("http", "ws") + location.pathname + location.search);
    const end = (opened) => {
      clearTimeout(timer);
      if (!opened) offers = offers.length > 0 ? [] : builds;
      resolve(opened);
      socket.close();
    };
    const timer = setTimeout(end, socketWithin, false);
    socket.onopen = () => end(true);
    socket.onerror = () => end(false);
    signal.addEventListener("abort", () => end(false));
  });

  function lost() {
    open = false;
    answered();
    if (pending > 0) unanswered();
    pending = 0;
    if (attempting || left) return;
    become("down");
    // A server that stops closes one socket after the other. Whatever else ends a socket
    // may have ended those of all tabs, which must not come back all at once.
    retry(closedBy === goingAway ? firstWait : sharedWait);
  }

  // When the person leaves the page, the browser closes its sockets, some browsers as
  // soon as the navigation begins. What was sent before that reaches the server.
  function unanswered() {
    if (!left && now() - leaving > leavingFor) tell("unanswered");
  }

  // A socket can be dead without having been closed. The server answers in order, so a
  // ping waits for the actions before it. wsconn turns its answer into an event.
  function ping(within = pending > 0 ? actionWithin : answerWithin) {
    if (client().isReady()) client().send({ action: "__ping__" });
    deadline ??= setTimeout(unanswering, within, now() + within);
  }
  function unanswering(due) {
    deadline = undefined;
    if (now() - due > late) return ping(); // the silence was ours: the answer may wait behind this timer
    closedBy = undefined;
    client().disconnect();
  }
  function answered() {
    deadline = clearTimeout(deadline);
  }
  setInterval(() => { if (open && !document.hidden) ping(); }, heartbeat);

  // Something has happened to the network or to the page.
  const check = () => open ? ping() : hurry();

  on("lvt:connected", () => { open = ours = true; });
  on("lvt:disconnected", lost);
  on("lvt:error", () => {
    answered();
    compare();
  });
  on("lvt:updated", (event) => {
    answered();
    if (event.detail.action) pending = Math.max(pending - 1, 0); // refreshes name none
    if (!open && !ours) {
      ours = true; // the client's first attempt has ended with a request
      return attempt(); // finds out why
    }
    become(open ? "up" : refused || "off");
    compare();
  });
  on("lvt:pending", () => { if (open) pending++; });

  function compare() {
    if (state === "down" || pending > 0 || !outdated && !toldOutdated) return;
    toldOutdated = outdated;
    tell("outdated", outdated);
  }

  on("submit", (event) => {
    if (state !== "down" && !connecting || !event.target.closest("[data-lvt-id]")) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    held.push({ form: event.target, button: event.submitter });
  });

  // The client does not tell when its first attempt and its request have failed.
  const first = setInterval(() => {
    if (!ours && !client()?.isReady()) return;
    clearInterval(first);
    if (ours) return;
    ours = true;
    become("down");
    retry();
  }, firstWait);

  // Without a bound, a request could hang for ever where a network drops everything,
  // or go on much later and open a second socket.
  const request = window.fetch;
  window.fetch = (url, options = {}) => {
    const limit = new AbortController();
    setTimeout(() => limit.abort(), actionWithin);
    const answer = request(url, { signal: limit.signal, ...options });
    if (options.method === "POST") answer.then(posted, posted);
    return answer;
  };

  // The client ignores how its request has ended.
  function posted({ status, headers }) {
    const type = headers?.get("Content-Type") ?? "";
    if (status === 429) tell("uncounted", "too fast");
    else if (status >= 400 && status < 500) tell("uncounted", "refused");
    else if (status === 200 && type.startsWith("application/json") && headers.has("Page-Build")) {
      isOf(headers.get("Page-Build"));
      compare();
    } else { // there is no answer, or it is not the server's
      unanswered();
      hurry(); // finds out whether the server is away
    }
  }

  addEventListener("online", check);
  addEventListener("offline", () => {
    answered(); // a ping that was sent before may have a later deadline
    if (open) ping(offlineWithin);
  });
  addEventListener("storage", (event) => {
    // A hidden tab does not look for the server, but hears of it from another tab.
    if (event.key === news && ours && !open) attempt();
  });
  addEventListener("visibilitychange", () => {
    // Otherwise the client replaces the socket of a tab that was hidden for 3
    // seconds, sound or not, and loses clicks meanwhile. This sets an internal of
    // the client; TestBrowser_HiddenTabKeepsItsSocket guards it.
    if (client()) client().hiddenAt = 0;
    if (!document.hidden) check();
  }, true); // before the client's own listener

  addEventListener("beforeunload", () => { leaving = now(); });

  // A page that is left may be kept for the Back button, and one that is hidden for
  // long may be frozen. Chromium then takes the socket from the page, but leaves it
  // open to the server, where the visitor would stay online.
  function leave() {
    left = true;
    ours ||= Boolean(client()?.isReady()); // the first attempt has just failed, and nobody has looked yet
    clearTimeout(retrying);
    attempting?.abort("anew");
    client()?.disconnect();
  }
  addEventListener("pagehide", leave);
  on("freeze", leave);

  function comeBack() {
    left = open = false;
    if (!ours) return; // the client's first attempt goes on
    become("down");
    if (attempting) attempting.abort("anew"); // it has not ended since the page was left
    else attempt(); // once, even in the background
  }
  addEventListener("pageshow", (event) => { if (event.persisted) comeBack(); });
  on("resume", comeBack);

  // A server tells the build of its pages by the subprotocol of a socket, which is the
  // only part of its answer that a page can see. Of two that the page offers, it takes
  // the first if the page is one of its own. Where live updates are off, the page tries
  // without: something on the way may take them out.
  const { build } = document.documentElement.dataset;
  const builds = [`page.${build}`, "page"];
  let offers = builds;
  const isOf = (other) => { outdated = other !== build; };

  // The panel "On the wire" says which socket is which: they are numbered in the order in
  // which the page made them. Until it is opened, nothing looks at their frames.
  const sockets = window.openSockets = new Set();
  let made = 0;
  window.WebSocket = class extends WebSocket {
    constructor(url) {
      super(url, offers);
      this.number = ++made;
      sockets.add(this);
      this.addEventListener("open", () => {
        this.openedAt = new Date();
        if (this.protocol) isOf(this.protocol.slice("page.".length));
      });
      this.addEventListener("close", ({ code }) => {
        sockets.delete(this);
        closedBy = code;
      });
      tell("socket", this);
    }
  };

  const panel = document.getElementById("wire");
  let asked = false; // for its script

  function loadPanel() {
    if (asked || !panel?.open) return;
    asked = true;
    const script = document.createElement("script");
    script.src = panel.dataset.src;
    script.onerror = () => { asked = false; }; // the server is away: the next "live" tries again
    document.head.append(script);
  }
  panel?.addEventListener("toggle", loadPanel);
  on("live", loadPanel);
  loadPanel(); // it may be open already
})();
