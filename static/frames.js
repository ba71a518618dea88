// Puts each demo into its frame when that comes into view: each is a live connection.
// One after the other, each when the page has nothing else to do, or after a second.
(() => {
  const idle = window.requestIdleCallback ?? setTimeout; // Safari has none
  let last = Promise.resolve(); // settled when the last frame has loaded

  const inView = new IntersectionObserver((places) => {
    for (const { isIntersecting, target } of places) {
      if (!isIntersecting) continue;
      inView.unobserve(target);
      last = last.then(() => new Promise((loaded) => idle(() => {
        const { src, name, title } = target.dataset;
        target.append(Object.assign(document.createElement("iframe"), { name, title, src, onload: loaded }));
      }, { timeout: 1000 })));
    }
  }, { threshold: 0.5 });
  for (const place of document.querySelectorAll("[data-src]")) inView.observe(place);
})();
