// The controls that filter: chips with counts, and ranges over histograms.

const BINS = 60;

// Buttons, of which any number can be pressed.
class Chips {
  constructor(fieldset, names, { colour, title, onChange }) {
    this.buttons = names.map((name) => {
      const button = makeElement("button", "chip");
      button.type = "button";
      button.dir = "auto";
      if (colour) {
        const swatch = makeElement("i", "swatch");
        swatch.style.background = colour(name);
        button.append(swatch);
      }
      button.append(makeElement("span", "", name), makeElement("b"));
      button.title = title ? title(name) : name;
      button.addEventListener("click", () => onChange(name));
      fieldset.append(button);
      return [name, button];
    });
    fieldset.hidden = names.length < 2;
  }

  show(pressed, counts) {
    for (const [name, button] of this.buttons) {
      button.setAttribute("aria-pressed", pressed.has(name));
      button.lastChild.textContent = formatCount(counts.get(name) ?? 0);
    }
  }
}

function histogram(values, rows, [low, high]) {
  const counts = new Uint32Array(BINS);
  const scale = BINS / (high - low);
  const add = (value) => {
    if (!(value >= low && value <= high)) return;
    counts[Math.min(BINS - 1, Math.floor((value - low) * scale))]++;
  };
  if (rows === null) for (const value of values) add(value);
  else for (const row of rows) add(values[row]);
  return counts;
}

// Two handles over a histogram; the range is given as shares of the extent.
class RangeFilter {
  constructor(fieldset, values, extentOfValues, format, onChange) {
    this.fieldset = fieldset;
    this.values = values;
    this.extent = extentOfValues;
    this.format = format;
    this.all = histogram(values, null, extentOfValues);
    this.canvas = makeElement("canvas", "histogram");
    this.handles = ["lowest", "highest"].map((name) => {
      const input = makeElement("input");
      Object.assign(input, { type: "range", min: 0, max: 1, step: 0.01 });
      input.setAttribute("aria-label", `${name} ${fieldset.id}`);
      input.addEventListener("input", () => onChange(this.read()));
      return input;
    });
    fieldset.append(this.canvas, ...this.handles);
  }

  read() {
    const shares = this.handles.map((input) => Number(input.value));
    return [Math.min(...shares), Math.max(...shares)];
  }

  show(range, selectedRows) {
    const [low, high] = this.extent;
    if (this.read().join() !== range.join()) {
      this.handles.forEach((input, number) => { input.value = range[number]; });
    }
    const texts = range.map((share) => this.format(low + share * (high - low)));
    this.fieldset.querySelector("output").textContent = `${texts[0]} to ${texts[1]}`;
    this.draw(range, histogram(this.values, selectedRows, this.extent));
  }

  draw([low, high], selected) {
    const { context, width, height } = fitCanvas(this.canvas);
    const largest = Math.sqrt(Math.max(1, ...this.all));
    const bar = width / BINS;
    const paint = (counts, colour) => {
      context.fillStyle = colour;
      counts.forEach((count, bin) => {
        const size = (Math.sqrt(count) / largest) * height; // roots keep small bins visible
        context.fillRect(bin * bar, height - size, Math.max(1, bar - 1), size);
      });
    };
    paint(this.all, cssColour("--line"));
    paint(selected, cssColour("--accent"));
    context.fillStyle = cssColour("--text");
    for (const share of [low, high]) context.fillRect(share * (width - 1), 0, 1, height);
  }
}
