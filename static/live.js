// Keeps a page live: reopens its socket whenever it is lost, and tells the other scripts
// by events on the document.
//
//   "live"       The page has entered a state, which is the detail: "up", "down", "off",
//                "full" or "crowded".
//   "unanswered" Something the person did may not have counted: it was not answered.
//   "uncounted"  Something the person did has not counted. The detail is "too fast",
//                "refused" or "not sent".
//   "outdated"   Nothing the person did waits for an answer, and the detail tells whether
//                the server is of another build than the page. While it is, this comes
//                with every answer of the server.
//   "socket"     The page has made a socket, which is the detail.
//
// This script does all the reconnecting, because the client gives up after one failed
// attempt. The layout switches off the client's own heartbeat. This script must load
// before the client, because it limits the time of the client's requests and watches its
// sockets. docs/framework.md lists the behaviour of the client that it works around.
(() => {
  if (!document.querySelector("[data-lvt-id]")) return; // nothing on this page is live

  // The states of a page. docs/connection.md tells what it shows in each, and what each leads
  // to. The longest wait is that between two attempts to find the server.
  const states = {
    connecting: {},                                      // the client makes its first attempt
    up:         {},                                      // a socket is open and has brought an update
    down:       { longestWait: 5000 },                   // no socket, and the server does not answer
    off:        { longestWait: 15000, requests: true },  // the server answers, but no socket opens
    full:       { longestWait: 15000, requests: true },  // the server has no room for a socket
    crowded:    { longestWait: 15000, requests: true },  // the server has no room for a socket of this browser
    left:       {},                                      // the Back button may bring the page back
  };

  // All in milliseconds.
  const firstWait = 250;      // the longest before the first attempt
  const sharedWait = 1000;    // the same if all pages may have lost their sockets
  const stopWait = 500;       // the longest while the server is stopping
  const heartbeat = 5000;     // between two pings
  const answerWithin = 5000;  // for a ping: a slow network may delay it for seconds
  const actionWithin = 10000; // for an action, or a ping behind it: the server may wait for Redis
  const offlineWithin = 2000; // for a ping while the browser reports that it is offline, rightly or not
  const late = 1000;          // a timer that fires so late was delayed, and the whole page with it
  const socketWithin = 75000; // for a trial socket: Firefox delays sockets after failures, for up to 60 s
  const leavingFor = 5000;    // from the start of a navigation until a browser has closed the sockets

  const goingAway = 1001; // the close code of a server that stops
  const news = "live-again"; // the key in localStorage by which tabs tell each other

  // What the server says at /healthz, and the state in which it has no room for a socket.
  // Anything else that answers is not the server: a login, or a maintenance page.
  const room = new Map([["ok", ""], ["full", "full"], ["session full", "crowded"]]);

  const client = () => window.liveTemplateClient;
  const now = () => performance.now(); // which no change of the clock moves
  let state = "connecting";
  let link = "client's";  // the client makes its first attempt; later "closed", "opening" or "open"
  let since = now();      // when the page was last up, came back, or the server said that it is stopping
  let refused = "";       // "full" or "crowded" if the server would refuse a socket
  let attempting;         // the AbortController of the attempt that is under way
  let leaving = -Infinity; // when a navigation last began
  let pending = [];       // names of the actions that the person sent through the socket
  let held = [];          // buttons that were pressed while the client takes no action
  let closedBy;           // the close code of the last socket
  let outdated = false;   // the server is of another build than the page
  let toldOutdated = false;
  let retrying, deadline; // timers

  const tell = (name, detail) => document.dispatchEvent(new CustomEvent(name, { detail }));
  const on = (name, listener) => document.addEventListener(name, listener, true); // the client's events do not bubble

  // All transitions are made here. Only comeBack ends "left".
  function become(next) {
    if (state === next || state === "left" && next !== "down") return;
    if (!states[state].longestWait) since = now();
    state = next;
    if (state === "left") return;
    tell("live", state);
    release();
    if (state === "up") tellOtherTabs();
  }

  function tellOtherTabs() {
    try {
      localStorage.setItem(news, Math.random()); // tabs are only told of a new value
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

  // Full jitter: the wait is random, and at most as long as the page has been down.
  function retry(atLeast = firstWait) {
    clearTimeout(retrying);
    const passed = Math.max(now() - since, atLeast);
    retrying = setTimeout(reconnect, Math.random() * Math.min(passed, states[state].longestWait));
  }

  function reconnect() {
    clearTimeout(retrying);
    if (!document.hidden && link === "closed") attempt();
  }

  // Looks for the server at once. An attempt that is under way may hang, and starts again.
  function hurry() {
    if (attempting) attempting.abort("again");
    else reconnect();
  }

  async function attempt() {
    if (attempting || state === "left") return;
    attempting = new AbortController();
    const { signal } = attempting;
    const says = await ask(attempting);
    refused = room.get(says) ?? "";
    const stopping = says === "stopping", answers = room.has(says);
    if (stopping) since = now(); // the server is not away yet
    if (answers && state === "connecting") become(refused || "off");
    if (answers && !(refused && states[state].requests) && (state !== "off" || await socketOpens(signal))) {
      client().disconnect(); // otherwise the page that comes counts as the answer to what is pending
      link = "opening";
      await client().connect().catch(() => {});
    }
    attempting = undefined;
    if (link === "opening") link = "closed";
    if (state === "left") return client().disconnect(); // a request of the client was still under way
    if (link === "open") return release();
    if (signal.reason === "again") return attempt();
    become(answers ? refused || "off" : "down");
    retry(stopping ? stopWait : firstWait);
    release();
  }

  // Returns what the server says at /healthz, or nothing while it is away. Without this
  // probe, the client would wait long in a network that drops everything. A slow network
  // gets more time the longer the page has been down.
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

  // While live updates are off, a socket is tried without the client, which would render
  // the page again and remove what the person was just told or has typed.
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
    link = "closed";
    answered();
    if (pending.length > 0) unanswered();
    pending = [];
    if (attempting || state === "left") return;
    become("down");
    // A server that stops closes one socket after the other. Anything else may have ended
    // the sockets of all tabs, which must not all come back at once.
    retry(closedBy === goingAway ? firstWait : sharedWait);
  }

  // When the person leaves the page, the browser closes its sockets, some browsers as
  // soon as the navigation begins. What was sent before that reaches the server.
  function unanswered() {
    if (state !== "left" && now() - leaving > leavingFor) tell("unanswered");
  }

  // A socket can be dead without having been closed. The server answers in order, so a
  // ping waits for the actions before it. wsconn turns the pong into an event.
  function ping(within = pending.length > 0 ? actionWithin : answerWithin) {
    if (client().isReady()) client().send({ action: "__ping__" });
    deadline ??= setTimeout(unanswering, within, now() + within);
  }
  function unanswering(due) {
    deadline = undefined;
    if (now() - due > late) return ping(); // the page was paused: the pong may wait behind this timer
    closedBy = undefined;
    client().disconnect();
  }
  function answered() {
    deadline = clearTimeout(deadline);
  }
  setInterval(() => { if (link === "open" && !document.hidden) ping(); }, heartbeat);

  // Something has happened to the network or to the page.
  const check = () => link === "open" ? ping() : hurry();

  on("lvt:connected", () => { link = "open"; });
  on("lvt:disconnected", lost);
  on("lvt:error", () => {
    answered();
    compare();
  });
  on("lvt:updated", ({ detail: { action } }) => {
    answered();
    // The server answers in order. A refresh names no action, and the page sends some by itself.
    if ([pending[0], "slow-down", "refused"].includes(action)) pending.shift();
    if (link === "client's") {
      link = "closed"; // the client's first attempt has ended with a request
      return attempt(); // finds out why
    }
    become(link === "open" ? "up" : refused || "off");
    compare();
  });
  on("lvt:pending", ({ detail: { action } }) => { if (link === "open") pending.push(action); });

  function compare() {
    if (state === "down" || pending.length > 0 || !outdated && !toldOutdated) return;
    toldOutdated = outdated;
    tell("outdated", outdated);
  }

  on("submit", (event) => {
    if (state !== "down" && link !== "opening" || !event.target.closest("[data-lvt-id]")) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    held.push({ form: event.target, button: event.submitter });
  });

  // The client does not tell when its first attempt and its request have failed.
  const first = setInterval(() => {
    if (link === "client's" && !client()?.isReady()) return;
    clearInterval(first);
    if (link !== "client's") return;
    link = "closed";
    become("down");
    retry();
  }, firstWait);

  // Without a time limit, a request could hang for ever in a network that drops everything,
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
      hurry(); // is the server away?
    }
  }

  addEventListener("online", check);
  addEventListener("offline", () => {
    answered(); // a ping that was sent before may have a later deadline
    if (link === "open") ping(offlineWithin);
  });
  addEventListener("storage", (event) => {
    // A hidden tab does not look for the server, but learns from another tab that it is back.
    if (event.key === news && link === "closed") attempt();
  });
  addEventListener("visibilitychange", () => {
    // Otherwise the client replaces the socket of a tab that was hidden for 3 seconds,
    // and loses clicks meanwhile. This sets an internal of the client;
    // TestBrowser_HiddenTabKeepsItsSocket guards it.
    if (client()) client().hiddenAt = 0;
    if (!document.hidden) check();
  }, true); // before the client's own listener

  addEventListener("beforeunload", () => { leaving = now(); });

  // A page that is left may be kept for the Back button, and one that is hidden for
  // long may be frozen. Chromium then takes the socket from the page, but leaves it
  // open to the server, where the visitor would stay online. The client's first attempt
  // goes on when the page comes back.
  function leave() {
    if (link !== "client's" || client()?.isReady()) {
      link = "closed";
      become("left");
    }
    clearTimeout(retrying);
    attempting?.abort("again");
    client()?.disconnect();
  }
  addEventListener("pagehide", leave);
  on("freeze", leave);

  function comeBack() {
    if (state !== "left") return;
    become("down");
    if (attempting) attempting.abort("again"); // it has not ended since the page was left
    else attempt(); // once, even in the background
  }
  addEventListener("pageshow", (event) => { if (event.persisted) comeBack(); });
  on("resume", comeBack);

  // The server tells the build of its pages by the subprotocol of a socket, the only part
  // of its answer that a page can see. Of the two that the page offers, it picks the first
  // if the page is one of its own. Where live updates are off, the page also tries without:
  // something on the way may remove them.
  const { build } = document.documentElement.dataset;
  const builds = [`page.${build}`, "page"];
  let offers = builds;
  const isOf = (other) => { outdated = other !== build; };

  window.WebSocket = class extends WebSocket {
    constructor(url) {
      super(url, offers);
      this.addEventListener("open", () => { if (this.protocol) isOf(this.protocol.slice("page.".length)); });
      this.addEventListener("close", ({ code }) => { closedBy = code; });
      tell("socket", this);
    }
  };
})();
