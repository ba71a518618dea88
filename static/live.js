// Keeps a page live: opens its socket again whenever it is lost, and tells the
// state of the page by events on the document.
//
//   "live"       detail "up"; "down" while the server is away; "off" where the
//                server answers but no socket opens; "full" where it has no room for
//                one, and "crowded" where it has none for this browser: the client
//                then sends requests
//   "unanswered" something the person did may have been lost on its way
//
// This script does all the reconnecting, because the client gives up after one
// attempt that fails. The layout switches the client's own heartbeat off. This
// script must load before the client, because it bounds the client's requests.
// docs/framework.md lists what it answers.
(() => {
  if (!document.querySelector("[data-lvt-id]")) return; // nothing on this page is live

  // All in milliseconds.
  const firstWait = 250, longestWait = 5000, calmWait = 15000; // the last while live updates are off, or the server is full
  const stopWait = 500; // while the server is stopping
  const heartbeat = 5000, answerWithin = 5000;
  const probeWithin = 3000, requestWithin = 10000;

  const news = "live-again"; // the key of localStorage by which tabs tell each other

  const client = () => window.liveTemplateClient;
  let ours = false;       // the client's first attempt has ended; all others are ours
  let state = "";         // as told
  let since;              // when the page was last up, or the server said that it is stopping
  let open = false;       // the socket; the page is up with the first update it brings
  let refused = "";       // why the server would refuse a socket: "full", "crowded"
  let looking = false;    // an attempt to reach the server is under way
  let changing = false;   // the client is about to open a socket, and takes no action
  let left = false;       // the page was left; the Back button may bring it back
  let pending = 0;        // actions on their way through the socket
  let held = [];          // forms that were submitted while the client took no action
  let retrying, deadline; // timers

  const tell = (name, detail) => document.dispatchEvent(new CustomEvent(name, { detail }));
  const on = (name, listener) => document.addEventListener(name, listener, true); // the client's events do not bubble

  function become(next) {
    if (state === next) return;
    if (state === "" || state === "up") since = Date.now();
    state = next;
    tell("live", state);
    release();
    if (state === "up") localStorage.setItem(news, Date.now());
  }

  function release() {
    if (state === "down") return;
    const forms = held;
    held = [];
    for (const { form, button } of forms) {
      if (form.isConnected && button?.form === form) form.requestSubmit(button);
    }
  }

  // Full jitter: up to the time that has passed already, within bounds.
  function retry(atLeast = firstWait) {
    clearTimeout(retrying);
    const passed = Math.max(Date.now() - since, atLeast);
    retrying = setTimeout(reconnect, Math.random() * Math.min(passed, served() ? calmWait : longestWait));
  }

  const served = () => ["off", "full", "crowded"].includes(state);

  async function reconnect() {
    clearTimeout(retrying);
    if (document.hidden || open) return;
    await attempt();
  }

  async function attempt() {
    if (looking || left) return;
    looking = true;
    let answers = false, stopping = false;
    try {
      // Ask first: where a network drops everything, an attempt of the client takes long to fail.
      const probe = await fetch("/healthz", { cache: "no-store", signal: AbortSignal.timeout(probeWithin) });
      const says = (await probe.text()).trim();
      stopping = says === "stopping";
      answers = probe.ok && !stopping;
      refused = { "full": "full", "session full": "crowded" }[says] ?? "";
      if (stopping) since = Date.now(); // the server is not away yet
      if (answers && !left && (state === "off" ? await socketOpens() : !(refused && served()))) {
        changing = true;
        client().disconnect(); // otherwise the page that comes counts as the answer to what is pending
        await client().connect();
      }
    } catch {
      // The server is away.
    }
    looking = changing = false;
    if (left) return;
    if (!open) {
      become(answers ? refused || "off" : "down");
      retry(stopping ? stopWait : firstWait);
    }
    release();
  }

  // While live updates are off, an attempt of the client would show the page
  // anew, without what the person was just told or typed.
  const socketOpens = () => new Promise((resolve) => {
    const socket = new WebSocket(location.origin.replace("http", "ws") + location.pathname + location.search);
    const end = (opened) => {
      resolve(opened);
      socket.close();
    };
    socket.onopen = () => end(true);
    socket.onerror = () => end(false);
    setTimeout(end, requestWithin, false);
  });

  function lost() {
    open = false;
    answered();
    if (pending > 0 && !left) tell("unanswered");
    pending = 0;
    if (looking || left) return;
    become("down");
    retry();
  }

  // A socket can be dead without having been closed. wsconn turns the answer to a
  // ping into an event.
  function ping(within) {
    if (client().isReady()) client().send({ action: "__ping__" });
    deadline ??= setTimeout(() => client().disconnect(), within);
  }
  const answered = () => { deadline = clearTimeout(deadline); };
  setInterval(() => { if (open && !document.hidden) ping(answerWithin); }, heartbeat);

  // Something has happened to the network or to the page. Offline, only this
  // machine can answer.
  function check() {
    if (open) {
      answered(); // a ping that was sent before has a later deadline
      ping(navigator.onLine ? 500 : 250);
    } else if (ours) {
      reconnect();
    }
  }

  on("lvt:connected", () => { open = ours = true; });
  on("lvt:disconnected", lost);
  on("lvt:error", answered);
  on("lvt:updated", (event) => {
    answered();
    if (event.detail.action) pending = Math.max(pending - 1, 0); // refreshes name none
    become(open ? "up" : refused || "off");
    if (!ours) retry(); // the client's first attempt has ended with a request
    ours = true;
  });
  on("lvt:pending", () => { if (open) pending++; });

  on("submit", (event) => {
    if (state !== "down" && !changing || !event.target.closest("[data-lvt-id]")) return;
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
    const answer = request(url, { signal: AbortSignal.timeout(requestWithin), ...options });
    const failed = () => {
      tell("unanswered");
      reconnect(); // finds out whether the server is away
    };
    if (options.method === "POST") answer.then(({ ok }) => ok || failed(), failed);
    return answer;
  };

  addEventListener("online", check);
  addEventListener("offline", check);
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

  // A page that is left may be kept for the Back button, and one that is hidden for
  // long may be frozen. Chromium then takes the socket from the page, but leaves it
  // open to the server, where the visitor would stay online.
  function leave() {
    left = true;
    clearTimeout(retrying);
    client()?.disconnect();
  }
  addEventListener("pagehide", leave);
  on("freeze", leave);

  function comeBack() {
    left = false;
    if (!ours) return; // the client's first attempt goes on
    open = false;
    become("down");
    attempt(); // once, even in the background
  }
  addEventListener("pageshow", (event) => { if (event.persisted) comeBack(); });
  on("resume", comeBack);
})();
