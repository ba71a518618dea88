// Each case begins in a state of a page and ends in one. The crowd and the walks at the end
// go through many of them in any order. docs/connection.md has the table of the states.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { Clock, random, Server, Tab } from "./tab.mjs";

const second = 1000, minute = 60 * second;
const is = assert.deepEqual;
const between = (got, least, most, what) => assert.ok(got >= least && got <= most, `${what}: ${got}, want ${least} to ${most}`);

// What the server does before a case, by the state in which it begins.
const before = {
  connecting: "hangs", up: "up", down: "up", off: "without sockets", full: "full", crowded: "session full", left: "up",
};

// A case has a tab in a state. All random waits take as long as they can.
class Case {
  storage = new Map();
  server = new Server(new Clock());

  static async in(state) {
    const it = new Case();
    it.server.becomes(before[state]);
    it.tab = new Tab(it.server, { luck: () => 0.999, storage: it.storage });
    if (state !== "connecting") await it.pass(minute);
    if (state === "down") await it.lose("away");
    if (state === "left") it.tab.leave();
    is(it.tab.state, state === "left" ? "up" : state, "the state in which the case begins");
    it.begin();
    return it;
  }
  begin() {
    this.tab.did = [];
    this.storage.clear();
    this.began = this.server.clock.now;
  }
  pass(time) { return this.server.clock.pass(time); }

  // Changes what the server does, and ends the socket.
  async lose(server, code) {
    this.server.becomes(server);
    this.server.cut(code);
    await this.pass(1);
  }
  // Changes what the server does, and gives the page a minute to notice.
  async comes(server) {
    this.server.becomes(server);
    await this.pass(minute);
  }
  // Later requests are answered; those that hang go on hanging.
  answersAgain() { this.server.answersAs("up"); }

  // How often the page has requested something, and when.
  did(what) { return this.when(what).length; }
  when(what) { return this.tab.did.filter((done) => done.what === what).map(({ at }) => at - this.began); }
  longestWait(what = "health") {
    const at = this.when(what);
    return Math.max(...at.slice(1).map((time, i) => time - at[i]));
  }
  async doesNothing(time = minute) {
    const { length } = this.tab.did;
    await this.pass(time);
    is(this.tab.did.slice(length), [], "what the page does");
  }
  says(line, disabled = false) {
    is([this.tab.says, this.tab.button.disabled], [line, disabled], "the line at the foot, and whether the button is disabled");
  }
  // What the page reports about presses, and how many have reached the server.
  tells(told, counted) {
    is([this.tab.told, this.server.counted.length], [told, counted], "what the page reports about presses, and how many counted");
  }
}

const lines = {
  down: "Reconnecting… Buttons are disabled until then.",
  off: "Live updates are off: something blocks WebSockets. Buttons still work.",
  full: "The server is full: this page is not live, and keeps trying. Buttons still work.",
  crowded: "Too many tabs: close one to make this one live. Buttons still work.",
};

// Cases shared by several states.
const serverIs = (server, line) => async (it) => {
  await it.comes(server);
  it.says(lines[line], line === "down");
};
const serverIsAway = async (it) => {
  await it.comes("away");
  it.says(lines.down, true);
  it.begin();
  await it.pass(5 * minute);
  between(it.longestWait(), 4900, 5000, "the longest wait");
};
const thereIsRoom = async (it) => {
  await it.comes("up");
  is(it.did("socket"), 1, "sockets");
  is(it.server.sockets.size, 1, "open sockets");
};
const thereIsNone = async (it) => {
  await it.pass(5 * minute);
  between(it.longestWait(), 14900, 15000, "the longest wait");
  is([it.did("socket"), it.did("GET")], [0, 0], "sockets that were tried, requests that render the page again");
};
const pressIsARequest = async (it) => {
  it.tab.press();
  await it.pass(0);
  is(it.did("POST"), 1, "requests");
  it.tells([], 1);
};
const answerHangs = async (it) => {
  it.server.becomes("hangs");
  await it.pass(second);
  is(it.did("health"), 1, "probes that hang");
};
const answerHangsUntil = (happens) => async (it) => {
  await answerHangs(it);
  it.answersAgain();
  happens(it.tab);
  await it.pass(0);
};
const answeredWith = (status, told, sentence) => async (it) => {
  it.server.POST = status;
  it.tab.press();
  await it.pass(0);
  it.tells([told], 0);
  is(it.tab.lines.notice.textContent, sentence, "the notice at the foot");
};
const held = async (it, server) => {
  it.tab.press();
  it.tab.press();
  await it.pass(second);
  it.tells([], 0);
  await it.comes(server);
  it.tells([], 2);
};
const comesBack = (happens) => async (it) => {
  it.tab.page.document.hidden = true;
  happens(it.tab);
  await it.pass(0);
  is(it.server.sockets.size, 1, "open sockets");
};

