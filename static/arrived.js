// Removes the line that says what the page is missing, once all its scripts have run and its
// styles are there. If one was blocked, damaged or lost on its way, the line stays. A style
// sheet of another host that hangs is given up, because the page is not drawn before.
// This script loads before all other files.
(() => {
  const patience = 5000; // milliseconds
  let run = true, styled = true;
  addEventListener("error", ({ target, filename }) => {
    if (target.rel === "stylesheet") styled = false;
    if (target.tagName === "SCRIPT" || filename?.includes("/static/")) run = false; // something else may answer in its place
  }, true);
  setTimeout(() => {
    for (const link of document.querySelectorAll("link[rel=stylesheet]")) {
      if (link.sheet || link.href.startsWith(location.origin)) continue;
      styled = false;
      link.remove();
    }
  }, patience);
  addEventListener("DOMContentLoaded", () => {
    if (run) document.documentElement.dataset.scripts = "run";
    if (run && styled) document.getElementById("unscripted").remove();
  });
})();
