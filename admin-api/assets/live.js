// Follows the log: asks for the part of the page that changes, which the server answers once it has changed.
// Only parts that differ are replaced, so open details, focus and selections stay. The page works without this.
(() => {
  "use strict";
  document.documentElement.classList.add("scripted");
  const pause = (ms) => new Promise((done) => setTimeout(done, ms));
  const content = () => document.getElementById("content");

  document.getElementById("tenant")?.addEventListener("change", (event) => event.target.form.submit());

  const visible = () =>
    new Promise((done) => document.addEventListener("visibilitychange", done, { once: true }));

  function replace(text) {
    const next = new DOMParser().parseFromString(text, "text/html").getElementById("content");
    const here = content();
    if (!next || !here) return;
    const parts = (root) => [...root.querySelectorAll("[data-part]")];
    const names = (root) => parts(root).map((part) => part.dataset.part).join();
    if (names(next) !== names(here)) {
      here.replaceWith(next);
      return;
    }
    parts(next).forEach((part, n) => {
      const old = parts(here)[n];
      part.querySelectorAll("details").forEach((details, d) => {
        details.open = old.querySelectorAll("details")[d]?.open ?? false;
      });
      if (part.outerHTML !== old.outerHTML && !old.contains(document.activeElement)) old.replaceWith(part);
    });
    here.dataset.seen = next.dataset.seen;
  }

  async function follow() {
    while (content()) {
      if (document.hidden) {
        await visible();
        continue;
      }
      const address = new URL("/live", location.href);
      address.search = location.search;
      address.searchParams.set("seen", content().dataset.seen);
      try {
        const answer = await fetch(address, { credentials: "same-origin" });
        if (answer.status === 401) return location.reload();
        if (answer.status === 200) replace(await answer.text());
        const fine = answer.status === 200 || answer.status === 204;
        document.body.classList.toggle("stale", !fine);
        await pause(fine ? 150 : 3000);
      } catch {
        document.body.classList.add("stale");
        await pause(3000);
      }
    }
  }

  // What a bar holds, beside the pointer; the same words stand in the bar's own title for everybody else.
  const tip = document.createElement("div");
  tip.id = "tip";
  tip.hidden = true;
  document.body.append(tip);
  document.addEventListener("pointermove", (event) => {
    const column = event.target instanceof Element ? event.target.closest(".column") : null;
    const title = column?.querySelector("title");
    if (title?.textContent) {
      column.dataset.tip = title.textContent;
      title.textContent = ""; // Or the browser would show its own beside ours.
    }
    tip.hidden = !column?.dataset.tip;
    if (tip.hidden) return;
    tip.textContent = column.dataset.tip;
    const { width, height } = tip.getBoundingClientRect();
    tip.style.left = `${Math.min(event.clientX + 14, innerWidth - width - 8)}px`;
    tip.style.top = `${Math.max(8, event.clientY - height - 12)}px`;
  });

  follow();
})();