const clientOpensASocket = async (it) => {
  it.server.answersAs("up");
  it.server.HEAD = "hangs";
  while (it.did("HEAD") === 0) await it.pass(second);
};

const cases = {
  "connecting: the first update arrives → up": async (it) => {
    await it.pass(1999);
    await it.comes("up");
    it.says("");
  },
  "connecting: no socket opens → off": serverIs("without sockets", "off"),
  "connecting: no socket opens: the server is full → full": serverIs("full", "full"),
  "connecting: no socket opens: too many tabs → crowded": serverIs("session full", "crowded"),
  "connecting: the server is away → down": async (it) => {
    it.server.becomes("away");
    await it.pass(second);
    between(it.when("health")[0], 250, 500, "the first probe");
    await serverIsAway(it);
  },
  "connecting: no answer comes → down": async (it) => {
    await it.pass(2 * second);
    it.says("Connecting… Buttons still work.");
    await it.pass(29 * second);
    is(it.when("GET"), [20 * second], "the client's last request, after two that timed out");
    between(it.when("health")[0], 30 * second, 31 * second, "the first probe");
  },
  "connecting: a press → connecting": async (it) => {
    it.tab.press();
    is(it.tab.reloads, 1, "forms that the browser sends");
  },
  "connecting: left before the first update, and back → up": async (it) => {
    it.server.becomes("silent");
    await it.pass(second);
    it.tab.leave();
    is(it.server.sockets.size, 0, "open sockets");
    await it.doesNothing();
    it.server.becomes("up");
    await comesBack((tab) => tab.comeBack())(it);
  },
  "connecting: left before the socket opens, and back → up": async (it) => {
    it.tab.leave();
    it.server.becomes("up");
    it.tab.comeBack();
    await it.pass(0);
    is([it.did("health"), it.did("socket"), it.server.sockets.size], [0, 1, 1], "probes, sockets, open sockets");
  },
  "connecting: left when the first attempt has just failed, and back → down": async (it) => {
    it.server.becomes("away");
    await it.pass(0);
    it.tab.leave();
    it.tab.comeBack();
    await serverIsAway(it);
  },

  "up: 5 s pass → up": async (it) => {
    await it.pass(minute);
    is(it.did("__ping__"), 12, "pings in a minute");
    it.tab.hide();
    await it.doesNothing();
  },
  "up: a ping is not answered for 5 s → down": async (it) => {
    it.server.answersAfter = 4999;
    await it.pass(minute);
    is(it.tab.state, "up", "while answers take almost 5 s");
    it.server.answersAfter = Infinity;
    it.server.health = "away";
    await it.pass(10 * second);
    is(it.server.sockets.size, 0, "open sockets");
    it.tells([], 0);
  },
  "up: a ping behind an action is not answered for 10 s → down": async (it) => {
    const pressAndPing = async (answersAfter) => {
      it.server.answersAfter = answersAfter;
      it.tab.press();
      it.tab.happens("online");
      await it.pass(10 * second);
      it.server.answersAfter = 0;
      await it.pass(10 * second);
    };
    await pressAndPing(9999);
    it.tells([], 1);
    is(it.did("socket"), 0, "new sockets while answers take almost 10 s");
    it.server.health = "away";
    await pressAndPing(Infinity);
    it.tells(["unanswered"], 2);
  },
  "up: a ping is not answered, but the page itself was paused → up": async (it) => {
    it.server.answersAfter = 6 * second;
    it.tab.happens("online");
    it.server.clock.jumps(minute); // a closed laptop: the answer waits, and so does the page
    await it.pass(0);
    it.server.answersAfter = 0;
    await it.pass(5 * second);
    is(it.did("socket"), 0, "new sockets");
  },
  "up: offline, and the server does not answer for 2 s → down": async (it) => {
    it.server.becomes("away");
    it.server.answersAfter = Infinity;
    it.tab.happens("online"); // a ping that has longer
    it.tab.happens("offline");
    await it.pass(1999);
    is(it.tab.state, "up", "before");
    await it.pass(1);
  },
  "up: offline, but the server answers → up": async (it) => {
    it.server.answersAfter = 1600; // on the slowest supported network
    it.tab.happens("offline");
    await it.pass(3 * second);
    is([it.did("__ping__"), it.did("socket")], [1, 0], "pings, new sockets");
  },
  "up: online → up": async (it) => {
    it.tab.happens("online");
    is(it.did("__ping__"), 1, "pings");
  },
  "up: hidden for a minute, then shown → up": async (it) => {
    it.tab.hide();
    await it.pass(minute);
    it.tab.show();
    is(it.did("__ping__"), 1, "pings");
    await it.pass(second);
    is(it.did("socket"), 0, "new sockets");
  },
  "up: a press → up": async (it) => {
    it.tab.press();
    await it.pass(0);
    await it.lose("up"); // the press has been answered
    it.tells([], 1);
    await it.pass(second);
  },
  "up: a press is too fast → up": async (it) => {
    it.server.tooFast = true;
    it.tab.press();
    await it.pass(0);
    it.tells([], 0);
    is(it.tab.lines.notice.textContent, "Too fast: your last action was not counted.", "the notice at the foot");
    await it.lose("up");
    it.tells([], 0); // it has been answered
    await it.pass(second);
  },
  "up: another tab is live → up": async (it) => {
    it.tab.hearsOfAnother();
    await it.doesNothing(second);
  },
  "up: the socket ends → down": async (it) => {
    await it.lose("away");
    await it.pass(998);
    it.says("");
    await it.pass(1);
    it.says(lines.down, true);
    between(it.when("health")[0], 990, 1000, "the first probe");
  },
  "up: the server stops, and closes the socket → down": async (it) => {
    await it.lose("away", 1001);
    await it.pass(251);
    is(it.did("health"), 1, "probes");
  },
  "up: lost and back, on a server of another build → up": async (it) => {
    it.server.build = "2";
    it.server.answersAfter = 100;
    await it.lose("up");
    it.tab.press();
    await it.pass(1100);
    is([it.tab.state, it.tab.outdated], ["up", []], "the state, and what the page is told while a press waits");
    await it.pass(100);
    it.tells([], 1);
    is(it.tab.outdated, [true], "what the page is told");
    it.server.build = "1";
    await it.lose("up");
    await it.pass(minute);
    is(it.tab.outdated, [true, false], "all that the page is told");
  },
  "up: the socket ends while the tab is hidden → down": async (it) => {
    it.tab.hide();
    await it.lose("away");
    await it.doesNothing();
    it.says("");
  },
  "up: the socket ends before an action is answered → down": async (it) => {
    it.server.answersAfter = Infinity;
    it.tab.press();
    await it.lose("up");
    it.server.answersAfter = 0;
    await it.pass(second);
    is(it.tab.state, "up", "in between");
    is(it.tab.answered, 0, "forms that the client considers answered");
    await it.lose("away");
    it.tells(["unanswered"], 1); // once
  },
  "up: a press and a link: the browser ends the socket → down": async (it) => {
    it.server.answersAfter = Infinity;
    it.tab.press();
    it.tab.happens("beforeunload");
    await it.lose("away");
    it.tells([], 1);
  },
  "up: left → left": async (it) => {
    it.server.answersAfter = Infinity;
    it.tab.press();
    it.tab.leave();
    it.tells([], 1);
  },
  "up: frozen → left": async (it) => it.tab.happens("freeze"),

  "down: the server is back → up": async (it) => {
    await it.pass(10 * second);
    it.says(lines.down, true);
    it.server.becomes("up");
    await it.pass(5 * second);
    it.says("Back online");
    is(it.storage.has("live-again"), true, "other tabs are told");
    await it.pass(3 * second);
    it.says("");
  },
  "down: the server is back within a second → up": async (it) => {
    it.server.becomes("up");
    await it.pass(999);
    it.says("");
  },
  "down: no socket opens → off": serverIs("without sockets", "off"),
  "down: no socket opens: the server is full → full": serverIs("full", "full"),
  "down: no socket opens: too many tabs → crowded": serverIs("session full", "crowded"),
  "down: a socket opens and brings nothing → down": async (it) => {
    await it.comes("silent");
    between(it.longestWait("socket"), 5 * second, 15 * second, "from one socket to the next");
    is(it.did("POST"), 0, "requests");
  },
  "down: the server is stopping → down": async (it) => {
    await it.comes("stopping");
    between(it.longestWait(), 490, 500, "the longest wait");
  },
  "down: the server stays away → down": serverIsAway,
  "down: a proxy answers 502 → down": serverIs(502, "down"),
  "down: another site answers, such as a login → down": serverIs("another", "down"),
  "down: the clock is set back an hour → down": async (it) => {
    it.tab.clockIsWrongBy = -60 * minute;
    await it.pass(minute);
    between(it.did("health"), 12, 20, "probes in a minute");
  },
  "down: the answer hangs → down": async (it) => {
    it.server.becomes("hangs");
    await it.pass(5 * minute);
    const [first, next] = it.when("health");
    between(next - first, 5 * second, 10 * second, "from the first probe to the next");
    between(it.longestWait(), 14900, 15000, "the longest time from one to the next, with a wait of 5 s");
  },
  "down: the answer hangs; online → up": answerHangsUntil((tab) => tab.happens("online")),
  "down: the answer hangs; shown → up": answerHangsUntil((tab) => tab.show()),
  "down: the answer hangs; left and back → up": answerHangsUntil((tab) => {
    tab.leave();
    tab.comeBack();
  }),
  "down: the answer hangs; another tab is live → down": async (it) => {
    await answerHangs(it);
    it.tab.hearsOfAnother();
    await it.doesNothing(second);
  },
  "down: the client hangs; online → up": async (it) => {
    it.server.becomes("hangs");
    it.server.health = "ok";
    await it.pass(25 * second);
    is([it.when("socket")[0] - it.when("HEAD")[0], it.when("GET")[0] - it.when("HEAD")[0]], [10 * second, 20 * second],
      "when the client goes on after a request that hangs, and after a socket");
    it.answersAgain();
    it.tab.happens("online");
    await it.pass(10 * second);
  },
  "down: online → up": async (it) => {
    await it.pass(30 * second);
    it.server.becomes("up");
    it.tab.happens("online");
    await it.pass(0);
  },
  "down: hidden → down": async (it) => {
    it.tab.hide();
    await it.doesNothing(5 * minute);
  },
  "down: hidden, then shown → up": async (it) => {
    it.tab.hide();
    await it.comes("up");
    is(it.tab.state, "down", "while it is hidden");
    it.tab.show();
    await it.pass(0);
  },
  "down: hidden, and another tab is live → up": async (it) => {
    it.tab.hide();
    await it.comes("up");
    it.tab.hearsOfAnother("another key");
    await it.pass(0);
    is(it.tab.state, "down", "after a change of another key");
    it.tab.hearsOfAnother();
    await it.pass(0);
  },
  "down: a press → up": (it) => held(it, "up"),
  "down: a press, and its form is gone → up": async (it) => {
    it.tab.press().isConnected = false;
    await it.comes("up");
    it.tells(["not sent"], 0);
  },
  "down: a press, and no socket opens → off": (it) => held(it, "without sockets"),
  "down: left → left": async (it) => it.tab.leave(),

  "off: still no socket opens → off": async (it) => {
    await it.pass(5 * minute);
    between(it.longestWait("socket"), 14900, 15000, "the longest wait");
    is([it.did("HEAD"), it.did("GET")], [0, 0], "requests of the client");
  },
  "off: a socket opens → up": async (it) => {
    await it.comes("up");
    is([it.did("socket"), it.server.sockets.size], [2, 1], "sockets that were tried, and that are open");
  },
  "off: a socket opens, but only without a subprotocol → up": async (it) => {
    await it.comes("without subprotocols");
    is(it.tab.outdated, [], "what the page is told");
    await it.lose("without subprotocols");
    await it.pass(second);
  },
  "off: a socket opens only after 70 s → up": async (it) => {
    it.server.socket = "hangs";
    await it.pass(15 * second);
    await it.pass(55 * second);
    is(it.did("socket"), 1, "sockets that were tried");
    it.server.becomes("up");
    await it.pass(0);
  },
  "off: a socket does not open for 75 s → off": async (it) => {
    it.server.socket = "hangs";
    await it.pass(5 * minute);
    between(it.longestWait("socket"), 75 * second, 90 * second, "from one socket to the next");
  },
  "off: the server is away → down": serverIsAway,
  "off: the server is full → full": serverIs("full", "full"),
  "off: a press → off": pressIsARequest,
  "off: a press is answered with 429 → off": answeredWith(429, "too fast", "Too fast: your last action was not counted."),
  "off: a press is answered with 403 → off": answeredWith(403, "refused", "Refused: your last action was not counted."),
  "off: a press is answered with 500 → off": async (it) => {
    await answeredWith(500, "unanswered", "No answer: your last action may not have been counted.")(it);
    is(it.when("health"), [0], "probes");
  },
  "off: a press is answered by another site → down": async (it) => {
    it.server.answersAs("another");
    await answeredWith("html", "unanswered", "No answer: your last action may not have been counted.")(it);
    is(it.when("health"), [0], "probes");
  },
  "off: a press is answered by a server of another build → off": async (it) => {
    it.server.build = "2";
    it.tab.press();
    await it.pass(0);
    it.tells([], 1);
    it.server.build = "1";
    it.tab.press();
    await it.pass(0);
    is(it.tab.outdated, [true, false], "what the page is told");
  },
  "off: a press is not answered for 10 s → down": async (it) => {
    it.server.becomes("hangs");
    it.tab.press();
    await it.pass(9999);
    it.tells([], 0);
    await it.pass(1);
    it.tells(["unanswered"], 0);
    await it.pass(10 * second);
  },
  "off: left while the client opens a socket → left": async (it) => {
    await clientOpensASocket(it);
    it.tab.leave();
    it.server.becomes("up");
    await it.pass(0);
  },
  "off: a press while the client opens a socket → up": async (it) => {
    await clientOpensASocket(it);
    it.tab.press();
    it.tells([], 0);
    await it.comes("up");
    it.tells([], 1);
  },

  "off: too many tabs → crowded": serverIs("session full", "crowded"),

  "full: there is still no room → full": thereIsNone,
  "full: there is room → up": thereIsRoom,
  "full: a press → full": pressIsARequest,
  "full: the server is away → down": serverIsAway,
  "full: there is room, but no socket opens → off": serverIs("without sockets", "off"),
  "full: too many tabs → crowded": serverIs("session full", "crowded"),
  "crowded: there is still no room → crowded": thereIsNone,
  "crowded: another tab is closed → up": thereIsRoom,
  "crowded: a press → crowded": pressIsARequest,
  "crowded: the server is away → down": serverIsAway,
  "crowded: there is room, but no socket opens → off": serverIs("without sockets", "off"),
  "crowded: the server is full → full": serverIs("full", "full"),

  "left: back → up": comesBack((tab) => tab.comeBack()),
  "left: thawed → up": comesBack((tab) => tab.happens("resume")),
  "left: back, and the server is away → down": async (it) => {
    it.server.becomes("away");
    it.tab.comeBack();
    await serverIsAway(it);
  },
  "left: online, shown, or another tab is live → left": async (it) => {
    it.tab.happens("online");
    it.tab.show();
    it.tab.hearsOfAnother();
  },
};

