// Runs live.js in many tabs at once, on a clock of its own that jumps from one
// timer to the next. All tabs lose the server at 0, and it is back after `away`.
// The answer is, in milliseconds: when each tab first looked for the server, and
// when it was live again.
async (liveScript, tabs, away, seed) => {
  let now = -1000, order = 0;
  const timers = new Map();
  const setTimeout = (call, delay, ...args) => {
    timers.set(++order, { at: now + (delay || 0), call: () => call(...args) });
    return order;
  };
  const clearTimeout = (id) => { timers.delete(id); };
  const setInterval = (call, delay) => {
    const id = ++order;
    const again = () => {
      timers.set(id, { at: now + delay, call: again });
      call();
    };
    timers.set(id, { at: now + delay, call: again });
    return id;
  };
  const pass = async (until) => {
    for (;;) {
      let next, nextID;
      for (const [id, timer] of timers) if (timer.at <= until && (!next || timer.at < next.at)) [next, nextID] = [timer, id];
      if (!next) break;
      now = Math.max(now, next.at);
      timers.delete(nextID);
      next.call();
      for (let i = 0; i < 20; i++) await null; // whatever the call has set going
    }
    now = until;
  };

  // A small generator with a seed, mulberry32.
  const random = () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), seed | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
  const serverIsThere = () => now < 0 || now >= away;

  const open = () => {
    const tab = { first: null, live: null };
    const target = new EventTarget();
    const fire = (name, detail = {}) => target.dispatchEvent(new CustomEvent(name, { detail }));
    let connected = false;
    const client = {
      isReady: () => connected,
      send: () => fire("lvt:error"), // a pong
      disconnect: () => {},
      connect: async () => {
        if (!serverIsThere()) return;
        connected = true;
        fire("lvt:connected");
        fire("lvt:updated");
        tab.live = now;
      },
    };
    const window = {
      liveTemplateClient: client,
      fetch: async () => {
        tab.first ??= now;
        if (!serverIsThere()) throw new TypeError("no server");
        return { ok: true };
      },
    };
    target.hidden = false;
    Function("window", "document", "fetch", "localStorage", "addEventListener", "setTimeout", "clearTimeout", "setInterval", "Date", "Math", liveScript)(
      window, target, (...args) => window.fetch(...args), { setItem() {} }, () => {}, setTimeout, clearTimeout, setInterval,
      { now: () => now }, Object.assign(Object.create(Math), { random, min: Math.min, max: Math.max }));
    client.connect();
    tab.lose = () => {
      connected = false;
      fire("lvt:disconnected");
    };
    return tab;
  };

  const crowd = Array.from({ length: tabs }, open);
  await pass(0);
  for (const tab of crowd) tab.lose();
  await pass(away + 10000);
  return crowd.map(({ first, live }) => ({ first, live: live - away }));
}
