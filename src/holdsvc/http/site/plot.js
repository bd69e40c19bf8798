// Units taken and given back in each second of the last minutes, as bars up and down.

const SECONDS = 300;

export class Flow {
  constructor() {
    this.taken = new Float64Array(SECONDS);
    this.back = new Float64Array(SECONDS);
    this.now = Math.floor(Date.now() / 1000);
  }

  /** Counts a change of an item's free units: below 0 they were taken. */
  add(change) {
    this.advance();
    const at = this.now % SECONDS;
    if (change < 0) this.taken[at] -= change;
    else this.back[at] += change;
  }

  /** Forgets what is older than the plot. */
  advance() {
    const now = Math.floor(Date.now() / 1000);
    for (let second = Math.max(this.now + 1, now - SECONDS + 1); second <= now; second += 1) {
      this.taken[second % SECONDS] = 0;
      this.back[second % SECONDS] = 0;
    }
    this.now = now;
  }

  /** The sum of the last seconds, the present one left out. */
  sum(which, seconds) {
    let sum = 0;
    for (let ago = 1; ago <= seconds; ago += 1) sum += this[which][(this.now - ago + SECONDS) % SECONDS];
    return sum;
  }

  draw(canvas) {
    this.advance();
    const ratio = devicePixelRatio || 1;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    if (!width) return;
    canvas.width = width * ratio;
    canvas.height = height * ratio;
    const pen = canvas.getContext("2d");
    pen.scale(ratio, ratio);
    const colours = getComputedStyle(canvas);
    const most = Math.max(1, ...this.taken, ...this.back);
    const middle = height / 2;
    const step = width / SECONDS;
    for (let ago = 0; ago < SECONDS; ago += 1) {
      const at = (this.now - ago + SECONDS) % SECONDS;
      const x = width - (ago + 1) * step;
      const [up, down] = [this.taken[at], this.back[at]].map((units) => ((middle - 10) * units) / most);
      pen.fillStyle = colours.getPropertyValue("--held");
      pen.fillRect(x, middle - up, Math.max(1, step - 0.5), up);
      pen.fillStyle = colours.getPropertyValue("--free");
      pen.fillRect(x, middle, Math.max(1, step - 0.5), down);
    }
    pen.fillStyle = colours.getPropertyValue("--line");
    pen.fillRect(0, middle, width, 1);
    pen.fillStyle = colours.getPropertyValue("--quiet");
    pen.font = "11px system-ui";
    pen.fillText(`${most.toLocaleString()} a second taken`, 4, 10);
    pen.fillText("given back", 4, height - 3);
    pen.textAlign = "right";
    pen.fillText("now", width - 4, height - 3);
    pen.textAlign = "center";
    pen.fillText("5 minutes", width / 2, height - 3);
  }
}