const seen = new Set(); // transitions, such as "up → down"
for (const [name, happens] of Object.entries(cases)) {
  test(name, async () => {
    const [, state, next] = name.match(/^(\w+): .+ → (\w+)$/);
    const it = await Case.in(state);
    await happens(it);
    it.tab.states.slice(1).forEach((to, i) => seen.add(`${it.tab.states[i]} → ${to}`));
    if (next !== "left") return is(it.tab.state, next, "the next state");
    is(it.server.sockets.size, 0, "open sockets of a page that was left");
    await it.doesNothing();
  });
}

test("docs/connection.md has each state, and what it leads to", () => {
  const docs = readFileSync(new URL("../../docs/connection.md", import.meta.url), "utf8");
  const rows = [...docs.matchAll(/^\| (\w+) \|.* \| ([\w, ]+) \|$/gm)].filter(([, state]) => state in before);
  is(rows.map(([, state]) => state), Object.keys(before));
  const transitions = rows.flatMap(([, state, next]) => next.split(", ").map((to) => `${state} → ${to}`));
  is([...seen].sort(), transitions.filter((each) => !each.includes("left")).sort());
});

test("a tab that has joined joins again after a break, but not after Leave", async (t) => {
  for (const storage of [new Map(), "blocked"]) {
    await t.test(storage === "blocked" ? "site data is blocked" : "site data is kept", async () => {
      const server = new Server(new Clock()), tab = new Tab(server, { storage });
      const afterABreak = async () => {
        await server.clock.pass(0);
        server.cut();
        await server.clock.pass(second);
        return tab.joined;
      };
      await server.clock.pass(0);
      tab.press("join", "Alice");
      is([await afterABreak(), tab.page.document.title], ["Alice", "Presence"]);
      tab.press("leave");
      is(await afterABreak(), undefined);
    });
  }
});

