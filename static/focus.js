// After every update the browser client moves the focus back to the text field
// that had it last, even when the person has moved on to a button or a link.
// This makes it forget a field as soon as the person leaves it.
//
// It sets an internal of the client, focusManager.lastFocusedElement, for which
// there is no public switch. TestBrowser_UpdateNeverMovesFocus guards it, and
// docs/framework.md lists it.
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
})();
