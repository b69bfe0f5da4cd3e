// Logs in with a token that this tab keeps, and puts pages in place that need it. Without a token every link and form works
// by itself. After each page in place, the document gets the event "migrate:page".
"use strict";

(() => {
  const KEY = "flask-migrate-mongo.token";
  const prefix = document.body.dataset.prefix;
  const notice = document.getElementById("notice");
  const forget = document.getElementById("forget");

  const token = () => {
    try { return sessionStorage.getItem(KEY); } catch { return null; }
  };

  const keep = (value) => {
    try {
      if (value === null) sessionStorage.removeItem(KEY);
      else sessionStorage.setItem(KEY, value);
    } catch { /* Storage is disabled: the token holds for one page. */ }
    forget.hidden = value === null;
  };

  const say = (text) => {
    notice.textContent = text;
    notice.hidden = text === "";
  };

  // Whether the address is a page of this dashboard; the rest of the application gets no token.
  const isOurs = (url) => url.origin === location.origin && (
    url.pathname === prefix || url.pathname === prefix.replace(/\/$/, "")
    || url.pathname.startsWith(`${prefix}dashboard/`));

  const ask = (url, options = {}, secret = token()) => fetch(url, {
    cache: "no-store",
    credentials: "same-origin",
    ...options,
    headers: { ...(options.headers ?? {}), ...(secret ? { Authorization: `Bearer ${secret}` } : {}) },
  });

  const put = (html, hash) => {
    const made = new DOMParser().parseFromString(html, "text/html");
    const main = made.getElementById("main");
    if (main === null) throw new Error("The answer is no page of the dashboard.");
    document.title = made.title;
    document.getElementById("nav").replaceWith(made.getElementById("nav"));
    document.getElementById("main").replaceWith(main);
    prepare();
    const target = hash ? document.getElementById(decodeURIComponent(hash.slice(1))) : null;
    if (target === null) {
      window.scrollTo(0, 0);
      main.focus({ preventScroll: true });
    } else {
      target.scrollIntoView();
    }
    document.dispatchEvent(new CustomEvent("migrate:page"));
  };

  let asked = 0;
  let here = location.pathname + location.search;

  // Shows the page of an address in place of the present one. If another page is asked for meanwhile, that one counts.
  const open = async (url, options = {}, { secret = token(), push = true } = {}) => {
    const own = ++asked;
    document.body.setAttribute("aria-busy", "true");
    say("");
    try {
      const answer = await ask(url, options, secret);
      const html = await answer.text();
      if (own !== asked) return;
      const shown = new URL(answer.url || url);
      if (!isOurs(shown)) {
        // A login of the application, for instance.
        location.assign(shown.href);
        return;
      }
      if (answer.status === 401) keep(null);
      else if (secret) keep(secret);
      const hash = new URL(url).hash;
      here = shown.pathname + shown.search;
      if (push) history.pushState(null, "", here + hash);
      put(html, hash);
    } catch (error) {
      if (own === asked) say(`The page could not be loaded: ${error.message}. Try again.`);
    } finally {
      if (own === asked) document.body.removeAttribute("aria-busy");
    }
  };

  const prepare = () => {
    const form = document.getElementById("login");
    if (form !== null) form.hidden = false;
    forget.hidden = token() === null;
  };

  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[href]");
    const isPlain = event.button === 0 && !(event.metaKey || event.ctrlKey || event.shiftKey || event.altKey);
    if (link === null || !isPlain || event.defaultPrevented || link.target || token() === null) return;
    const url = new URL(link.href);
    const isHere = url.pathname + url.search === location.pathname + location.search && url.hash;
    if (!isOurs(url) || isHere) return;
    event.preventDefault();
    open(url.href);
  });

  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (form.id === "login") {
      event.preventDefault();
      const given = document.getElementById("token").value.trim();
      const wanted = new URL(location.href);
      wanted.searchParams.delete("login");
      open(wanted.href, {}, { secret: given, push: wanted.href !== location.href });
      return;
    }
    const url = new URL(form.action);
    if (event.defaultPrevented || token() === null || !isOurs(url)) return;
    event.preventDefault();
    const fields = new URLSearchParams(new FormData(form, event.submitter));
    if (form.method === "post") {
      open(url.href, { method: "POST", body: fields });
      return;
    }
    url.search = String(fields);
    open(url.href);
  });

  window.addEventListener("popstate", () => {
    // A link to a place on the same page comes here, too.
    if (token() !== null && location.pathname + location.search !== here) open(location.href, {}, { push: false });
  });

  forget.addEventListener("click", () => {
    keep(null);
    location.assign(prefix);
  });

  // --- a run that has not ended: from its stream of events, or else by loading its page again and again

  const POLL_MS = 2000;
  const STALE_MS = 5000;
  const SILENT_MS = 15000;

  let following = null;

  const follow = () => {
    following?.abort();
    const live = document.getElementById("live");
    if (live === null || live.dataset.page === undefined) return;
    following = new AbortController();
    watch(live, following.signal);
  };

  const wait = (ms, signal) => new Promise((done) => {
    const timer = setTimeout(done, ms);
    signal.addEventListener("abort", () => { clearTimeout(timer); done(); }, { once: true });
  });

  const watch = async (live, signal) => {
    const seen = { heard: Date.now(), received: "0", streams: live.dataset.events !== undefined };
    let attempt = new AbortController();
    const ticking = setInterval(() => {
      const age = Date.now() - seen.heard;
      showAge(age);
      // A connection can be lost without an error.
      if (age > SILENT_MS) attempt.abort();
    }, 1000);
    signal.addEventListener("abort", () => attempt.abort());
    while (!signal.aborted && live.dataset.page !== undefined) {
      attempt = new AbortController();
      try {
        if (seen.streams) {
          await readEvents(live, seen, attempt.signal);
          continue;
        }
        await refresh(live, seen, attempt.signal);
      } catch { /* The next try may succeed; meanwhile the page says that it is not up to date. */ }
      await wait(POLL_MS, signal);
    }
    clearInterval(ticking);
    if (!signal.aborted) showAge(0);
  };

  const readEvents = async (live, seen, signal) => {
    const answer = await ask(live.dataset.events, { headers: { "Last-Event-ID": seen.received }, signal });
    if (answer.status !== 200) {
      // No place for a stream, or no access to it: the page itself is enough.
      seen.streams = false;
      return;
    }
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      seen.heard = Date.now();
      if (done) return;
      const blocks = (rest + value).split("\n\n");
      rest = blocks.pop();
      const events = blocks.filter((block) => !block.startsWith(":"));
      if (events.length > 0) await refresh(live, seen, signal);
      for (const block of events) seen.received = /^id: (\d+)$/m.exec(block)?.[1] ?? seen.received;
    }
  };

  const refresh = async (live, seen, signal) => {
    const answer = await ask(live.dataset.page, { signal });
    const made = new DOMParser().parseFromString(await answer.text(), "text/html");
    const next = made.getElementById("live");
    if (next === null) throw new Error("The answer is no page of a run.");
    seen.heard = Date.now();
    document.title = made.title;
    if (live.dataset.state !== next.dataset.state) announce(`The run is ${next.dataset.state}.`);
    for (const name of ["state", "page", "events"]) {
      if (next.dataset[name] === undefined) delete live.dataset[name];
      else live.dataset[name] = next.dataset[name];
    }
    merge(live, next);
  };

  // Replaces only the parts that have changed: focus, scrolling and what is open stay.
  const merge = (live, next) => {
    const focused = document.activeElement?.id;
    const parts = [...next.children];
    for (const old of [...live.children]) if (!parts.some((part) => part.id === old.id)) old.remove();
    parts.forEach((part, place) => {
      const old = document.getElementById(part.id);
      if (old === null) live.insertBefore(part, live.children[place] ?? null);
      else if (old.outerHTML !== part.outerHTML) replace(old, part);
    });
    if (focused && document.activeElement?.id !== focused) document.getElementById(focused)?.focus({ preventScroll: true });
  };

  const replace = (old, part) => {
    const all = (within, selector) => [...within.querySelectorAll(selector)];
    const opened = all(old, "details").map((each) => each.open);
    const places = all(old, ".scroll").map((each) => [each.scrollLeft, each.scrollTop]);
    old.replaceWith(part);
    all(part, "details").forEach((each, n) => { each.open = opened[n] ?? false; });
    all(part, ".scroll").forEach((each, n) => { [each.scrollLeft, each.scrollTop] = places[n] ?? [0, 0]; });
  };

  const showAge = (age) => {
    const box = document.getElementById("freshness");
    if (box === null) return;
    const isStale = age >= STALE_MS;
    if (isStale && box.hidden) announce("This page is not up to date.");
    box.hidden = !isStale;
    box.textContent = `This page is not up to date: last heard from the server ${Math.round(age / 1000)} s ago. Trying again ...`;
  };

  const announce = (text) => {
    const place = document.getElementById("announcement");
    if (place !== null) place.textContent = text;
  };

  document.addEventListener("migrate:page", follow);

  prepare();
  if (document.getElementById("login") !== null && token() !== null) open(location.href, {}, { push: false });
  follow();
})();