test("a page that is prerendered joins when it is shown", async () => {
  const storage = new Map([["presence-name", "Alice"]]);
  const server = new Server(new Clock()), tab = new Tab(server, { storage, prerendering: true }), { document } = tab.page;
  await server.clock.pass(second);
  is([tab.state, tab.joined], ["up", undefined]);
  document.prerendering = false;
  document.dispatchEvent(new Event("prerenderingchange"));
  await server.clock.pass(0);
  is(tab.joined, "Alice");
});

test("the answer to an automatic join does not count as the answer to a press", async () => {
  const storage = new Map([["presence-name", "Alice"]]), server = new Server(new Clock()), { clock } = server;
  server.answersAfter = 100;
  const tab = new Tab(server, { storage });
  await clock.pass(150);
  is(server.counted, ["join"]);
  server.answersAfter = Infinity;
  tab.press("increment");
  await clock.pass(100);
  is(tab.joined, "Alice");
  server.cut();
  is(tab.told, ["unanswered"]);
});

// All tabs lose the server at once.
for (const { away, backWithin, inOneSecond } of [
  { away: 1, backWithin: 1, inOneSecond: 1000 }, // nobody waits longer
  { away: 30, backWithin: 5, inOneSecond: 400 },
]) {
  test(`1,000 tabs that lost the server for ${away} s come back spread out`, async () => {
    const server = new Server(new Clock()), { clock } = server, luck = random(1);
    const tabs = Array.from({ length: 1000 }, () => new Tab(server, { luck }));
    await clock.pass(second);
    const lost = clock.now, returned = lost + away * second;
    server.becomes("away");
    server.cut();
    await clock.pass(away * second);
    server.becomes("up");
    await clock.pass(6 * second);
    const asked = tabs.map((tab) => tab.did.find(({ what }) => what === "health").at - lost);
    between(Math.max(...asked), 0, second, "the first probe of the last tab, in ms");
    const at = (from) => asked.filter((time) => time >= from && time < from + 250).length;
    between(Math.max(...[0, 250, 500, 750].map(at)), 200, 300, "tabs that probe in the same quarter of a second");
    const back = tabs.map((tab) => tab.did.findLast(({ what }) => what === "socket").at - returned).sort((a, b) => a - b);
    between(back[0], 0, back[999], "when the first was back");
    between(back[999], 0, backWithin * second, "when the last was back, in ms");
    const fullest = Math.max(...back.map((from) => back.filter((at) => at >= from && at < from + second).length));
    between(fullest, 1, inOneSecond, "tabs that were back in the same second");
    is(tabs.filter(({ state }) => state !== "up"), []);
  });
}

