// Says, at the foot of the page, when the page is not live, marks it so that app.css
// shows its number as not live, and disables buttons that would do nothing. A form that
// needs a live connection says so in its attribute data-not-live. In a frame there is only
// room for the start of a note. A first connection that takes less than two seconds, a break
// shorter than one, and a break in a hidden tab are not shown.
(() => {
  const patience = 2000, quiet = 1000, moment = 3000; // milliseconds
  const line = document.getElementById("connection");
  const works = () => document.querySelector("[data-not-live]")?.dataset.notLive ?? "Buttons still work.";
  const notes = {
    connecting: () => `Connecting… ${works()}`,
    down: () => "Reconnecting… Buttons are disabled until then.",
    off: () => `Live updates are off: something blocks WebSockets. ${works()}`,
    full: () => `The server is full: this page is not live, and keeps trying. ${works()}`,
    crowded: () => `Too many tabs: close one to make this one live. ${works()}`,
  };
  const fits = (note) => window === window.top ? note : note.match(/^[^:…]*…?/)[0];
  let state = document.querySelector("[data-lvt-id]") ? "connecting" : "up";
  let told = "up", waiting, fading, waits = [], focused;

  function tell() {
    waiting = clearTimeout(waiting);
    if (state === told) return;
    line.textContent = fits(notes[state]?.() ?? (told === "connecting" ? "" : "Back online"));
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
