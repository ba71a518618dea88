// Puts each demo into its frame when that comes into view: each is a live connection.
// One after the other, when the page has nothing else to do.
(() => {
  const idle = window.requestIdleCallback ?? setTimeout; // Safari has none

  const inView = new IntersectionObserver((places) => {
    for (const { isIntersecting, target } of places) {
      if (!isIntersecting) continue;
      inView.unobserve(target);
      idle(() => {
        const { src, name, title } = target.dataset;
        const frame = Object.assign(document.createElement("iframe"), { name, title, src });
        target.append(frame);
      });
    }
  }, { threshold: 0.5 });
  for (const place of document.querySelectorAll("[data-src]")) inView.observe(place);
})();
