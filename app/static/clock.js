// Working time: the page is visible, and a pause counts for at most one minute.
const IDLE_MS = 60_000;

export class Clock {
  #active = 0;
  #last = performance.now();

  constructor() {
    for (const kind of ["pointerdown", "pointermove", "keydown", "wheel"]) {
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
    if (document.visibilityState === "visible") this.#active += Math.min(now - this.#last, IDLE_MS);
    this.#last = now;
  }
}
