// Says, at the foot of the page, what live.js tells: that the page is not live, that an action
// may not have counted, or that the server has another version of the page.
(() => {
  const patience = 2000; // milliseconds: a shorter break is not shown
  const shownFor = 4000; // the same, of what is said about an action
  const line = document.getElementById("status");
  const states = {
    connecting: "This page is not live yet. Buttons work; reload it to see what has changed.",
    down: "Reconnecting…",
    off: "Live updates are off: something blocks WebSockets. Buttons work.",
    full: "The server is full: this page is not live, and keeps trying. Buttons work.",
    crowded: "Too many tabs: close one to make this one live. Buttons work.",
  };
  let state = "", version = "", note = "", waiting, ending;

  const show = () => { line.textContent = note || state || version; };

  function become(next) {
    clearTimeout(waiting);
    waiting = setTimeout(() => {
      document.documentElement.dataset.connection = next;
      state = states[next] ?? "";
      show();
    }, next === "up" ? 0 : patience);
  }

  function say(text) {
    clearTimeout(ending);
    ending = setTimeout(() => { note = ""; show(); }, shownFor);
    note = text;
    show();
  }
  const notCounted = (why) => say(`Your last action was not counted: ${why}.`);

  become("connecting");
  document.addEventListener("live", ({ detail }) => become(detail));
  document.addEventListener("uncounted", ({ detail }) => notCounted(detail));
  document.addEventListener("unanswered", () => say("Your last action was not answered: it may not have been counted."));
  document.addEventListener("outdated", ({ detail }) => {
    version = detail ? "There is a new version of this page: reload it." : "";
    show();
  });
  // The server's answer to an action that came too fast. The client's events do not bubble.
  document.addEventListener("lvt:updated", ({ detail }) => { if (detail.action === "slow-down") notCounted("too fast"); }, true);
})();
