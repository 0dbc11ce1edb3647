// A list of any number of rows: only those in the window exist as elements.

const MAX_HEIGHT = 15_000_000; // pixels; browsers limit the height of an element

class VirtualList {
  constructor(container, { makeRow, fillRow, onSelect }) {
    this.container = container;
    this.makeRow = makeRow;
    this.fillRow = fillRow;
    this.onSelect = onSelect;
    this.rows = new Uint32Array(0);
    this.selected = -1;
    this.elements = [];
    this.space = document.createElement("div");
    container.append(this.space);
    container.addEventListener("scroll", () => this.draw(), { passive: true });
    container.addEventListener("click", (event) => {
      const element = event.target.closest(".row");
      if (element) this.select(Number(element.dataset.position));
    });
    new ResizeObserver(() => this.draw()).observe(container);
  }

  get rowHeight() {
    return parseFloat(getComputedStyle(this.container).getPropertyValue("--row")) || 36;
  }

  show(rows) {
    this.rows = rows;
    this.selected = -1;
    this.container.scrollTop = 0;
    this.draw();
  }

  // Pixels of the list for each pixel of scrolling: more than 1 only for very long lists.
  get scale() {
    const window = this.container.clientHeight;
    const height = this.rows.length * this.rowHeight;
    return Math.max(1, (height - window) / (Math.min(height, MAX_HEIGHT) - window));
  }

  draw() {
    const height = this.rowHeight;
    this.space.style.height = `${Math.min(this.rows.length * height, MAX_HEIGHT)}px`;
    const { scrollTop } = this.container;
    const shift = scrollTop * (this.scale - 1);
    const first = Math.floor((scrollTop + shift) / height);
    const visible = Math.ceil(this.container.clientHeight / height) + 1;
    const count = Math.max(0, Math.min(visible, this.rows.length - first));
    while (this.elements.length < count) {
      const element = this.makeRow();
      element.classList.add("row");
      element.setAttribute("role", "option");
      this.elements.push(element);
      this.container.append(element);
    }
    this.elements.splice(count).forEach((element) => element.remove());
    this.elements.forEach((element, number) => {
      const position = first + number;
      element.style.top = `${position * height - shift}px`;
      element.dataset.position = position;
      element.id = `row-${position}`;
      element.setAttribute("aria-selected", position === this.selected);
      this.fillRow(element, this.rows[position]);
    });
  }

  select(position, { scroll = false } = {}) {
    if (!this.rows.length) return;
    this.selected = Math.max(0, Math.min(position, this.rows.length - 1));
    if (scroll) this.reveal();
    this.draw();
    this.container.setAttribute("aria-activedescendant", `row-${this.selected}`);
    this.onSelect(this.rows[this.selected]);
  }

  reveal() {
    const height = this.rowHeight;
    const { scale } = this;
    const top = this.selected * height;
    const { scrollTop, clientHeight } = this.container;
    const shown = scrollTop * scale;
    if (top < shown) this.container.scrollTop = top / scale;
    if (top + height > shown + clientHeight) {
      this.container.scrollTop = Math.ceil((top + height - clientHeight) / scale);
    }
  }

  // Moves the selection by a key; returns whether the key was one of the list's.
  move(key) {
    const page = Math.max(1, Math.floor(this.container.clientHeight / this.rowHeight) - 1);
    const steps = { ArrowDown: 1, j: 1, ArrowUp: -1, k: -1, PageDown: page, PageUp: -page };
    if (key in steps) this.select(this.selected + steps[key], { scroll: true });
    else if (key === "Home") this.select(0, { scroll: true });
    else if (key === "End") this.select(this.rows.length - 1, { scroll: true });
    else return false;
    return true;
  }
}
