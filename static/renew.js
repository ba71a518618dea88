// Reloads a page when its server is of another build: then its fixed text, styles and scripts
// are stale, while its live part is not. It reloads by itself where nothing would be lost.
// Otherwise a line says so, with a button.
//
// A tab leaves a build by itself only once, and only if the server says that another would
// come: a balancer between servers of two builds cannot send it back and forth, and a
// version that does not start does not take its place.
(() => {
  const idle = 5000; // milliseconds since the last key or press, or the page was loaded, after which a tab is not in use
  const line = document.getElementById("renew"), notice = document.getElementById("notice");
  const { build } = document.documentElement.dataset;
  let used = 0;
  let control; // the name of the control in the live part that had the focus last

  // The frames of a tab share its storage.
  const frame = window === window.top ? "" : ` in ${window.name}`;
  const keep = (key, value) => sessionStorage.setItem(key + frame, JSON.stringify(value));
  const kept = (key) => JSON.parse(sessionStorage.getItem(key + frame));

  const fields = () => [...document.querySelectorAll("[data-lvt-id] :is(input:not([type=hidden]), textarea)")];
  const inUse = () => performance.now() - used < idle || notice.textContent !== "" || fields().some(({ value }) => value !== "") ||
    getSelection().type === "Range" || Boolean(document.querySelector("details[open]"));

  function hasLeft() {
    try {
      return kept("left-builds")?.includes(build);
    } catch {
      return true; // the browser blocks site data, so the page would forget that it has left
    }
  }

  async function wouldBeNew() {
    try {
      const { ok, headers } = await fetch(location.href, { method: "HEAD", cache: "no-store" });
      return ok && ![null, build].includes(headers.get("Page-Build"));
    } catch {
      return false;
    }
  }

  document.addEventListener("outdated", async ({ detail }) => {
    if (!detail) line.replaceChildren();
    else if (hasLeft() || inUse()) offer();
    else if (await wouldBeNew() && !inUse()) {
      keep("left-builds", [...kept("left-builds") ?? [], build]);
      renew();
    }
  });
  document.addEventListener("live", () => line.replaceChildren()); // the next server may be of the same build

  function offer() {
    if (line.firstChild) return;
    const button = Object.assign(document.createElement("button"), { type: "button", name: "renew", textContent: "Show it", onclick: renew });
    line.append("There is a new version of this page. ", button);
  }

  // Until the new page comes, the person may go on typing.
  function renew() {
    addEventListener("pagehide", takeAlong);
    location.reload();
  }
  function takeAlong() {
    try {
      keep("taken-along", { control, typed: fields().map(({ value }) => value) });
    } catch {
      // The browser blocks site data.
    }
  }
  function putBack({ control, typed }) {
    sessionStorage.removeItem("taken-along" + frame);
    fields().forEach((field, i) => { field.value ||= typed[i] ?? ""; });
    // A tab that joins again gets the button to leave with its second update.
    if (control) document.addEventListener("lvt:updated", function refocus() {
      const again = document.querySelector(`[data-lvt-id] [name="${CSS.escape(control)}"]`);
      if (!again) return;
      document.removeEventListener("lvt:updated", refocus, true);
      if (document.activeElement === document.body) again.focus({ preventScroll: true });
    }, true);
  }
  try {
    const taken = kept("taken-along");
    if (taken) putBack(taken);
  } catch {
    // The browser blocks site data.
  }

  for (const press of ["keydown", "pointerdown"]) addEventListener(press, () => { used = performance.now(); }, true);
  document.addEventListener("focusin", ({ target }) => { if (target.closest("[data-lvt-id]")) control = target.name; });
  document.addEventListener("focusout", ({ relatedTarget }) => { if (!line.contains(relatedTarget)) control = undefined; });
})();
