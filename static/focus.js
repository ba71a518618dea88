// Keeps the keyboard focus where the person has put it, and what they have typed.
//
// After every update the browser client moves the focus back to the text field that had it
// last, even when the person has moved on to a button or a link. This makes it forget a
// field as soon as the person leaves it. It sets an internal of the client,
// focusManager.lastFocusedElement, for which there is no public switch.
//
// While a form is submitted, the client disables its fieldset, and the answer may replace
// the form. Both take the focus away. It returns when the form is answered, or moves to the
// first control of the form that came instead.
//
// An update that changes an attribute of a field without the focus resets its text. That is
// put back, until the form is submitted.
(() => {
  const remember = (field) => {
    const focus = window.liveTemplateClient?.focusManager;
    if (focus && focus.lastFocusedElement !== field) focus.lastFocusedElement = null;
  };
  document.addEventListener("focusin", (event) => remember(event.target));
  document.addEventListener("focusout", (event) => {
    // A field that an update took away may come back, and then keeps the focus.
    if (event.target.isConnected) remember(event.relatedTarget);
  });

  const touch = matchMedia("(pointer: coarse)");
  let submitted; // the control that had the focus in a form, until the form is answered

  const typed = new Map(); // by field
  for (const field of document.querySelectorAll("[data-lvt-id] :is(input, textarea)")) {
    if (field.value !== "") typed.set(field, field.value); // before this script has run
  }
  document.addEventListener("input", ({ target }) => { typed.set(target, target.value); });

  document.addEventListener("submit", ({ target }) => {
    for (const field of target.elements) typed.delete(field);
    submitted = target.contains(document.activeElement) ? document.activeElement : undefined;
  }, true);

  // The client's events do not bubble. A refresh names no action.
  document.addEventListener("lvt:updated", ({ target, detail }) => {
    for (const [field, text] of typed) {
      if (!field.isConnected) typed.delete(field);
      else if (field.value !== text) field.value = text;
    }
    if (detail.action) answered(target);
  }, true);

  // A form that was not answered: the client leaves it disabled if it was a request.
  for (const name of ["uncounted", "unanswered"]) document.addEventListener(name, () => {
    for (const fieldset of document.querySelectorAll("form[aria-busy] fieldset")) fieldset.disabled = false;
    answered(document);
  });

  function answered(place) {
    if (!submitted) return;
    const before = submitted;
    submitted = undefined;
    queueMicrotask(() => { // the client enables the form first
      if (document.activeElement !== document.body) return;
      const next = before.isConnected ? before : place.querySelector("form :is(input:not([type=hidden]), textarea, select, button)");
      // On a phone, a text field that gets the focus opens the keyboard.
      if (next === before || next?.matches("button") || !touch.matches) next?.focus({ preventScroll: true });
    });
  }
})();
