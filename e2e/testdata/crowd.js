// Runs live.js in many tabs at once, on a clock of its own that jumps from one
// timer to the next. All tabs lose the server at 0, and it is back after `away`.
// The answer is, in milliseconds: when each tab first looked for the server, and
// when it was live again.
async (liveScript, tabs, away, seed) => {
  let now = -1000, lastID = 0;
  const timers = new Map(); // what to call, by id
  const due = new Map();    // ids, by the millisecond
  const set = (id, call, delay) => {
    const at = now + Math.ceil(delay || 0);
    timers.set(id, call);
    if (!due.has(at)) due.set(at, []);
    due.get(at).push(id);
    return id;
  };
  const setTimeout = (call, delay, ...args) => set(++lastID, () => call(...args), delay);
  const clearTimeout = (id) => { timers.delete(id); };
  const setInterval = (call, delay) => {
    const id = ++lastID;
    const again = () => {
      set(id, again, delay);
      call();
    };
    return set(id, again, delay);
  };
  const pass = async (until) => {
    for (; now < until; now++) {
      const ids = due.get(now) ?? [];
      for (let i = 0; i < ids.length; i++) { // more may come
        const call = timers.get(ids[i]);
        timers.delete(ids[i]);
        call?.();
        for (let turn = 0; turn < 20; turn++) await null; // whatever the call has set going
      }
      due.delete(now);
    }
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
        return { ok: true, text: async () => "ok\n" };
      },
    };
    target.hidden = false;
    target.querySelector = () => target; // the page has a live part
    target.getElementById = () => null;  // and nothing else
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
  await pass(away + 6000);
  return crowd.map(({ first, live }) => ({ first, live: live - away }));
}
