// Makes a page new that is live on a server of another build: its fixed text, styles and
// scripts are old, while its live part is new. The page is loaded again by itself where that
// loses nothing. Otherwise a line says so, with a button, which takes along what was typed.
//
// A page leaves a build by itself once only, so that a balancer between servers of two
// builds cannot send it back and forth.
(() => {
  const idle = 5000; // milliseconds since the last key or press, after which a tab is not in use
  const line = document.getElementById("renew");
  const { build } = document.documentElement.dataset;
  let used = -Infinity;

  // The frames of a tab share its storage.
  const frame = window === window.top ? "" : ` in ${window.name}`;
  const keep = (key, value) => sessionStorage.setItem(key + frame, JSON.stringify(value));
  const kept = (key) => JSON.parse(sessionStorage.getItem(key + frame));

  const fields = () => [...document.querySelectorAll("[data-lvt-id] :is(input:not([type=hidden]), textarea)")];
  const inUse = () => performance.now() - used < idle || fields().some(({ value }) => value !== "") ||
    getSelection().type === "Range" || Boolean(document.querySelector("details[open]"));

  function renew() {
    try {
      keep("taken-along", { focus: document.activeElement.name, typed: fields().map(({ value }) => value) });
    } catch {
      // The browser blocks site data.
    }
    location.reload();
  }

  function putBack() {
    const { focus, typed } = kept("taken-along");
    sessionStorage.removeItem("taken-along" + frame);
    fields().forEach((field, i) => { field.value = typed[i] ?? ""; });
    if (!focus) return;
    // A tab that joins again gets the button to leave with its second update.
    document.addEventListener("lvt:updated", function refocus() {
      const control = document.querySelector(`[name="${CSS.escape(focus)}"]`);
      if (!control) return;
      document.removeEventListener("lvt:updated", refocus, true);
      if (document.activeElement === document.body) control.focus({ preventScroll: true });
    }, true);
  }
  try {
    if (kept("taken-along")) putBack();
  } catch {
    // The browser blocks site data.
  }

  function mayLeaveByItself() {
    try {
      const left = kept("left-builds") ?? [];
      if (left.includes(build) || inUse()) return false;
      keep("left-builds", [...left, build]);
      return true;
    } catch {
      return false; // the browser blocks site data, so the page would forget that it has left
    }
  }

  document.addEventListener("outdated", () => {
    if (mayLeaveByItself()) return renew();
    if (line.firstChild) return;
    const button = Object.assign(document.createElement("button"), { name: "renew", type: "button", textContent: "Show it", onclick: renew });
    line.append("There is a new version of this page. ", button);
  });
  document.addEventListener("live", () => line.replaceChildren()); // the next server may be of the same build

  for (const press of ["keydown", "pointerdown"]) addEventListener(press, () => { used = performance.now(); }, true);
})();