test("a number that changes all the time is announced once a second, and the last one is", async () => {
  const server = new Server(new Clock()), tab = new Tab(server), { clock } = server;
  const announced = [];
  const line = tab.lines.announced;
  Object.defineProperty(line, "textContent", { set: (text) => { if (text) announced.push(text); } });
  const shows = async (text, wait) => {
    tab.figure = text;
    tab.happens("lvt:updated", { detail: {} });
    await clock.pass(wait);
  };
  for (let i = 1; i <= 220; i++) await shows(`Counter: ${i}`, 10 * second / 220);
  await clock.pass(second);
  between(announced.length, 10, 12, "announcements in 11 seconds");
  is([announced[0], announced.at(-1)], ["Counter: 1", "Counter: 220"]);
  await shows("Counter: 221", 100); // at once
  await shows("Counter: 222", 100);
  await shows("Counter: 221", 3 * second);
  is(announced.slice(announced.indexOf("Counter: 220")), ["Counter: 220", "Counter: 221"], "nothing for what was announced before");
});

// Whatever has happened, in any order: once the server is up, the page is live, has one
// socket, and has reported each press that did not count. WALK=seed repeats one walk, and
// WALKS=n takes n of them.
const happenings = {
  ...Object.fromEntries(["up", "without sockets", "full", "session full", "silent", "without subprotocols", "stopping", "another", "away", "hangs", 502].map((what) =>
    [`the server is ${what}`, (it) => it.server.becomes(what)])),
  "sockets end": (it) => it.server.cut(),
  "hidden": (it) => it.tab.hide(),
  "shown": (it) => it.tab.show(),
  "left and back": async (it, wait) => {
    // A page that is left does not learn how a request that hangs has ended.
    if (it.server.clock.now - it.pressed <= 10 * second) it.mayLose = true;
    it.tab.leave();
    await it.pass(wait);
    it.tab.comeBack();
  },
  "online": (it) => it.tab.happens("online"),
  "offline": (it) => it.tab.happens("offline"),
  "another tab is live": (it) => it.tab.hearsOfAnother(),
  "a press": (it) => {
    it.presses++;
    it.pressed = it.server.clock.now;
    it.tab.press();
  },
};

