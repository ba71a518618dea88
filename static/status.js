// Says, at the foot of the page, when the page is not live, marks it so that app.css
// shows its number as not current, and disables buttons that would do nothing. A first
// connection that takes less than two seconds, a break shorter than one, and a break in
// a hidden tab are not shown.
(() => {
  const patience = 2000, quiet = 1000, moment = 3000; // milliseconds
  const line = document.getElementById("connection");
  const notes = {
    connecting: "Connecting… Buttons work.",
    down: "Reconnecting… Buttons wait until the page is live.",
    off: "Live updates are off: no live connection gets through. Buttons work.",
    full: "The server is full: no live updates for now. Buttons work. This page goes on trying.",
    crowded: "Too many tabs of this browser are live: this one is not. Buttons work. Close another.",
  };
  let state = document.querySelector("[data-lvt-id]") ? "connecting" : "up";
  let told = "up", waiting, fading, waits = [], focused;

  function tell() {
    waiting = clearTimeout(waiting);
    if (state === told) return;
    line.textContent = notes[state] ?? (told === "connecting" ? "" : "Back online");
    told = document.documentElement.dataset.connection = state;
    clearTimeout(fading);
    if (state === "up") fading = setTimeout(() => { line.textContent = ""; }, moment);

    for (const button of waits) {
      button.disabled = false;
      button.removeAttribute("title");
      button.removeAttribute("aria-describedby");
    }
    if (document.activeElement === document.body) focused?.focus({ preventScroll: true });
    waits = state === "down" ? [...document.querySelectorAll("[data-lvt-id] button:enabled")] : [];
    focused = waits.find((button) => button === document.activeElement); // a disabled button loses the focus
    for (const button of waits) {
      button.disabled = true;
      button.title = "Reconnecting…";
      button.setAttribute("aria-describedby", line.id);
    }
  }

  function look() {
    if (state === "connecting" && !document.documentElement.dataset.scripts) return; // another line says so
    if (state === "up" || told !== "up") tell();
    else if (document.hidden) waiting = clearTimeout(waiting);
    else waiting ??= setTimeout(tell, state === "connecting" ? patience : quiet);
  }
  addEventListener("DOMContentLoaded", look);

  document.addEventListener("live", (event) => {
    state = event.detail;
    look();
  });
  document.addEventListener("visibilitychange", look);
})();
