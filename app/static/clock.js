// Working time on the open study: the review is visible, and a pause counts for at most one minute.
const IDLE_MS = 60_000;

export class Clock {
  #active = 0;
  #last = performance.now();
  #worked = document.visibilityState === "visible"; // at the last tick

  constructor() {
    for (const kind of ["pointerdown", "pointermove", "keydown", "wheel", "visibilitychange"]) {
      addEventListener(kind, () => this.#tick(), { passive: true, capture: true });
    }
  }

  /** Return the seconds of work since the last call. */
  take() {
    this.#tick();
    const seconds = this.#active / 1000;
    this.#active = 0;
    return Math.round(seconds * 10) / 10;
  }

  #tick() {
    const now = performance.now();
    const reviewing = (document.body?.dataset.tab ?? "review") === "review"; // not the worklist or the statistics
    if (this.#worked && reviewing) this.#active += Math.min(now - this.#last, IDLE_MS);
    this.#worked = reviewing && document.visibilityState === "visible";
    this.#last = now;
  }
}