async function walk(seed) {
  const luck = random(seed), it = new Case(), steps = [], names = Object.keys(happenings);
  const wait = () => 20000 * luck() ** 4;
  it.tab = new Tab(it.server, { luck });
  it.presses = 0;
  it.begin();
  for (let step = 0; step < 40; step++) {
    const name = names[Math.floor(luck() * names.length)];
    steps.push(`${it.server.clock.now - it.began} ms, ${it.tab.state}: ${name}`);
    await happenings[name](it, wait());
    await it.pass(wait());
  }
  it.server.becomes("up");
  it.tab.show();
  await it.pass(2 * minute);
  const { tab, server: { counted, sockets } } = it;
  const why = `WALK=${seed} repeats this walk:\n${steps.join("\n")}\n`;
  is([tab.state, sockets.size], ["up", 1], `${why}the state, and the open sockets`);
  assert.ok(counted.length + tab.reloads <= it.presses, `${why}${it.presses} presses, ${counted.length} have counted`);
  if (tab.told.length === 0 && !it.mayLose) is(counted.length + tab.reloads, it.presses, `${why}presses that have counted, though none was reported lost`);
}

test("whatever has happened, a page becomes live again, with one socket, and has reported every press that was lost", async () => {
  const { WALK, WALKS = 60 } = process.env;
  const seeds = WALK ? [Number(WALK)] : Array.from({ length: Number(WALKS) }, (_, i) => i + 1);
  for (const seed of seeds) await walk(seed);
});
