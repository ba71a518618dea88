// Removes the line that says that the page may be out of date, once all scripts of the page
// have run. One that was blocked, damaged or lost on its way does not, and the line stays.
// This script loads before all others.
(() => {
  let missing = false;
  addEventListener("error", ({ target, filename }) => {
    missing ||= target.tagName === "SCRIPT" || Boolean(filename?.includes("/static/")); // something else may answer in its place
  }, true);
  addEventListener("DOMContentLoaded", () => {
    if (missing) return;
    document.getElementById("unscripted").remove();
    document.documentElement.dataset.scripts = "run";
  });
})();
